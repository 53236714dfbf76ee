"""A fleet's log as evidence: verified, exported, sealed by the month, and held to what brokers have seen."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.fakes.clock import FakeClock
from tests.ledger.helpers import KEY, SEED
from tests.rigs.ledgers import AT, Cluster, PgLedger, cluster, pg_ledger
from tests.witness.helpers import W1
from typer.testing import CliRunner

from stepwrit_broker.cli.app import app
from stepwrit_broker.core.entry import encode
from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.ledger.cosignature import cosigned
from stepwrit_broker.ledger.elsewhere import Elsewhere
from stepwrit_broker.ledger.export import dropped_below, export_range, first_from, seal_and_export
from stepwrit_broker.ledger.exported import entries_in, verify_export
from stepwrit_broker.ledger.keys import create
from stepwrit_broker.ledger.parquet import write_parquet
from stepwrit_broker.ledger.postgres.checkpoint import keep
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.postgres.reading import Reading
from stepwrit_broker.ledger.postgres.sealing import drop_sealed
from stepwrit_broker.ledger.postgres.source import PgSource
from stepwrit_broker.ledger.report import Report, Span
from stepwrit_broker.ledger.verify import verify_log
from stepwrit_broker.ledger.where import open_source, redacted
from stepwrit_broker.ports_ledger import Said
from stepwrit_broker.wiring.ledgering_fleet import FleetLedgering

pytestmark = pytest.mark.live
__all__ = ["cluster"]
VKEY = KEY.verifier.vkey
MONTH_S = 31 * 86_400.0


@pytest.fixture
def ledger(cluster: Cluster, tmp_path: Path) -> Iterator[PgLedger]:
    with pg_ledger(cluster, tmp_path) as made:
        yield made


@pytest.fixture
def filled(ledger: PgLedger) -> PgLedger:
    """Three months of entries, signed."""
    for month in range(3):
        ledger.say(*(entry(n, AT + month * MONTH_S) for n in range(300)))
    ledger.sign()
    return ledger


def entry(number: int, at: float) -> Said:
    body = encode("step.opened", f"R{number:09d}", at, {"txn": f"txn_{number % 7}", "tenant": "a"})
    return Said(body, at, "step.opened", f"txn_{number % 7}", f"R{number:09d}", "a")


def verified(ledger: PgLedger, *exports: Path, **more: Any) -> Report:
    anchor = ledger.anchor.read()
    return verify_log(lambda: open_source(ledger.dsn), "it", VKEY, exports=exports, anchor=anchor, **more)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def test_a_whole_log_is_whole(filled: PgLedger):
    report = verified(filled)
    assert (report.ok, report.size, report.signed_size) == (True, 900, 900)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE ledger_bodies SET body = 'other' WHERE seq = 400", "body_changed"),
        ("UPDATE ledger_entries SET leaf = sha256('other') WHERE seq = 400", "body_changed"),
        ("UPDATE ledger_entries SET tenant = 'b' WHERE seq = 400", "index_changed"),
        ("UPDATE ledger_nodes SET hash = sha256('other') WHERE idx = 1", "node_changed"),
        ("DELETE FROM ledger_bodies WHERE seq = 400", "body_missing"),
        ("DELETE FROM ledger_entries WHERE seq = 400", "gap"),
        ("DELETE FROM ledger_entries WHERE seq >= 880", "truncated"),
        ("UPDATE ledger_head SET size = 899", "gap"),
        ("UPDATE ledger_checkpoints SET note = replace(note, '900', '901')", "checkpoint_forged"),
        ("DROP TABLE ledger_nodes", "unreadable"),
    ],
)
def test_what_was_changed_by_hand_is_found(filled: PgLedger, statement: str, kind: str):
    assert verified(filled).ok
    filled.execute(statement)
    assert kind in kinds(verified(filled))


def test_verification_sees_one_moment(filled: PgLedger):
    with filled.source.still() as still:
        assert still.size() == 900
        filled.add(600)
        assert (still.size(), len(list(still.every())), len(list(still.nodes()))) == (900, 900, 3)
    assert filled.source.size() == 1500


def test_a_witnesss_cosignature_is_checked(filled: PgLedger):
    note = filled.sign().note
    made = cosigned(note + W1.line(note.partition("\n\n")[0] + "\n", int(AT)), [W1.verifier])[0]
    filled.run(keep(filled.conn, KEY.name, 900, made))
    newest = filled.source.newest_with([W1.verifier.vkey], 1, 900)
    assert newest is not None
    assert newest.note.endswith(made.line)
    assert filled.source.cosigned_at(W1.verifier.vkey) == int(AT)
    assert filled.source.checkpoint(at_least=5, quorum=1) == newest
    assert filled.source.checkpoint(at_least=5, quorum=2) is None
    report = verified(filled, elsewhere=Elsewhere(witnesses=(W1.verifier,)))
    assert (report.ok, [each.size for each in report.cosigned]) == (True, [900])
    filled.execute("UPDATE ledger_cosignatures SET line = replace(line, 'w1', 'w2')")
    assert "not_cosigned" in kinds(verified(filled, elsewhere=Elsewhere(witnesses=(W1.verifier,))))


def test_an_export_proves_itself_and_becomes_a_table(filled: PgLedger, tmp_path: Path):
    path = tmp_path / "part.jsonl"
    export_range(filled.source, Span(250, 650), path, KEY.verifier)
    seen = verify_export(path, KEY.verifier)
    assert (seen.findings, seen.span) == ((), Span(250, 650))
    assert [each.seq for each in entries_in(path)] == list(range(250, 650))
    assert write_parquet(path, tmp_path / "part.parquet", KEY.verifier) == 400


def test_a_month_is_sealed_and_its_bodies_go_with_their_partition(filled: PgLedger, tmp_path: Path):
    path = tmp_path / "2025-10.jsonl"
    upto = first_from(filled.source, AT + MONTH_S, filled.size)
    assert upto == 300
    sealed = seal_and_export(filled.source, upto=upto, path=path, verifier=KEY.verifier)
    gone = filled.run(drop_sealed(filled.conn, filled.log, sealed, ref="REF0000001", at=AT + 3 * MONTH_S))
    filled.sign()
    assert (gone, dropped_below(filled.source)) == (300, 300)
    assert filled.value("SELECT count(*) FROM ledger_bodies_202510") == 0
    assert filled.value("SELECT count(*) FROM ledger_entries_202510") == 300
    assert kinds(verified(filled)) == set()
    assert verified(filled).not_checked == (Span(0, 300),)
    assert verified(filled, path).only_in_exports == (Span(0, 300),)
    assert filled.reader().inclusion(17, 900).root == filled.reader().root_at(900)
    with pytest.raises(Conflict):
        filled.run(drop_sealed(filled.conn, filled.log, sealed, ref="REF0000002", at=AT))
    rest = seal_and_export(filled.source, upto=450, path=tmp_path / "half", verifier=KEY.verifier)
    assert filled.run(drop_sealed(filled.conn, filled.log, rest, ref="REF0000003", at=AT)) == 150
    filled.sign()
    assert verified(filled, path, tmp_path / "half").only_in_exports == (Span(0, 450),)


def test_nothing_goes_that_no_checkpoint_covers(ledger: PgLedger):
    ledger.add(10)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        ledger.value("SELECT ledger_drop_bodies(0, 10)")
    ledger.sign()
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        ledger.value("SELECT ledger_drop_bodies(5, 10)")
    assert ledger.value("SELECT ledger_drop_bodies(0, 10)") == 10


def test_a_brokers_role_appends_and_signs_and_can_change_no_entry(ledger: PgLedger, tmp_path: Path):
    name = ledger.value("SELECT current_database()")
    ledger.execute(f"CREATE ROLE {name}_broker LOGIN")
    ledger.execute(f"CREATE ROLE {name}_stranger LOGIN")
    ledger.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {name}_broker")
    ledger.execute(f"GRANT UPDATE, DELETE ON {', '.join(ledger.log.movable)} TO {name}_broker")
    ledger.add(1)
    ledger.run(ledger.conn.close())
    ledger.conn = ledger.run(asyncpg.connect(ledger.cluster.server.dsn_of(f"{name}_broker", name)))
    ledger.add_bodies([b"in a month that has no partition yet"], at=AT + 2 * MONTH_S)
    ledger.sign()
    for statement in (
        "UPDATE ledger_entries SET leaf = '' WHERE seq = 0",
        "DELETE FROM ledger_bodies",
        "DELETE FROM ledger_checkpoints",
        "DROP TABLE ledger_entries_202510",
        "TRUNCATE ledger_bodies",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            ledger.execute(statement)
    assert ledger.value("SELECT ledger_drop_bodies(0, 1)") == 1
    stranger: Any = ledger.run(asyncpg.connect(ledger.cluster.server.dsn_of(f"{name}_stranger", name)))
    for call in ("ledger_prepare_month(202601)", "ledger_drop_bodies(1, 2)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            ledger.run(stranger.fetchval(f"SELECT {call}"))
    ledger.run(stranger.close())


def test_the_command_line_reads_a_fleets_database(filled: PgLedger, tmp_path: Path):
    given = ["--database", filled.dsn, "--key", VKEY]
    held = ["--anchor", str(tmp_path / "anchor.json")]
    done = CliRunner().invoke(app, ["ledger", "verify", *given, *held, "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, [report["size"] for report in told.values()]) == (0, [900])
    export = str(tmp_path / "all.jsonl")
    assert CliRunner().invoke(app, ["ledger", "export", export, *given]).exit_code == 0
    assert CliRunner().invoke(app, ["ledger", "verify", "--export", export, "--key", VKEY]).exit_code == 0
    filled.execute("UPDATE ledger_bodies SET body = 'other' WHERE seq = 400")
    assert CliRunner().invoke(app, ["ledger", "verify", *given]).exit_code == 1
    assert redacted("postgresql://me:secret@db:5432/fleet?password=secret") == "postgresql://db:5432/fleet"


def test_a_database_that_does_not_answer_is_in_doubt(ledger: PgLedger):
    ledger.add(1)
    assert ledger.source.size() == 1
    gone = PgSource(Reading("postgresql://nobody@127.0.0.1:1/none", timeout_s=5))
    with pytest.raises(Unavailable):
        gone.size()
    gone.close()
    with pytest.raises(Unavailable):
        gone.size()
    waiting = PgSource(Reading(ledger.dsn, timeout_s=0.3))
    ledger.execute("BEGIN; LOCK TABLE ledger_head IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(Unavailable):
        waiting.size()
    ledger.execute("ROLLBACK")
    assert waiting.size() == 1
    waiting.close()


class Brokers:
    """Several brokers' parts of one ledger."""

    def __init__(self, ledger: PgLedger, folder: Path) -> None:
        self.ledger, self.folder = ledger, folder

    def broker(self, name: str) -> FleetLedgering:
        @asynccontextmanager
        async def use() -> AsyncIterator[Any]:
            conn: Any = await asyncpg.connect(self.ledger.dsn)
            try:
                yield conn
            finally:
                await conn.close()

        anchor = self.folder / f"{name}.json"
        return FleetLedgering(KEY, anchor, use=use, source=self.ledger.source, clock=FakeClock(AT))


def test_brokers_sign_in_turn_and_whoever_has_seen_more_stops(filled: PgLedger, tmp_path: Path):
    brokers = Brokers(filled, tmp_path)
    one, two = brokers.broker("one"), brokers.broker("two")
    for each in (one, two):
        filled.run(each.admit())
        filled.run(each.prepare())
    assert filled.run(one.sign()) == filled.run(two.sign())
    copy = filled.cluster.database()
    filled.run(_copied(filled.dsn, copy))
    filled.add(5)
    filled.run(one.sign())
    assert one.signed() is not None
    one.guard("open")
    set_back = Brokers(_other(filled, copy), tmp_path)
    for again in (set_back.broker("one"), set_back.broker("one")):
        with pytest.raises(Unavailable) as refused:
            filled.run(again.admit())
        assert refused.value.rule == "anchor"
        with pytest.raises(Unavailable):
            filled.run(again.sign())
        assert "older" in (again.doubt() or "")
        with pytest.raises(Unavailable):
            again.guard("redeem")
    filled.run(set_back.broker("two").admit())  # it has seen no more than the copy has
    two.guard("open")


def test_an_adoption_goes_on_under_a_new_name_on_record(filled: PgLedger, tmp_path: Path):
    key = tmp_path / "log.key"
    create(key, origin=KEY.name, seed=SEED)
    given = ["store", "adopt", "--database", filled.dsn, "--key", str(key), "--reason", "restored"]
    given += ["--anchor", str(tmp_path / "anchor.json")]
    assert "nothing to adopt" in CliRunner().invoke(app, given).output
    anchor = filled.anchor.read()
    assert anchor is not None
    filled.anchor.put(replace(anchor, size=1000))
    assert CliRunner().invoke(app, given).exit_code != 0
    assert filled.size == 900
    done = CliRunner().invoke(app, [*given, "--yes-i-lost-entries"])
    assert (done.exit_code, filled.size) == (0, 901)
    report = verified(filled)
    assert (report.ok, report.origin.startswith(f"{KEY.name}/")) == (True, True)
    filled.run(Brokers(filled, tmp_path).broker("anchor").admit())
    filled.add(3)
    filled.sign()
    assert verified(filled).ok


def _other(ledger: PgLedger, dsn: str) -> PgLedger:
    found = object.__new__(PgLedger)
    found.__dict__.update({**ledger.__dict__, "dsn": dsn, "_reading": None})
    return found


async def _copied(source: str, into: str) -> None:
    """All rows of one log into another database, as a restored backup has them."""
    old, new = await asyncpg.connect(source), await asyncpg.connect(into)
    await new.execute(PgLog().schema)
    await new.execute("DELETE FROM ledger_head")
    for (month,) in await old.fetch("SELECT month FROM ledger_months"):
        await new.fetchval("SELECT ledger_prepare_month($1)", month)
    for table in ("head", "months", "entries", "bodies", "nodes", "checkpoints", "meta"):
        rows = await old.fetch(f"SELECT * FROM ledger_{table}")
        await new.copy_records_to_table(f"ledger_{table}", records=[tuple(row) for row in rows])
    await old.close()
    await new.close()


def test_a_broker_seals_what_all_have_signed(filled: PgLedger, tmp_path: Path):
    one = Brokers(filled, tmp_path).broker("one")
    filled.run(one.admit())
    path = tmp_path / "october.jsonl"
    done = filled.run(one.seal(str(path), "REF0000001", AT + MONTH_S))
    assert (done["upto"], done["dropped"]) == (300, 300)
    assert verified(filled, path).ok
    with pytest.raises(Conflict):
        filled.run(one.seal(str(tmp_path / "again.jsonl"), "REF0000002", AT + MONTH_S))
