"""Offline verification: an honest log passes, and every planted fault is found and named."""

import base64
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ledger.helpers import KEY, ORIGIN, OTHER_KEY, Ledger

from stepwrit_broker.core.entry import encode
from stepwrit_broker.core.merkle import Checkpoint, leaf_hash
from stepwrit_broker.ledger.adoption import adopt
from stepwrit_broker.ledger.anchor import Anchor
from stepwrit_broker.ledger.notes import NoteRefused, sign_note
from stepwrit_broker.ledger.report import Report, Span, subtract
from stepwrit_broker.ledger.verify import verify

VKEY = KEY.verifier.vkey


def checked(ledger: Ledger, anchor: Anchor | None = None) -> Report:
    return verify(ledger.path, VKEY, anchor=anchor)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def at(report: Report, kind: str) -> list[int | None]:
    return [finding.seq for finding in report.findings if finding.kind == kind]


@pytest.fixture
def signed(ledger: Ledger) -> Ledger:
    """600 entries, checkpoints at 300 and 600, closed like a stopped broker; verifies."""
    ledger.add(300, txn="txn_a", ref="REF1", tenant="acme")
    ledger.sign(at=1_760_000_000.0)
    ledger.add(300)
    ledger.sign(at=1_760_000_060.0)
    ledger.tamper()
    assert checked(ledger).ok
    return ledger


def test_an_honest_log_verifies_and_says_what_it_cannot_exclude(signed: Ledger):
    report = checked(signed)
    assert report.ok
    assert (report.origin, report.size, report.signed_size, report.unsigned_tail) == (ORIGIN, 600, 600, 0)
    assert report.root == signed.log.root
    assert report.cannot_exclude == (
        "consistent to size 600, signed 2025-10-09T08:54:20Z; "
        "later truncation is not excluded without an anchor or a witness"
    )
    assert report.lines()[0] == f"ok: {ORIGIN}, 600 entries"


def test_with_the_anchor_nothing_is_left_open(signed: Ledger):
    report = checked(signed, signed.anchor.read())
    assert report.ok
    assert report.cannot_exclude is None


def test_an_unsigned_tail_is_reported_as_such(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    ledger.add(2)
    ledger.tamper()
    report = checked(ledger)
    assert report.ok
    assert (report.size, report.signed_size, report.unsigned_tail) == (5, 3, 2)
    assert "unsigned tail of 2 entries" in report.lines()


def test_a_live_database_with_a_write_ahead_log_verifies_with_what_waits_there(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    assert ledger.path.with_name("store.db-wal").stat().st_size
    assert (checked(ledger).ok, checked(ledger).size) == (True, 3)


@pytest.mark.parametrize("seq", [0, 255, 299, 599])
def test_one_changed_byte_is_found_where_it_is(signed: Ledger, seq: int):
    signed.tamper(f"UPDATE entries SET body = CAST('x' || substr(body, 2) AS BLOB) WHERE seq = {seq}")
    report = checked(signed)
    assert at(report, "body_changed") == [seq]
    assert "root_mismatch" in kinds(report)
    assert not report.ok


@pytest.mark.parametrize("seq", [0, 17, 299, 300])
def test_a_changed_body_with_its_hash_made_to_fit_does_not_fit_the_tree(signed: Ledger, seq: int):
    leaf = leaf_hash(b"forged").hex()
    signed.tamper(f"UPDATE entries SET body = CAST('forged' AS BLOB), leaf = x'{leaf}' WHERE seq = {seq}")
    report = checked(signed)
    assert kinds(report) == {"node_changed", "root_mismatch"}
    assert at(report, "node_changed") == [seq // 256 * 256]


def test_a_forger_who_fixes_every_hash_is_left_with_the_signature(ledger: Ledger):
    ledger.add(5)
    ledger.sign()
    leaf = leaf_hash(b"forged").hex()
    ledger.tamper()
    assert checked(ledger).ok
    ledger.tamper(f"UPDATE entries SET body = CAST('forged' AS BLOB), leaf = x'{leaf}' WHERE seq = 2")
    assert kinds(checked(ledger)) == {"root_mismatch"}


@pytest.mark.parametrize("seq", [0, 100, 450])
def test_a_missing_row_is_a_gap(signed: Ledger, seq: int):
    signed.tamper(f"DELETE FROM entries WHERE seq = {seq}")
    report = checked(signed)
    assert at(report, "gap") == [seq + 1]
    assert "root_mismatch" in kinds(report)


def test_a_row_before_the_first_is_found(signed: Ledger):
    signed.tamper(
        "INSERT INTO entries SELECT -1, at, kind, txn, ref, tenant, leaf, body FROM entries WHERE seq = 0"
    )
    assert at(checked(signed), "gap") == [-1]


def test_swapped_rows_are_found(signed: Ledger):
    signed.tamper(
        "UPDATE entries SET seq = -1 WHERE seq = 310",
        "UPDATE entries SET seq = 310 WHERE seq = 311",
        "UPDATE entries SET seq = 311 WHERE seq = -1",
    )
    assert kinds(checked(signed)) == {"node_changed", "root_mismatch"}


def test_swapped_bodies_are_found_where_they_are(signed: Ledger):
    signed.tamper(
        "CREATE TEMP TABLE two AS SELECT seq, body FROM entries WHERE seq IN (310, 311)",
        "UPDATE entries SET body = (SELECT body FROM two WHERE seq = 311) WHERE seq = 310",
        "UPDATE entries SET body = (SELECT body FROM two WHERE seq = 310) WHERE seq = 311",
    )
    assert at(checked(signed), "body_changed") == [310, 311]


def test_a_tail_cut_off_below_a_checkpoint_is_found(signed: Ledger):
    signed.tamper("DELETE FROM entries WHERE seq >= 590")
    report = checked(signed)
    assert (kinds(report), at(report, "truncated"), report.signed_size) == ({"truncated"}, [590], 300)


def test_a_tail_cut_off_with_its_checkpoint_is_found_by_the_anchor_only(signed: Ledger):
    anchor = signed.anchor.read()
    signed.tamper(
        "DELETE FROM entries WHERE seq >= 300",
        "DELETE FROM nodes WHERE level = 8 AND idx > 0",
        "DELETE FROM checkpoints WHERE size > 300",
    )
    without = checked(signed)
    assert without.ok
    assert "consistent to size 300" in (without.cannot_exclude or "")
    report = checked(signed, anchor)
    assert at(report, "truncated") == [300]


def test_an_anchor_of_another_history_is_found(signed: Ledger):
    anchor = signed.anchor.read()
    assert anchor is not None
    assert checked(signed, anchor).ok
    assert kinds(checked(signed, replace(anchor, root=b"\x01" * 32, note=None))) == {"root_mismatch"}
    forged = sign_note(Checkpoint(origin=ORIGIN, size=600, root=anchor.root).text(), [OTHER_KEY])
    assert kinds(checked(signed, replace(anchor, note=forged))) == {"checkpoint_forged"}
    other = sign_note(Checkpoint(origin=ORIGIN, size=599, root=anchor.root).text(), [KEY])
    assert kinds(checked(signed, replace(anchor, note=other))) == {"root_mismatch"}


def test_a_forged_checkpoint_is_found(signed: Ledger):
    forged = sign_note(Checkpoint(origin=ORIGIN, size=600, root=signed.log.root).text(), [OTHER_KEY])
    signed.tamper(f"UPDATE checkpoints SET note = '{forged}' WHERE size = 600")
    report = checked(signed)
    assert kinds(report) == {"checkpoint_forged"}
    assert report.signed_size == 300


def test_another_key_verifies_nothing(signed: Ledger):
    report = verify(signed.path, OTHER_KEY.verifier.vkey)
    assert "checkpoint_forged" in kinds(report)
    assert report.signed_size == 0
    with pytest.raises(NoteRefused):
        verify(signed.path, "no key")


def test_a_checkpoint_for_a_log_that_nothing_leads_to_is_found(signed: Ledger):
    foreign = KEY.under("elsewhere.example/log")
    note = sign_note(Checkpoint(origin=foreign.name, size=600, root=signed.log.root).text(), [foreign])
    signed.tamper(f"UPDATE checkpoints SET note = '{note}' WHERE size = 600")
    assert kinds(checked(signed)) == {"checkpoint_origin"}


def test_a_log_that_was_never_signed_is_not_ok(ledger: Ledger):
    ledger.add(3)
    ledger.tamper()
    assert kinds(checked(ledger)) == {"no_checkpoint"}


def test_changed_and_surplus_nodes_are_found(signed: Ledger):
    signed.tamper(
        "UPDATE nodes SET hash = zeroblob(32) WHERE idx = 1", "INSERT INTO nodes VALUES (8, 2, x'00')"
    )
    assert at(checked(signed), "node_changed") == [256, 512]


@pytest.mark.parametrize(
    "change",
    ["txn = 'txn_b'", "txn = NULL", "ref = 'REF2'", "tenant = 'other'", "kind = 'mark.set'", "at = 1.0"],
)
def test_a_column_that_says_something_else_than_its_body_is_found(signed: Ledger, change: str):
    signed.tamper(f"UPDATE entries SET {change} WHERE seq = 7")
    assert at(checked(signed), "index_changed") == [7]


def test_a_deleted_body_is_found_even_with_an_unsigned_excuse(signed: Ledger):
    excuse = encode("log.sealed", "", 1.0, {"exported": {"upto": 300}})
    leaf = leaf_hash(excuse).hex()
    signed.tamper(
        "UPDATE entries SET body = NULL WHERE seq = 3",
        f"INSERT INTO entries VALUES (600, 1.0, 'log.sealed', NULL, '', NULL, x'{leaf}', x'{excuse.hex()}')",
    )
    report = checked(signed)
    assert at(report, "body_missing") == [3]
    assert kinds(report) == {"body_missing"}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE nodes",
        "DROP TABLE checkpoints",
        "ALTER TABLE entries RENAME COLUMN leaf TO loaf",
        "ALTER TABLE entries RENAME TO real; CREATE VIEW entries AS SELECT * FROM real",
    ],
)
def test_tables_that_are_not_ours_are_unreadable_not_fine(signed: Ledger, statement: str):
    signed.tamper(*statement.split(";"))
    assert kinds(checked(signed)) == {"unreadable"}


@pytest.mark.parametrize("value", ["'text'", "5", "1.5"])
def test_columns_of_another_type_are_findings_not_crashes(signed: Ledger, value: str):
    signed.tamper(
        "CREATE TABLE loose (seq INTEGER PRIMARY KEY, at, kind, txn, ref, tenant, leaf, body)",
        "INSERT INTO loose SELECT * FROM entries",
        "DROP TABLE entries",
        "ALTER TABLE loose RENAME TO entries",
    )
    assert checked(signed).ok
    signed.tamper(f"UPDATE entries SET body = {value} WHERE seq = 9")
    assert at(checked(signed), "body_changed") == [9]
    signed.tamper(f"UPDATE entries SET leaf = {value}, body = NULL WHERE seq = 9")
    assert {"body_missing", "root_mismatch"} <= kinds(checked(signed))
    signed.tamper("UPDATE entries SET at = 'noon' WHERE seq = 8")
    assert not checked(signed).ok


def test_a_damaged_file_is_a_finding_not_a_crash(signed: Ledger, tmp_path: Path):
    content = bytearray(signed.path.read_bytes())
    content[4096 : 4096 * 4] = b"\xff" * (4096 * 3)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(content)
    assert not verify(damaged, VKEY).ok
    damaged.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    assert kinds(verify(damaged, VKEY)) == {"unreadable"}
    damaged.write_bytes(b"neither")
    assert kinds(verify(damaged, VKEY)) == {"unreadable"}


def test_verifying_writes_nothing(signed: Ledger):
    before = {p.name: p.read_bytes() for p in signed.path.parent.iterdir() if p.is_file()}
    assert checked(signed).ok
    assert {p.name: p.read_bytes() for p in signed.path.parent.iterdir() if p.is_file()} == before


def test_findings_do_not_fill_the_memory(signed: Ledger):
    signed.tamper("UPDATE entries SET body = x'00'")
    report = checked(signed)
    assert len(report.findings) <= 1_000
    assert not report.ok


def test_an_adopted_log_verifies_with_its_old_and_with_its_new_name(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    ledger.conn.execute("BEGIN")
    adopt(
        ledger.conn,
        ledger.log,
        base=ORIGIN,
        epoch="epoch-2b7c",
        lost=None,
        reason="restored",
        ref="R",
        at=6.0,
    )
    ledger.commit()
    head, new = ledger.log.head, f"{ORIGIN}/epoch-2b7c"
    ledger.anchor.put(Anchor(origin=new, epoch="epoch-2b7c", size=head.size, root=head.root, high_water=6.0))
    ledger.sign()
    ledger.tamper()
    for vkey in (VKEY, KEY.verifier.under(new).vkey):
        report = verify(ledger.path, vkey, anchor=ledger.anchor.read())
        assert report.ok
        assert report.origin == new
        assert report.renamed == ((3, ORIGIN, new),)


def test_spans_subtract():
    assert subtract(Span(0, 10), []) == [(0, 10)]
    assert subtract(Span(0, 10), [Span(2, 4), Span(8, 20)]) == [(0, 2), (4, 8)]
    assert subtract(Span(5, 10), [Span(0, 5), Span(10, 12)]) == [(5, 10)]
    assert subtract(Span(5, 10), [Span(0, 20)]) == []


def test_the_stored_notes_are_what_other_tools_read(signed: Ledger):
    conn = sqlite3.connect(signed.path)
    (note,) = conn.execute("SELECT note FROM checkpoints WHERE size = 600").fetchone()
    conn.close()
    assert note.split("\n")[:3] == [ORIGIN, "600", base64.b64encode(signed.log.root).decode()]
