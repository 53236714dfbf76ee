"""The log in PostgreSQL: the numbers, the tree, the months, and who may move the head."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import asyncpg
import pytest
from tests.ledger.helpers import KEY, OTHER_KEY, Ledger
from tests.rigs.ledgers import AT, Cluster, PgLedger, cluster, pg_ledger

from stepwrit_broker.core.errors import Conflict, Malformed, Unavailable
from stepwrit_broker.core.merkle import EMPTY_ROOT, Frontier, leaf_hash, root_of
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer
from stepwrit_broker.ledger.postgres.schema import month_of, next_month
from stepwrit_broker.ports_ledger import Contradiction, Kept, Said

pytestmark = pytest.mark.live
__all__ = ["cluster"]
MONTH = 30.5 * 86_400


@pytest.fixture
def ledger(cluster: Cluster, tmp_path: Path) -> Iterator[PgLedger]:
    with pg_ledger(cluster, tmp_path) as made:
        yield made


def said(body: bytes, at: float = AT) -> Said:
    return Said(body, at, "step.opened", None, None, None)


def test_the_tree_is_that_of_the_embedded_log(ledger: PgLedger, tmp_path: Path):
    embedded = Ledger(tmp_path)
    for count in (1, 2, 300, 1000, 64):
        for each in (ledger, embedded):
            each.add(count)
    assert ledger.size == embedded.log.size == 1367
    assert ledger.value("SELECT root FROM ledger_head") == embedded.log.root
    for size in (0, 1, 255, 256, 257, 1024, 1367):
        assert ledger.reader().root_at(size) == embedded.reader().root_at(size)
    assert ledger.reader().inclusion(700, 1300) == embedded.reader().inclusion(700, 1300)
    assert ledger.reader().consistency(513, 1367) == embedded.reader().consistency(513, 1367)
    embedded.close()


def test_a_transaction_that_fails_appends_nothing(ledger: PgLedger):
    ledger.add(3)

    async def fails(conn: object) -> None:
        await ledger.log.append(conn, [said(b"lost")])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledger.within(fails)
    assert ledger.size == 3
    ledger.add(1)
    assert [each.seq for each in ledger.reader().tail(-1)] == [0, 1, 2, 3]


def test_appenders_at_once_get_numbers_without_a_gap(ledger: PgLedger):
    async def appends(number: int) -> None:
        conn = await asyncpg.connect(ledger.dsn)
        for each in range(10):
            async with conn.transaction():
                await ledger.log.append(conn, [said(b"%d.%d.%d" % (number, each, i)) for i in range(5)])
        await conn.close()

    async def all_at_once() -> None:
        await asyncio.gather(*map(appends, range(6)))

    ledger.run(all_at_once())
    entries = ledger.reader().tail(-1)
    assert [each.seq for each in entries] == list(range(300))
    assert ledger.value("SELECT root FROM ledger_head") == root_of(
        leaf_hash(each.body or b"") for each in entries
    )


def test_a_head_that_is_not_where_its_entries_are_moves_nowhere(ledger: PgLedger):
    ledger.add(5)
    ledger.add(1)
    before = ledger.value("SELECT frontier FROM ledger_head")
    older = Frontier()
    older.extend(leaf_hash(b"%d" % n) for n in range(5))
    ledger.execute(
        "UPDATE ledger_head SET size = 5, root = $1, frontier = $2", older.root, b"".join(older.peaks)
    )
    with pytest.raises(Contradiction):
        ledger.add(1)
    ledger.execute("UPDATE ledger_head SET size = 6, frontier = $1", before)
    with pytest.raises(Unavailable):
        ledger.add(1)
    assert ledger.value("SELECT count(*) FROM ledger_entries") == 6


def test_a_body_that_no_bundle_can_hold_is_refused(ledger: PgLedger):
    ledger.say(said(b"x" * 65_535))
    with pytest.raises(Malformed):
        ledger.say(said(b"fine"), said(b"x" * 65_536))
    assert ledger.size == 1


def test_each_month_has_partitions_and_its_first_number(ledger: PgLedger):
    ledger.say(said(b"a"), said(b"b", AT + MONTH), said(b"late", AT), said(b"c", AT + 2 * MONTH))
    ledger.say(said(b"ahead of the clock", 4e9))
    today = month_of(ledger.value("SELECT extract(epoch FROM now())::float8"))
    rows = ledger.run(ledger.conn.fetch("SELECT month, first FROM ledger_months ORDER BY month"))
    assert [tuple(each) for each in rows] == [(202510, 0), (202511, 1), (202512, 3), (today, 4)]
    assert ledger.value("SELECT count(*) FROM ledger_bodies_202511") == 2
    ledger.run(ledger.log.prepare_months(ledger.conn))
    assert ledger.value("SELECT to_regclass($1)", f"ledger_entries_{next_month(today)}") is not None
    assert ledger.source.first_from(AT + MONTH) == 1
    assert ledger.source.first_from(5e9) is None
    assert (next_month(202512), next_month(202501)) == (202601, 202502)


def test_salts_and_documents_stand_once(ledger: PgLedger):
    salts, kept = [("txn_1", b"s" * 16), ("txn_2", b"t" * 16)], [Kept("d1", "txn_1", b"{}")]
    for _ in range(2):
        ledger.run(ledger.log.put_salts(ledger.conn, salts))
        ledger.run(ledger.log.put_kept(ledger.conn, kept))
    assert ledger.source.document("d1") == ("d1", "txn_1", b"{}", b"s" * 16)
    with pytest.raises(Contradiction):
        ledger.run(ledger.log.put_salts(ledger.conn, [("txn_2", b"u" * 16)]))
    assert ledger.within(lambda conn: ledger.log.erase(conn, "txn_1")) == (1, 1)
    assert ledger.within(lambda conn: ledger.log.erase(conn, "txn_1")) == (0, 0)
    assert (ledger.source.document("d1"), ledger.source.salt("txn_1")) == (None, None)
    with pytest.raises(Contradiction):
        ledger.run(ledger.log.put_salts(ledger.conn, [("txn_1", b"s" * 16)]))
    ledger.run(ledger.log.put_kept(ledger.conn, [*kept, Kept("d2", "REF0000001", b"{}")]))
    assert ledger.source.document("d1") is None, "what was erased does not come back"
    assert ledger.source.document("d2") is not None


def test_a_log_keeps_its_name(ledger: PgLedger):
    ledger.run(ledger.log.name_log(ledger.conn, KEY.name))
    with pytest.raises(Unavailable):
        ledger.run(ledger.log.name_log(ledger.conn, "another.example/log"))


def test_one_head_has_one_note_whoever_signs(ledger: PgLedger, tmp_path: Path):
    ledger.add(10)
    first = ledger.sign()
    (tmp_path / "b").mkdir()
    other = PgLedger(ledger.cluster, tmp_path / "b", dsn=ledger.dsn)
    assert other.sign(at=AT + 5) == first
    assert (other.anchor.read() or first).note == first.note

    async def all_at_once() -> list[str]:
        async def sign(number: int) -> str:
            conn = await asyncpg.connect(ledger.dsn)
            checkpointer = PgCheckpointer(KEY, type(ledger.anchor)(tmp_path / f"anchor-{number}"))
            signed = await checkpointer.sign(conn, epoch="epoch-one", high_water=AT, at=AT + number)
            await conn.close()
            return signed.note

        return await asyncio.gather(*map(sign, range(5)))

    ledger.add(3)
    assert len(set(ledger.run(all_at_once()))) == 1
    assert ledger.value("SELECT count(*) FROM ledger_checkpoints") == 2
    other.close()


def test_nothing_is_signed_inside_a_transaction_or_by_another_logs_key(ledger: PgLedger, tmp_path: Path):
    ledger.add(1)

    async def inside(conn: object) -> None:
        await ledger.checkpointer.sign(conn, epoch="epoch-one", high_water=AT, at=AT)

    with pytest.raises(Unavailable):
        ledger.within(inside)
    foreign = type(KEY).from_seed("another.example/log", bytes(32))
    with pytest.raises(Unavailable):
        ledger.run(PgCheckpointer(foreign, ledger.anchor).sign(ledger.conn, epoch="e", high_water=AT, at=AT))
    assert ledger.value("SELECT count(*) FROM ledger_checkpoints") == 0
    ledger.sign()


def test_no_size_gets_a_second_root_and_none_is_signed_backwards(ledger: PgLedger, tmp_path: Path):
    ledger.add(600)
    ledger.sign()
    (ledger.folder / "anchor.json").unlink()  # only what is in the database remembers
    ledger.checkpointer = PgCheckpointer(KEY, type(ledger.anchor)(tmp_path / "none.json"))
    grown = _set_back(ledger, 599)
    with pytest.raises(Conflict):
        ledger.sign()
    ledger.add_bodies([b"another history"])
    with pytest.raises(Conflict):
        ledger.sign()
    ledger.add_bodies([b"longer"] * 10)
    with pytest.raises(Conflict):
        ledger.sign()
    assert grown == 599


def _set_back(ledger: PgLedger, size: int) -> int:
    """As a snapshot that was restored, with the same months."""
    frontier = Frontier()
    frontier.extend(cast("list[bytes]", ledger.source.stored(0, 0, size)))
    for table in ("ledger_entries", "ledger_bodies"):
        ledger.execute(f"DELETE FROM {table} WHERE seq >= $1", size)
    ledger.execute("DELETE FROM ledger_nodes WHERE (idx + 1) << level > $1", size)
    ledger.execute(
        "UPDATE ledger_head SET size = $1, root = $2, frontier = $3",
        frontier.size, frontier.root, b"".join(frontier.peaks),
    )  # fmt: skip
    return frontier.size


def test_a_broker_that_has_seen_more_refuses_an_older_snapshot(ledger: PgLedger):
    ledger.add(500)
    ledger.sign()
    ledger.add(300)
    ledger.sign()
    assert ledger.run(ledger.checkpointer.admit(ledger.conn)) is not None
    _set_back(ledger, 500)
    ledger.execute("DELETE FROM ledger_checkpoints WHERE size > 500")
    for refused in (ledger.checkpointer.admit(ledger.conn), _signing(ledger)):
        with pytest.raises(Unavailable, match="older than") as error:
            ledger.run(refused)
        assert error.value.rule == "anchor"
    ledger.add_bodies([b"another history"] * 400)  # longer than the anchor again
    for refused in (ledger.checkpointer.admit(ledger.conn), _signing(ledger)):
        with pytest.raises(Unavailable, match="another story"):
            ledger.run(refused)


def _signing(ledger: PgLedger):
    return ledger.checkpointer.sign(ledger.conn, epoch="epoch-one", high_water=AT, at=AT)


def test_a_new_broker_believes_what_the_key_signed_and_nothing_else(ledger: PgLedger, tmp_path: Path):
    new = PgCheckpointer(KEY, type(ledger.anchor)(tmp_path / "new.json"))
    assert ledger.run(new.admit(ledger.conn)) is None, "an empty log has nothing to show"
    ledger.add(5)
    signed = ledger.sign()
    assert ledger.run(new.admit(ledger.conn)) == signed
    forged = PgCheckpointer(OTHER_KEY, type(ledger.anchor)(tmp_path / "forged.json"))
    with pytest.raises(Unavailable, match="same ledger key"):
        ledger.run(forged.admit(ledger.conn))


def test_a_head_whose_hashes_are_gone_is_not_signed(ledger: PgLedger):
    ledger.add(300)
    ledger.sign()
    ledger.add(300)
    ledger.execute("DELETE FROM ledger_nodes")
    with pytest.raises(Unavailable):
        ledger.sign()


def test_an_empty_log_has_the_empty_root(ledger: PgLedger):
    assert base64.b64decode(ledger.sign().note.split("\n")[2]) == EMPTY_ROOT
