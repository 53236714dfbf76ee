"""`stepwrit fleet carry` on real engines: what outlives the move from a broker that stood alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, cli
from tests.fakes.build import Maker
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy
from tests.fleet.conftest import connected
from tests.rigs.engines import ACCEPTED, Engines, engines
from typer.testing import Result

from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.config import load_config
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.flows.house import requester_of
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_approval import DecideCommand, ProposeCommand
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store, own_secret
from stepwrit_broker.wiring.configured import settings_of
from stepwrit_broker.wiring.fleet import FleetBacking

__all__ = ["cli"]
pytestmark = pytest.mark.live
ALICE = Identity("https://idp.example", "alice")
SECRET = bytes(range(32))
MARKS = (
    ("freeze", "tool:mail/send"),
    ("revoke", "workload:spiffe://prod.example/gone"),
    ("freeze", f"requester:{requester_of(SECRET, ALICE.issuer, ALICE.subject).opaque}"),
)
ENDED = ("revoke", "txn:txn_100K7Z3P4V6WX9Y2B5D8F1H3J4")


def key(name: str, **more: object) -> Authenticator:
    made = Authenticator(
        id=f"aut_{name}",
        owner=ALICE,
        kind="passkey",
        public_key=f'{{"k":"{name}"}}',
        credential=name,
        sign_count=7,
    )
    return replace(made, **more)  # type: ignore[arg-type]


async def alone(path: Path) -> None:
    """The database of a broker that stood alone."""
    log, make = SqliteLog(), Maker(now=START)
    store = open_store(path, log=log, entropy=SeededEntropy(3))
    await store.within(partial(own_secret, made=SECRET))
    await store.within(lambda conn: log.name_log(conn, "old.example"))
    for verb, target in (*MARKS, ENDED):
        await store.mark(make.mark(target, verb))
    for name, verbs in (("new", ()), ("active", ("approve",)), ("old", ("approve", "retire"))):
        await _enrol(store, make, name, verbs)
    await store.close()


async def _enrol(store: SqliteStore, make: Maker, name: str, verbs: tuple[str, ...]) -> None:
    await store.approvals.propose(
        ProposeCommand(
            authenticator=key(name), who="per_1", proofs=(), evidence=Evidence(), ref=make.ref(), now=START
        )
    )
    for verb in verbs:
        command = DecideCommand(
            authenticator=f"aut_{name}",
            verb=verb,
            by="ops",
            reason="r",
            who="per_1",
            ref=make.ref(),
            now=START,
        )  # type: ignore[arg-type]
        await store.approvals.decide(command)


@dataclass
class Move:
    """From one database to an empty fleet."""

    cli: Cli
    both: Engines
    folder: Path

    @property
    def old(self) -> Path:
        return self.folder / "stepwrit.db"

    @property
    def toml(self) -> Path:
        path = self.folder / "broker.toml"
        accept = json.dumps(list(ACCEPTED))
        path.write_text(
            'trust_domain = "prod.example"\nissuer = "https://b.example:8444"\nspiffe_socket = "unix:///none"\n'
            f'[store]\npath = "{self.old}"\nanchor = "{self.folder}/fleet/anchor"\n'
            f'[ledger]\norigin = "new.example"\nkey_file = "{self.folder}/fleet/ledger.key"\n'
            f'[fleet]\nredis = "{self.both.redis.url}"\npostgres = "{self.both.postgres.dsn}"\nshards = 4\n'
            f"accept = {accept}\n"
        )
        return path

    async def carry(self, source: Path | None = None) -> Result:
        words = ("fleet", "carry", "--config", self.toml, "--from", source or self.old)
        return await asyncio.to_thread(self.cli, *words)

    @asynccontextmanager
    async def backing(self) -> AsyncGenerator[FleetBacking]:
        """What the fleet's first broker stands on."""
        async with AsyncExitStack() as stack:
            made = FleetBacking(
                settings_of(load_config(self.toml, env={})),
                clock=SystemClock(),
                entropy=SystemEntropy(),
                metrics=Metrics(),
                stack=stack,
            )
            await made.open()
            yield made


@pytest.fixture
async def move(cli: Cli, tmp_path: Path) -> AsyncGenerator[Move]:
    await alone(tmp_path / "stepwrit.db")
    async with engines(tmp_path) as both:
        yield Move(cli, both, tmp_path)


async def test_marks_keys_and_names_are_carried_and_told_in_the_new_log(move: Move) -> None:
    before = move.old.read_bytes()
    said = await move.carry()
    assert said.exit_code == 0, said.output
    assert "3 marks, 3 authenticators" in said.stdout
    assert "left behind: 1 marks" in said.stdout
    assert move.old.read_bytes() == before
    assert SECRET.hex() not in said.output
    async with move.backing() as backing:
        assert backing.secret == SECRET
        standing = backing.store.marks()
        assert {(mark.verb, target) for target, mark in standing.items()} == set(MARKS)
        with closing(sqlite3.connect(move.old)) as conn:
            old = conn.execute("SELECT target, by, reason, at, ref FROM marks").fetchall()
        assert {(m.target, m.by, m.reason, m.at, m.ref) for m in standing.values()} < set(old)
        found = {each.id: each for each in await backing.store.approvals.authenticators(ALICE)}
    assert {name: each.state for name, each in found.items()} == {
        "aut_new": "proposed", "aut_active": "active", "aut_old": "retired",
    }  # fmt: skip
    assert (found["aut_active"].public_key, found["aut_active"].sign_count) == ('{"k":"active"}', 7)
    async with connected(move.both.postgres.dsn) as conn:
        rows = await conn.fetch(
            "SELECT body FROM stepwrit.ledger_bodies JOIN stepwrit.ledger_entries USING (month, seq)"
            " WHERE kind = 'fleet.carried' UNION ALL"  # in the log, or durable and next in line
            " SELECT body FROM stepwrit.outbox WHERE kind = 'fleet.carried'"
        )
    (told,) = (json.loads(row["body"]) for row in rows)
    assert (told["origin"], told["size"] > 0, len(told["root"])) == ("old.example", True, 64)


async def test_what_is_repeated_carries_nothing_twice(move: Move) -> None:
    for _ in range(2):
        said = await move.carry()
        assert said.exit_code == 0, said.output
    async with move.backing() as backing:
        assert len(backing.store.marks()) == len(MARKS)
        assert len(await backing.store.approvals.authenticators(ALICE)) == 3


async def test_it_is_refused_while_the_old_broker_runs_and_once_the_fleet_has_served(move: Move) -> None:
    running = open_store(move.old, log=SqliteLog(), entropy=SeededEntropy(3))
    held = await move.carry()
    assert held.exit_code == 3
    assert "another process has this store open" in held.stderr
    await running.close()
    other = move.folder / "other.db"
    other.write_bytes(move.old.read_bytes())
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("UPDATE meta SET value = ? WHERE name = 'pepper'", ("ab" * 32,))
        conn.commit()
    (move.folder / "no.db").write_bytes(b"no database at all, but long enough to look like one" * 99)
    assert (await move.carry(move.folder / "no.db")).exit_code == 1
    assert (await move.carry()).exit_code == 0
    second = await move.carry(other)
    assert second.exit_code == 1
    assert "carries on from another broker" in second.stderr


async def test_a_fleet_that_has_served_takes_nothing_over(move: Move) -> None:
    async with move.backing():
        pass
    async with connected(move.both.postgres.dsn) as conn:
        await conn.execute(
            "INSERT INTO stepwrit.versions VALUES ('limits', 1, 'd', 's', '{}', 'b', 'r', 0, 'REF')"
        )
    late = await move.carry()
    assert late.exit_code == 1
    assert "has served already" in late.stderr
    async with connected(move.both.postgres.dsn) as conn:
        assert not await conn.fetchval("SELECT count(*) FROM stepwrit.marks")
        assert not await conn.fetchval("SELECT count(*) FROM stepwrit.secrets WHERE name = 'house'")
