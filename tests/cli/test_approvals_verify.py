"""`stepwrit approvals verify` on a real broker's files: a database, exports, and what lies beside them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.fakes.approver import ApprovalStage, Approver
from tests.fakes.stage import ISSUER, Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A stopped broker's files, and two approvals in them: one that ran, one that alice denied."""

    db: Path
    vkey: str
    ran: str
    ref: str
    denied: str


async def _made(folder: Path) -> Log:
    async with ApprovalStage() as stage:
        news, alice = await stage.asked(), await Approver.registered(stage, "alice")
        (await alice.sign(news["id"])).ok()
        body = (await stage.polled(news)).ok()
        opened = Opened(
            step=body["step"],
            txn=body["txn"],
            token=body["token"],
            args={"n": "1"},
            by=await stage.actor("agent/chat"),
        )
        (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
        other = await stage.asked()
        (await stage.admin("POST", f"/v1/admin/approvals/{other['id']}/cancel", {"reason": "no"})).ok()
        await stage.broker.backing.checkpoint()
        vkey = stage.broker.backing.vkey
        await stage.stop()
        for each in (stage.folder / "store").iterdir():
            shutil.copy(each, folder / each.name)
        await stage.start()
    return Log(db=folder / "stepwrit.db", vkey=vkey, ran=news["id"], ref=body["ref"], denied=other["id"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return asyncio.run(_made(tmp_path_factory.mktemp("log")))


@pytest.fixture
def log(made: Log, tmp_path: Path) -> Log:
    """A copy of its own for each test."""
    shutil.copytree(made.db.parent, tmp_path / "log")
    return Log(
        db=tmp_path / "log" / "stepwrit.db", vkey=made.vkey, ran=made.ran, ref=made.ref, denied=made.denied
    )


def changed(db: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(db)) as conn:
        assert conn.execute(statement, values).rowcount > 0
        conn.commit()


def test_a_database_proves_its_approvals(cli: Cli, log: Log) -> None:
    result = cli("approvals", "verify", "--db", log.db, "--key", log.vkey, "--issuer", ISSUER)
    assert result.exit_code == 0, result.stderr
    assert "✓ holds  ledger/wipe, used" in result.stdout
    assert "✓ holds  ledger/wipe, cancelled" in result.stdout
    assert "signed by key with aut_" in result.stdout
    assert "2 approvals: 2 hold, 0 hold as far as they can be verified, 0 do not" in result.stdout
    [one] = json.loads(
        cli("approvals", "verify", log.ran, "--db", log.db, "--key", log.vkey, "--json").stdout
    )
    assert (one["approval"], one["verdict"], one["state"], one["signed"]) == (log.ran, "holds", "used", 1)
    by_ref = json.loads(
        cli("approvals", "verify", log.ref, "--db", log.db, "--key", log.vkey, "--json").stdout
    )
    assert [each["approval"] for each in by_ref] == [log.ran]
    assert cli("approvals", "verify", "nothing", "--db", log.db, "--key", log.vkey).exit_code == 1


def test_another_broker_is_another_broker(cli: Cli, log: Log) -> None:
    result = cli(
        "approvals", "verify", log.ran, "--db", log.db, "--key", log.vkey, "--issuer", "https://x.example"
    )
    assert result.exit_code == 1
    assert "the statement was made for another broker" in result.stdout


def test_an_export_with_its_documents_is_enough(cli: Cli, log: Log, tmp_path: Path) -> None:
    export, documents = tmp_path / "log.jsonl", tmp_path / "docs.jsonl"
    wrote = cli("ledger", "export", export, "--db", log.db, "--key", log.vkey, "--documents", documents)
    assert wrote.exit_code == 0, wrote.stderr
    assert "2 documents of approvals; they name persons" in wrote.stdout
    assert documents.stat().st_mode & 0o777 == 0o600
    args = ("approvals", "verify", "--export", export, "--key", log.vkey, "--issuer", ISSUER)
    with_them = cli(*args, "--documents", documents)
    assert with_them.exit_code == 0
    assert "2 hold, 0 hold as far" in with_them.stdout
    alone = cli(*args)
    assert alone.exit_code == 0
    assert "0 hold, 2 hold as far as they can be verified" in alone.stdout
    assert "known by its digest only (erased, or not given along)" in alone.stdout
    assert cli(*args, "--documents", export).exit_code == 1  # another kind of file
    again = cli(
        "ledger", "export", tmp_path / "x", "--db", log.db, "--key", log.vkey, "--documents", documents
    )
    assert again.exit_code == 1  # nothing is overwritten


def test_documents_of_somebody_elses_making_are_found(cli: Cli, log: Log, tmp_path: Path) -> None:
    export, documents = tmp_path / "log.jsonl", tmp_path / "docs.jsonl"
    cli("ledger", "export", export, "--db", log.db, "--key", log.vkey, "--documents", documents)
    head, *lines = documents.read_text().splitlines()
    first, second = (json.loads(each) for each in lines)
    first["doc"], second["doc"] = second["doc"], first["doc"]
    documents.write_text("\n".join([head, json.dumps(first), json.dumps(second), ""]))
    args = ("approvals", "verify", "--export", export, "--key", log.vkey)
    result = cli(*args, "--documents", documents)
    assert result.exit_code == 1
    assert "the document beside the log is not the one that was asked for" in result.stdout


def test_a_part_of_the_log_tells_what_stands_elsewhere(cli: Cli, log: Log, tmp_path: Path) -> None:
    with closing(sqlite3.connect(log.db)) as conn:
        seq = conn.execute("SELECT max(seq) FROM entries WHERE kind = 'authenticator.approved'").fetchone()[0]
        asked = conn.execute("SELECT min(seq) FROM entries WHERE kind = 'approval.asked'").fetchone()[0]
    parts = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    cut = min(seq, asked)  # the approval and its key are not in the first part
    for path, span in zip(parts, (("--upto", cut), ("--first", cut)), strict=True):
        assert cli("ledger", "export", path, "--db", log.db, "--key", log.vkey, *span).exit_code == 0
    both = [each for path in reversed(parts) for each in ("--export", path)]
    whole = cli("approvals", "verify", *both, "--key", log.vkey)
    assert "2 approvals" in whole.stdout
    assert whole.exit_code == 0


def test_a_log_that_is_not_whole_is_no_evidence(cli: Cli, log: Log) -> None:
    assert cli("approvals", "verify", "--db", log.db, "--key", log.vkey).exit_code == 0
    changed(
        log.db,
        "UPDATE entries SET body ="
        " CAST(replace(CAST(body AS TEXT), '\"missing\":0', '\"missing\":1') AS BLOB)"
        " WHERE kind = 'approval.signed'",
    )
    result = cli("approvals", "verify", "--db", log.db, "--key", log.vkey)
    assert result.exit_code == 1
    assert "body_changed" in result.stdout
    assert "is not whole: nothing in it is evidence" in result.stderr


def test_what_was_erased_is_told_and_is_no_fault(cli: Cli, log: Log) -> None:
    changed(log.db, "DELETE FROM decisions")
    changed(log.db, "UPDATE salts SET salt = NULL")
    result = cli("approvals", "verify", "--db", log.db, "--key", log.vkey, "--issuer", ISSUER)
    assert result.exit_code == 0
    assert "known by its digest only" in result.stdout
    assert "the salt is gone" in result.stdout
    assert "0 do not" in result.stdout
