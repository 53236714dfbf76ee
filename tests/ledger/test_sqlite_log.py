"""The log inside a store's transactions: savepoints, failed commits, restarts, against the naive tree."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ledger.helpers import Ledger, append

from stepwrit_broker.core.errors import Conflict, Malformed, Unavailable
from stepwrit_broker.core.merkle import (
    EMPTY_ROOT,
    ProofRefused,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from stepwrit_broker.ledger.sqlite_log import SqliteLog


def expected_root(bodies: list[bytes]) -> bytes:
    return root_of([leaf_hash(body) for body in bodies])


def test_a_new_log_is_empty_and_an_entry_counts_once_it_is_committed(ledger: Ledger):
    log, conn = ledger.log, ledger.conn
    assert log.head == (0, EMPTY_ROOT)
    conn.execute("BEGIN")
    assert [append(log, conn, b"a"), append(log, conn, b"b")] == [0, 1]
    assert log.head == (0, EMPTY_ROOT)
    ledger.commit()
    assert log.head == (2, expected_root([b"a", b"b"]))
    assert log.appended_bytes == 2


def test_a_restart_takes_up_the_same_tree(ledger: Ledger):
    ledger.add(700)
    again = SqliteLog()
    again.load(ledger.conn)
    assert again.head == ledger.log.head
    assert again.origin == ledger.key.name
    assert [row[:2] for row in ledger.conn.execute("SELECT level, idx FROM nodes")] == [(8, 0), (8, 1)]


@pytest.mark.parametrize("size", [65_535, 0])
def test_bodies_have_a_largest_size(ledger: Ledger, size: int):
    ledger.conn.execute("BEGIN")
    append(ledger.log, ledger.conn, b"x" * size)
    with pytest.raises(Malformed):
        append(ledger.log, ledger.conn, b"x" * 65_536)
    ledger.commit()
    assert ledger.log.size == 1


def test_a_rolled_back_savepoint_leaves_no_trace(ledger: Ledger):
    log, conn = ledger.log, ledger.conn
    conn.execute("BEGIN")
    append(log, conn, b"kept")
    conn.execute("SAVEPOINT one")
    position = log.position()
    append(log, conn, b"gone")
    conn.execute("ROLLBACK TO one")
    log.rewind(position)
    assert append(log, conn, b"after") == 1
    ledger.commit()
    assert log.root == expected_root([b"kept", b"after"])
    assert log.appended_bytes == len(b"keptafter")


def test_calls_out_of_order_are_refused(ledger: Ledger):
    log, conn = ledger.log, ledger.conn
    with pytest.raises(Unavailable):
        log.committed()
    stale = log.position()
    ledger.add(1)
    with pytest.raises(Unavailable, match="rewind"):
        log.rewind(stale)
    conn.execute("BEGIN")
    with pytest.raises(Unavailable, match="inside"):
        log.load(conn)
    now = log.position()
    append(log, conn, b"x")
    log.seal(conn)
    for late in (
        lambda: log.seal(conn),
        lambda: log.rewind(now),
        lambda: append(log, conn, b"y"),
    ):
        with pytest.raises(Unavailable):
            late()
    conn.execute("COMMIT")
    log.committed()
    assert log.size == 2


def test_a_commit_that_failed_but_landed_is_taken_up(ledger: Ledger):
    ledger.add(1)
    ledger.conn.execute("BEGIN")
    append(ledger.log, ledger.conn, b"landed")
    ledger.log.seal(ledger.conn)
    ledger.conn.execute("COMMIT")  # the caller saw an error here all the same
    ledger.log.aborted(ledger.conn)
    assert ledger.log.head == (2, expected_root([b"0", b"landed"]))


batches = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=5),
        st.sampled_from(["commit", "abort", "abort after seal", "restart"]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_any_mix_of_savepoints_aborts_and_restarts_gives_the_naive_tree(
    tmp_path_factory: pytest.TempPathFactory, plan: list
):
    ledger = Ledger(tmp_path_factory.mktemp("log"))
    log, conn, kept, counter = ledger.log, ledger.conn, [], 0
    for savepoints, end in plan:
        conn.execute("BEGIN IMMEDIATE")
        batch: list[bytes] = []
        for count, keep in savepoints:
            conn.execute("SAVEPOINT op")
            position, bodies = log.position(), [b"%d" % (counter + i) for i in range(count)]
            counter += count
            numbers = [append(log, conn, body) for body in bodies]
            start = len(kept) + len(batch)
            assert numbers == list(range(start, start + count))
            if keep:
                batch += bodies
            else:
                conn.execute("ROLLBACK TO op")
                log.rewind(position)
            conn.execute("RELEASE op")
        if end == "commit":
            ledger.commit()
            kept += batch
        else:
            if end == "abort after seal":
                log.seal(conn)
            conn.execute("ROLLBACK")
            log.aborted(conn)
        if end == "restart":
            log = ledger.log = SqliteLog()
            log.load(conn)
        assert log.head == (len(kept), expected_root(kept))
    stored = [body for (body,) in conn.execute("SELECT body FROM entries ORDER BY seq")]
    assert stored == kept
    ledger.close()


def test_readers_prove_every_entry_at_every_size(ledger: Ledger):
    ledger.add(530)
    leaves = [leaf_hash(b"%d" % i) for i in range(530)]
    reader = ledger.reader()
    for seq, size in [(0, 1), (0, 530), (529, 530), (255, 256), (256, 257), (300, 513), (511, 512)]:
        shown = reader.inclusion(seq, size)
        verify_inclusion(leaf=leaves[seq], index=seq, size=size, path=shown.path, root=root_of(leaves[:size]))
        assert (shown.leaf, shown.root) == (leaves[seq], root_of(leaves[:size]))
    for first, second in [(1, 530), (256, 512), (257, 530), (529, 530)]:
        verify_consistency(
            first=first,
            second=second,
            first_root=root_of(leaves[:first]),
            second_root=root_of(leaves[:second]),
            path=reader.consistency(first, second),
        )
    assert reader.root_at(0) == EMPTY_ROOT
    for wrong in (
        lambda: reader.inclusion(0, 531),
        lambda: reader.inclusion(5, 5),
        lambda: reader.root_at(-1),
    ):
        with pytest.raises(ProofRefused):
            wrong()


def test_readers_find_entries_and_see_only_committed_ones(ledger: Ledger):
    ledger.add(2, txn="txn_a", ref="REF1", tenant="acme")
    ledger.add(1, txn="txn_b", ref="REF2")
    reader = ledger.reader()
    ledger.conn.execute("BEGIN")
    append(ledger.log, ledger.conn, b"open")
    assert reader.size == 3
    assert [e.seq for e in reader.entries_of("txn_a")] == [0, 1]
    assert [e.seq for e in reader.by_ref("REF1", "acme")] == [0, 1]
    assert [e.seq for e in reader.by_ref("REF2", None)] == [2]
    assert reader.by_ref("REF1", "other") == reader.by_ref("REF1", None) == reader.by_ref("no", "acme") == []
    assert [e.seq for e in reader.tail(-1)] == [0, 1, 2]
    assert [e.seq for e in reader.tail(0, 1)] == [1]
    assert reader.tail(-1, 10, ["refused"]) == []
    assert len(reader.tail(-1, 10, ["refused", "step.opened"])) == 3
    found = reader.entry(0)
    assert found is not None
    assert (found.txn, found.kind, leaf_hash(found.body or b"")) == ("txn_a", "step.opened", found.leaf)
    assert reader.entry(3) is None


def test_lookups_use_their_indexes(ledger: Ledger):
    ledger.add(1)
    for query, index in [
        ("SELECT * FROM entries WHERE txn = 'a' ORDER BY seq", "entries_by_txn"),
        ("SELECT * FROM entries WHERE ref = 'a' AND tenant IS NULL ORDER BY seq", "entries_by_ref"),
        ("DELETE FROM decisions WHERE txn = 'a'", "decisions_by_txn"),
    ]:
        plan = ledger.conn.execute("EXPLAIN QUERY PLAN " + query).fetchall()
        assert index in plan[0][3]


def test_a_reader_cannot_write_and_a_missing_file_is_not_made(ledger: Ledger, tmp_path: Path):
    reader = ledger.reader()
    assert reader.size == 0
    with pytest.raises(sqlite3.OperationalError):
        reader.source._conn.execute("DELETE FROM entries")
    from stepwrit_broker.ledger.sqlite_source import open_reader

    with pytest.raises(Unavailable):
        open_reader(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_a_log_with_a_hole_in_its_tree_does_not_load(ledger: Ledger):
    ledger.add(300)
    SqliteLog().load(ledger.conn)
    ledger.conn.execute("DELETE FROM nodes")
    with pytest.raises(Unavailable, match="missing"):
        SqliteLog().load(ledger.conn)


def test_a_log_shorter_than_its_checkpoint_does_not_load(ledger: Ledger):
    ledger.add(5)
    ledger.sign()
    SqliteLog().load(ledger.conn)
    ledger.conn.execute("DELETE FROM entries WHERE seq = 4")
    with pytest.raises(Unavailable, match="5 entries were signed, 4 are here"):
        SqliteLog().load(ledger.conn)


def test_a_log_has_one_name(ledger: Ledger):
    ledger.log.name_log(ledger.conn, ledger.key.name)
    with pytest.raises(Unavailable):
        ledger.log.name_log(ledger.conn, "another.example/log")
    assert ledger.log.origin == ledger.key.name


def test_a_salt_is_put_once_and_erased_for_ever(ledger: Ledger):
    log, conn = ledger.log, ledger.conn
    salt = b"\xa5" * 16
    assert log.get_salt(conn, "txn_a") is None
    log.put_salt(conn, "txn_a", salt)
    log.put_salt(conn, "txn_a", salt)
    assert log.get_salt(conn, "txn_a") == salt
    with pytest.raises(Conflict):
        log.put_salt(conn, "txn_a", b"\x5a" * 16)
    assert log.erase_salt(conn, "txn_a")
    assert not log.erase_salt(conn, "txn_a")
    assert log.get_salt(conn, "txn_a") is None
    with pytest.raises(Conflict, match="erased"):
        log.put_salt(conn, "txn_a", salt)
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert salt not in ledger.path.read_bytes()
    assert conn.execute("PRAGMA secure_delete").fetchone()[0] in (0, 1, 2)


def test_decision_documents_are_kept_beside_the_log_and_can_be_erased(ledger: Ledger):
    log, conn = ledger.log, ledger.conn
    log.put_decision(conn, "ab", "txn_a", b'{"document": "for the decision"}')
    log.put_decision(conn, "ab", "txn_a", b'{"document": "for the decision"}')
    assert log.get_decision(conn, "ab") == b'{"document": "for the decision"}'
    assert log.get_decision(conn, "cd") is None
    assert log.erase_decisions(conn, "txn_a") == 1
    assert log.get_decision(conn, "ab") is None
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"for the decision" not in ledger.path.read_bytes()


def test_usage_counts_pages(ledger: Ledger):
    before = ledger.log.usage(ledger.conn)
    ledger.add_bodies([b"x" * 5000] * 20)
    after = ledger.log.usage(ledger.conn)
    assert after.total - before.total >= 100_000
    assert after.free <= after.total


def test_the_tree_is_unchanged_for_a_reader_between_batches(ledger: Ledger):
    ledger.add(3)
    reader = ledger.reader()
    root = reader.root_at(3)
    ledger.add(3)
    assert reader.root_at(3) == root != reader.root_at(6)
