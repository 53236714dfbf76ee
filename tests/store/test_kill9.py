"""Killed at any point, the store has everything that it acknowledged, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from tests.contracts import store_suite_approvals as approvals
from tests.fakes import build
from tests.fakes.entropy import SeededEntropy
from tests.store.audit import audit
from tests.store.opened import Opened

from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.start import open_store

ROOT = Path(__file__).parents[2]


async def run_and_kill(path: Path, seed: int, life_s: float) -> list[str]:
    """The lines of one child that lived for so long after its store was open."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.store.loaded",
        str(path),
        str(seed),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    first = await child.stdout.readline()
    assert first.startswith(b"up "), first
    reading = asyncio.ensure_future(child.stdout.read())
    await asyncio.sleep(life_s)
    assert child.returncode is None, await reading
    child.send_signal(signal.SIGKILL)
    lines = (await reading).decode().splitlines()
    await child.wait()
    assert not [line for line in lines if line.startswith("broken")]
    return lines


async def sweep_after_restart(path: Path, seed: int) -> None:
    store = open_store(path, log=SqliteLog(), entropy=SeededEntropy(seed))
    store.use(build.limits(), lambda: 0)
    await store.reap(time.time())
    await store.close()


async def kill_many(path: Path, kills: int, seed: int) -> int:
    """So many kills of one file's stores, each audited from outside; how much was acknowledged."""
    chance, told = random.Random(seed), []
    for at in range(kills):
        told += await run_and_kill(path, seed * 10_000 + at, chance.uniform(0.01, 0.35))
        assert audit(path, told) == [], f"kill {at} of seed {seed}"
    await sweep_after_restart(path, seed)
    assert audit(path, told, is_swept=True) == []
    return len(told)


async def test_a_handful_of_kills_lose_nothing_and_spend_nothing_twice(tmp_path: Path) -> None:
    assert await kill_many(tmp_path / "store.db", kills=10, seed=1) > 100


@pytest.mark.live
@pytest.mark.slow
async def test_hundreds_of_kills_lose_nothing_and_spend_nothing_twice(tmp_path: Path) -> None:
    for seed in range(2, 12):
        assert await kill_many(tmp_path / f"store{seed}.db", kills=25, seed=seed) > 500


class TestTheAudit:
    """The audit itself: each violation, planted in a file that is right, is found."""

    @pytest.fixture
    async def told(self, opened: Opened) -> list[str]:
        record = await opened.house.accepted()
        grant = await opened.house.spent(record)
        over = await opened.house.issued(record, plan_line=1)
        await opened.store.move(opened.make.move(record, "close"))
        step = opened.make.child_step(
            await opened.house.root(), approve_by=opened.make.now + 600, expires_at=opened.make.now + 900
        )
        wanted = approvals.ask(opened.make, step)
        pending = await opened.store.open(opened.make.open(step, ask=wanted))
        await opened.store.approvals.sign(approvals.signing(opened.make, wanted.asked))
        await opened.store.accept(opened.make.accept(pending))
        other = await opened.house.accepted()
        await opened.store.mark(opened.make.mark(f"step:{other.step.id}"))
        await opened.store.within(lambda conn: conn.execute("PRAGMA user_version").fetchone())
        told = [
            f"redeemed {grant.id}",
            f"issued {over.id}",
            f"opened {other.step.id}",
            f"closed {record.step.id}",
            *(f"{what} {wanted.asked.id}" for what in ("asked", "given", "used")),
            f"marked step:{other.step.id}",
        ]
        assert audit(opened.path, told, is_swept=True) == []
        return told

    @pytest.mark.parametrize(
        ("planted", "found"),
        [
            ("DELETE FROM entries WHERE seq = 2", "stands at"),
            (
                "UPDATE entries SET body = CAST(replace(body, 'acme', 'acmf') AS BLOB) WHERE seq = 1",
                "not what its leaf says",
            ),
            ("DELETE FROM grants", "no row for the credential"),
            ("UPDATE grants SET state = 'redeemed'", "spent without an entry"),
            ("UPDATE grants SET state = 'closed'", "its row does not"),
            ("UPDATE grants SET state = 'issued' WHERE state = 'closed'", "never ended"),
            ("UPDATE steps SET state = 'accepted'", "lost: closed"),
            ("DELETE FROM steps", "lost: opened"),
            ("DELETE FROM marks", "lost: marked"),
            ("UPDATE approvals SET state = 'given'", "its entry and its row differ"),
            ("UPDATE approvals SET state = 'asked'", "a step runs without its approval"),
        ],
    )
    def test_it_finds_what_was_changed(
        self, opened: Opened, told: list[str], planted: str, found: str
    ) -> None:
        plant(opened.path, lambda conn: conn.execute(planted))
        assert found in " ".join(audit(opened.path, told, is_swept=True))

    @pytest.mark.parametrize(
        ("kind", "found"),
        [
            ("grant.redeemed", "spent twice"),
            ("grant.issued", "issued twice"),
            ("approval.used", "approval.used twice"),
        ],
    )
    def test_it_finds_what_was_done_twice(
        self, opened: Opened, told: list[str], kind: str, found: str
    ) -> None:
        def again(conn: sqlite3.Connection) -> None:
            size = conn.execute("SELECT count(*) FROM entries").fetchone()[0]
            at, leaf, body = conn.execute(
                "SELECT at, leaf, body FROM entries WHERE kind = ?", (kind,)
            ).fetchone()
            conn.execute(
                "INSERT INTO entries (seq, at, kind, leaf, body) VALUES (?, ?, ?, ?, ?)",
                (size, at, kind, leaf, body),
            )

        plant(opened.path, again)
        assert found in " ".join(audit(opened.path, told))

    def test_it_finds_a_lost_redeem_and_a_credential_without_an_entry(
        self, opened: Opened, told: list[str]
    ) -> None:
        def rewrite(conn: sqlite3.Connection) -> None:
            for seq, raw in conn.execute(
                "SELECT seq, body FROM entries WHERE kind LIKE 'grant.%'"
            ).fetchall():
                body = json.dumps({**json.loads(raw), "kind": "refused"}).encode()
                leaf = sha256(b"\x00" + body).digest()
                conn.execute("UPDATE entries SET body = ?, leaf = ? WHERE seq = ?", (body, leaf, seq))

        plant(opened.path, rewrite)
        said = " ".join(audit(opened.path, told))
        assert "lost: redeemed" in said
        assert "no entry for the credential" in said


def plant(path: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        change(conn)
