"""Exports that prove themselves, and bodies that may go once they are in one."""

import json
from pathlib import Path

import pytest
from tests.ledger.helpers import KEY, ORIGIN, OTHER_KEY, Ledger

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.core.merkle import verify_inclusion
from stepwrit_broker.ledger.export import drop_bodies, export_range, first_from, seal_and_export, sealed_body
from stepwrit_broker.ledger.exported import verify_export
from stepwrit_broker.ledger.report import Span
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.verify import verify

VKEY = KEY.verifier.vkey
ODD = [b"\xff\x00 not text", 'ünïcode \u2028 "quoted"\n'.encode(), b"", b"x" * 65_535, b"\x01" * 65_535]


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.add(300, txn="txn_a", ref="REF1", tenant="acme")
    ledger.add_bodies(ODD)
    ledger.sign()
    ledger.add(300)
    ledger.sign()
    return ledger


def drop(ledger: Ledger, upto: int, path: Path) -> int:
    sealed = seal_and_export(ledger.source, upto=upto, path=path, verifier=KEY.verifier)
    ledger.conn.execute("BEGIN IMMEDIATE")
    body = sealed_body(sealed, ref="REFX", at=7.0)
    ledger.log.append(ledger.conn, body=body, at=7.0, kind="log.sealed", txn=None, ref="REFX", tenant=None)
    gone = drop_bodies(ledger.conn, sealed)
    ledger.commit()
    return gone


@pytest.mark.parametrize("span", [Span(0, 605), Span(0, 1), Span(300, 305), Span(257, 600), Span(604, 605)])
def test_any_range_exports_and_verifies_by_itself(filled: Ledger, tmp_path: Path, span: Span):
    path = tmp_path / "range.jsonl"
    export_range(filled.source, span, path, KEY.verifier)
    seen = verify_export(path, KEY.verifier)
    assert (seen.span, seen.findings, seen.root) == (span, (), filled.reader().root_at(span.upto))
    report = verify(path, VKEY, anchor=filled.anchor.read())
    assert report.ok
    assert report.not_checked == ((Span(0, span.first),) if span.first else ())
    assert [p.name for p in tmp_path.glob("*.new")] == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_bodies_come_out_byte_for_byte(filled: Ledger, tmp_path: Path):
    path = tmp_path / "odd.jsonl"
    export_range(filled.source, Span(300, 305), path, KEY.verifier)
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert (lines[0]["origin"], lines[0]["vkey"], lines[0]["first"]) == (ORIGIN, VKEY, 300)
    assert [line["seq"] for line in lines[1:-1]] == [300, 301, 302, 303, 304]
    assert "body64" in lines[1]
    assert lines[2]["body"].encode() == ODD[1]
    assert lines[-1]["checkpoint"].startswith(f"{ORIGIN}\n305\n")


def change(line: int, old: str, new: str):
    def apply(lines: list[str]) -> list[str]:
        assert old in lines[line]
        changed = list(lines)
        changed[line] = lines[line].replace(old, new)
        return changed

    return apply


def drop_line(number: int):
    return lambda lines: [line for line in lines if line != lines[number]]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (change(2, '\\"n\\":1', '\\"n\\":2'), "root_mismatch"),
        (change(2, '"txn": "txn_a"', '"txn": "txn_b"'), "index_changed"),
        (change(0, '"first": 0, "upto": 10', '"first": 0, "upto": 9'), "unreadable"),
        (change(0, '"first": 0', '"first": 1'), "unreadable"),
        (change(0, '"v": 1', '"v": 2'), "unreadable"),
        (change(0, "stepwrit", "other"), "unreadable"),
        (change(3, '"seq": 2', '"seq": 1'), "gap"),
        (change(3, '"seq": 2', '"seq": "2"'), "unreadable"),
        (change(3, '"body"', '"nobody"'), "unreadable"),
        (change(3, '"ref": "REF1"', '"ref": 5'), "unreadable"),
        (change(-1, '"checkpoint": "', '"checkpoint": "x'), "checkpoint_forged"),
        (change(-1, '"checkpoint"', '"check"'), "checkpoint_forged"),
        (change(-1, '"consistency": [', '"consistency": ["AAAA", '), "root_mismatch"),
        (change(-1, '"consistency": [', '"consistency": ["!", '), "root_mismatch"),
        (drop_line(2), "gap"),
        (drop_line(0), "unreadable"),
        (drop_line(-1), "unreadable"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "gap"),
        (lambda lines: [*lines, "{}"], "unreadable"),
        (lambda lines: [lines[0], "[]", *lines[1:]], "unreadable"),
        (lambda lines: [lines[0], "[" * 100_000, *lines[1:]], "unreadable"),
        (lambda lines: lines[:5], "unreadable"),
        (lambda lines: [], "unreadable"),
    ],
)
def test_every_change_to_an_export_is_found(filled: Ledger, tmp_path: Path, spoil, kind: str):
    path = tmp_path / "range.jsonl"
    export_range(filled.source, Span(0, 10), path, KEY.verifier)
    assert verify_export(path, KEY.verifier).findings == ()
    lines = path.read_text().split("\n")[:-1]
    assert len(lines) == 12
    path.write_text("".join(line + "\n" for line in spoil(lines)))
    findings = verify_export(path, KEY.verifier).findings
    assert kind in {finding.kind for finding in findings}
    assert not verify(path, VKEY).ok


def test_an_export_under_another_key_is_found(filled: Ledger, tmp_path: Path):
    path = tmp_path / "range.jsonl"
    export_range(filled.source, Span(0, 10), path, KEY.verifier)
    assert [f.kind for f in verify_export(path, OTHER_KEY.verifier).findings] == ["checkpoint_forged"]
    assert [f.kind for f in verify_export(tmp_path / "missing", KEY.verifier).findings] == ["unreadable"]


def test_an_export_that_cannot_be_made_leaves_nothing(filled: Ledger, tmp_path: Path):
    path = tmp_path / "range.jsonl"
    filled.add(1)
    for span in (Span(0, 606), Span(5, 5), Span(6, 5), Span(-1, 5)):
        with pytest.raises(Conflict):
            export_range(filled.source, span, path, KEY.verifier)
    with pytest.raises(Unavailable):
        export_range(filled.source, Span(0, 5), tmp_path / "no" / "folder" / "x", KEY.verifier)
    assert list(tmp_path.glob("*range*")) == []
    export_range(filled.source, Span(0, 5), path, KEY.verifier)
    before = path.read_bytes()
    with pytest.raises(Conflict, match="exists"):
        export_range(filled.source, Span(0, 6), path, KEY.verifier)
    assert path.read_bytes() == before


def test_dropped_bodies_leave_proofs_and_restarts_working(filled: Ledger, tmp_path: Path):
    root = filled.log.root
    assert drop(filled, 305, tmp_path / "one.jsonl") == 305
    again = SqliteLog()
    again.load(filled.conn)
    assert again.head == filled.log.head
    reader = filled.reader()
    shown = reader.inclusion(7, 605)
    verify_inclusion(leaf=shown.leaf, index=7, size=605, path=shown.path, root=root)
    entry = reader.entry(7)
    assert entry is not None
    assert entry.body is None
    assert [e.seq for e in reader.by_ref("REFX", None)] == [605]


def test_a_log_verifies_with_its_exports_and_says_what_is_only_there(filled: Ledger, tmp_path: Path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    drop(filled, 100, one)
    filled.sign()
    drop(filled, 305, two)
    filled.sign()
    filled.tamper()
    report = verify(filled.path, VKEY, exports=[one, two], anchor=filled.anchor.read())
    assert report.ok
    assert (report.only_in_exports, report.not_checked) == ((Span(0, 305),), ())
    part = verify(filled.path, VKEY, exports=[two])
    assert part.ok
    assert (part.only_in_exports, part.not_checked) == ((Span(100, 305),), (Span(0, 100),))
    assert "entries 0..99: bodies not checked, in no given export" in part.lines()
    assert verify(filled.path, VKEY).not_checked == (Span(0, 305),)


def test_a_body_deleted_after_the_export_is_not_excused(filled: Ledger, tmp_path: Path):
    drop(filled, 100, tmp_path / "one.jsonl")
    filled.sign()
    filled.tamper("UPDATE entries SET body = NULL WHERE seq IN (100, 400)")
    report = verify(filled.path, VKEY, exports=[tmp_path / "one.jsonl"])
    assert [(f.kind, f.seq) for f in report.findings] == [("body_missing", 100), ("body_missing", 400)]
    assert report.only_in_exports == (Span(0, 100),)


def test_a_spoilt_export_or_one_of_another_log_is_a_finding(filled: Ledger, tmp_path: Path):
    one = tmp_path / "one.jsonl"
    drop(filled, 100, one)
    filled.sign()
    filled.tamper()
    assert verify(filled.path, VKEY, exports=[one]).ok
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other")
    other.add_bodies([b"another history %d" % i for i in range(200)])
    other.sign()
    export_range(other.source, Span(0, 100), tmp_path / "foreign.jsonl", KEY.verifier)
    other.close()
    foreign = verify(filled.path, VKEY, exports=[tmp_path / "foreign.jsonl"])
    assert [f.kind for f in foreign.findings] == ["root_mismatch"]
    one.write_text(one.read_text().replace("acme", "acne"))
    spoilt = verify(filled.path, VKEY, exports=[one])
    assert "root_mismatch" in {f.kind for f in spoilt.findings}
    assert spoilt.not_checked == (Span(0, 100),)


def test_bodies_go_only_with_their_record_and_only_once(filled: Ledger, tmp_path: Path):
    sealed = seal_and_export(filled.source, upto=100, path=tmp_path / "a", verifier=KEY.verifier)
    twin = seal_and_export(filled.source, upto=50, path=tmp_path / "b", verifier=KEY.verifier)
    with pytest.raises(Unavailable, match="transaction"):
        drop_bodies(filled.conn, sealed)
    filled.conn.execute("BEGIN")
    assert drop_bodies(filled.conn, sealed) == 100
    with pytest.raises(Conflict):
        drop_bodies(filled.conn, twin)
    filled.commit()
    with pytest.raises(Conflict, match="earlier export"):
        export_range(filled.source, Span(0, 200), tmp_path / "c", KEY.verifier)
    with pytest.raises(Conflict):
        seal_and_export(filled.source, upto=100, path=tmp_path / "d", verifier=KEY.verifier)


def test_a_log_that_lies_to_its_own_export_drops_nothing(filled: Ledger, tmp_path: Path):
    filled.conn.execute("UPDATE entries SET body = x'00' WHERE seq = 5")
    with pytest.raises(Unavailable, match="does not verify"):
        seal_and_export(filled.source, upto=100, path=tmp_path / "a", verifier=KEY.verifier)


def test_what_is_older_than_a_month_is_found_by_its_time(ledger: Ledger):
    ledger.add(3)
    ledger.conn.execute("UPDATE entries SET at = 1759276800 + seq * 10")  # October 2025 begins with entry 0
    assert first_from(ledger.source, 1_759_276_799.0, 3) == 0
    assert first_from(ledger.source, 1_759_276_810.0, 3) == 1
    assert first_from(ledger.source, 1_759_276_811.0, 3) == 2
    assert first_from(ledger.source, 1_800_000_000.0, 3) == 3
    assert first_from(ledger.source, 1_759_276_811.0, 1) == 1, "never beyond what is signed"
