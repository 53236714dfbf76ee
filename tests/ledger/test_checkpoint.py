"""Checkpoints, the anchor and adoption: one root per size, never backwards, never in silence."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ledger.helpers import KEY, ORIGIN, OTHER_KEY, Ledger, append

from stepwrit_broker.core.errors import Conflict, Malformed, Unavailable
from stepwrit_broker.core.merkle import Checkpoint, parse_checkpoint
from stepwrit_broker.ledger.adoption import adopt, new_origin
from stepwrit_broker.ledger.anchor import (
    Anchor,
    AnchorFile,
    AnchorHolds,
    AnchorMismatch,
    AnchorMissing,
    DatabaseOlder,
    Reached,
    check,
    parse_anchor,
    render_anchor,
)
from stepwrit_broker.ledger.checkpoint import Checkpointer, open_checkpoint
from stepwrit_broker.ledger.notes import NoteRefused, NoteSigner, open_note, sign_note
from stepwrit_broker.ledger.sqlite_log import SqliteLog

ANCHOR = Anchor(origin=ORIGIN, epoch="epoch-one", size=3, root=b"\x01" * 32, high_water=5.5)


def reached(ledger: Ledger) -> Reached:
    return Reached(origin=ledger.log.origin, size=ledger.log.size, root_at=ledger.reader().root_at)


def test_a_checkpoint_states_what_is_committed(ledger: Ledger):
    ledger.add(3)
    signed = ledger.sign()
    assert parse_checkpoint(open_note(signed.note, [KEY.verifier]).text) == signed.checkpoint
    assert (signed.checkpoint.origin, *ledger.log.head) == (ORIGIN, 3, signed.checkpoint.root)
    assert ledger.reader().newest_checkpoint() == signed.note


def test_signing_the_same_head_again_gives_the_same_note(ledger: Ledger):
    ledger.add(3)
    first = ledger.sign(at=1.0)
    assert ledger.sign(at=2.0) == first
    ledger.add(1)
    assert ledger.sign(at=3.0).checkpoint.size == 4


def test_an_empty_log_can_be_signed(ledger: Ledger):
    assert ledger.sign().checkpoint.size == 0


def test_nothing_uncommitted_is_signed(ledger: Ledger):
    ledger.add(1)
    ledger.conn.execute("BEGIN")
    append(ledger.log, ledger.conn, b"open")
    with pytest.raises(Unavailable):
        ledger.sign()
    ledger.commit()
    ledger.conn.execute("BEGIN")
    with pytest.raises(Unavailable):
        ledger.sign()
    assert ledger.conn.in_transaction, "somebody else's transaction is left alone"
    ledger.conn.execute("COMMIT")
    assert ledger.sign().checkpoint.size == 2


def test_one_size_never_gets_a_second_root(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    ledger.conn.execute("UPDATE entries SET leaf = zeroblob(32) WHERE seq = 1")
    forked = SqliteLog()
    forked.load(ledger.conn)
    assert forked.root != ledger.log.root
    with pytest.raises(Conflict, match="another root was signed for size 3"):
        ledger.checkpointer.sign(ledger.conn, forked, epoch="e", high_water=1.0, at=1.0)
    assert not ledger.conn.in_transaction


def test_a_history_that_does_not_extend_the_signed_one_is_not_signed(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    ledger.add(2)
    ledger.conn.execute("UPDATE entries SET leaf = zeroblob(32) WHERE seq = 1")
    with pytest.raises(Conflict, match="size 3"):
        ledger.sign()


def test_checkpoints_never_go_back(ledger: Ledger):
    ledger.add(3)
    stale = SqliteLog()
    stale.load(ledger.conn)
    ledger.add(2)
    ledger.sign()
    with pytest.raises(Unavailable, match="another size"):
        ledger.checkpointer.sign(ledger.conn, stale, epoch="e", high_water=1.0, at=1.0)
    ledger.conn.execute("DELETE FROM entries WHERE seq > 2")
    with pytest.raises(Conflict, match="5 entries were signed, the log has 3"):
        ledger.checkpointer.sign(ledger.conn, stale, epoch="e", high_water=1.0, at=1.0)


def test_a_stored_checkpoint_that_this_key_did_not_sign_stops_signing(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    forged = sign_note(Checkpoint(origin=ORIGIN, size=2, root=b"\x02" * 32).text(), [OTHER_KEY])
    ledger.conn.execute("UPDATE checkpoints SET note = ?", (forged,))
    with pytest.raises(NoteRefused):
        ledger.sign()


def test_the_key_of_another_log_signs_nothing(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.close()
    stranger = NoteSigner.from_seed("another.example/log", b"k" * 32)
    with pytest.raises(Unavailable):
        Ledger(tmp_path, stranger)


def test_a_log_without_a_name_or_with_another_than_the_key_s_is_not_signed(ledger: Ledger):
    ledger.add(1)
    stranger = Checkpointer(NoteSigner.from_seed("another.example/log", b"k" * 32), ledger.anchor)
    assert (stranger.verifier.name, ledger.checkpointer.verifier) == ("another.example/log", KEY.verifier)
    with pytest.raises(Unavailable, match="another log"):
        stranger.sign(ledger.conn, ledger.log, epoch="e", high_water=1.0, at=1.0)
    ledger.sign()
    ledger.conn.execute("DELETE FROM log_meta")
    with pytest.raises(Unavailable, match="origin"):
        ledger.sign()


def test_a_key_vouches_only_for_its_own_origin():
    text = Checkpoint(origin="another.example/log", size=2, root=b"\x02" * 32).text()
    open_checkpoint(
        sign_note(Checkpoint(origin=ORIGIN, size=2, root=b"\x02" * 32).text(), [KEY]), KEY.verifier
    )
    with pytest.raises(Conflict):
        open_checkpoint(sign_note(text, [KEY]), KEY.verifier)


def test_a_checkpoint_is_anchored_before_it_is_returned(ledger: Ledger):
    ledger.add(3)
    signed = ledger.sign(at=7.0)
    anchor = AnchorFile(ledger.path.with_name("anchor.json")).read()
    assert anchor is not None
    assert (anchor.size, anchor.root, anchor.note) == (3, ledger.log.root, signed.note)
    assert (anchor.epoch, anchor.high_water) == ("epoch-one", 7.0)


def test_a_checkpoint_that_could_not_be_anchored_is_not_returned_but_can_be_tried_again(
    ledger: Ledger, tmp_path: Path
):
    ledger.add(3)
    ledger.anchor._path = tmp_path / "gone" / "anchor.json"
    with pytest.raises(Unavailable, match="anchor"):
        ledger.sign()
    (tmp_path / "gone").mkdir()
    assert ledger.sign().checkpoint.size == 3


def test_the_anchor_reads_back(tmp_path: Path):
    file = AnchorFile(tmp_path / "anchor.json")
    assert file.read() is None
    file.write(ANCHOR)
    assert AnchorFile(tmp_path / "anchor.json").read() == ANCHOR
    assert (tmp_path / "anchor.json").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["anchor.json"]


def test_the_anchor_never_goes_back(tmp_path: Path):
    file = AnchorFile(tmp_path / "anchor.json")
    file.write(ANCHOR)
    file.write(replace(ANCHOR, epoch="epoch-two", high_water=4.0))
    assert file.read() == replace(ANCHOR, epoch="epoch-two"), "the high-water time stays"
    again = AnchorFile(tmp_path / "anchor.json")
    for wrong in (
        replace(ANCHOR, size=2),
        replace(ANCHOR, root=b"\x02" * 32),
        replace(ANCHOR, origin="another", size=9),
    ):
        with pytest.raises(Conflict):
            again.write(wrong)
    again.write(replace(ANCHOR, size=4))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v": 1', b'"v": 2'),
        (b'"size": 3', b'"size": -3'),
        (b'"size": 3', b'"size": true'),
        (b'"size": 3', b'"size": "3"'),
        (b'"epoch"', b'"apoch"'),
        (b"5.5", b"Infinity"),
        (b'AQEBAQ"', b'"'),
        (b"AQEB", b"A"),
        (b"{", b"["),
        (b"}", b', "note": 5}'),
        (b"}", b', "more": 5}'),
        (b"{", b"[" * 90_000),
    ],
)
def test_a_damaged_anchor_is_doubt_not_absence(tmp_path: Path, old: bytes, new: bytes):
    good = render_anchor(ANCHOR)
    assert parse_anchor(good) == ANCHOR
    bad = good.replace(old, new) if old in good else good.replace(b'"root": "', b'"root": "!')
    (tmp_path / "anchor.json").write_bytes(bad)
    with pytest.raises(Unavailable, match="anchor"):
        AnchorFile(tmp_path / "anchor.json").read()


def test_an_anchor_that_cannot_be_read_is_doubt(tmp_path: Path):
    for content in (b"[]", b"not json", b"", render_anchor(replace(ANCHOR, root=b"short"))):
        (tmp_path / "anchor.json").write_bytes(content)
        with pytest.raises(Unavailable):
            AnchorFile(tmp_path / "anchor.json").read()
    with pytest.raises(Unavailable):
        AnchorFile(tmp_path).read()


def test_a_new_database_without_anchor_and_one_that_went_on_may_start(ledger: Ledger):
    assert check(reached(ledger), None) == AnchorHolds(None)
    ledger.add(3)
    ledger.sign()
    ledger.add(2)
    anchor = ledger.anchor.read()
    assert check(reached(ledger), anchor) == AnchorHolds(anchor)


def test_a_database_with_entries_and_no_anchor_is_refused(ledger: Ledger):
    ledger.add(3)
    assert check(reached(ledger), None) == AnchorMissing(3)


def test_a_database_copied_back_is_refused(ledger: Ledger, tmp_path: Path):
    ledger.add(3)
    ledger.sign()
    ledger.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "copied back"
    copy.mkdir()
    shutil.copy(ledger.path, copy / "store.db")
    ledger.add(2)
    ledger.sign()
    anchor = ledger.anchor.read()
    assert check(reached(ledger), anchor) == AnchorHolds(anchor)
    old = Ledger(copy)
    assert check(reached(old), anchor) == DatabaseOlder(anchor, 3)
    empty = copy / "empty.db"
    sqlite3.connect(empty).close()
    assert isinstance(check(Reached(origin=None, size=0, root_at=lambda _: b""), anchor), DatabaseOlder)
    old.close()


def test_another_history_or_another_log_is_refused(ledger: Ledger):
    ledger.add(3)
    ledger.sign()
    anchor = ledger.anchor.read()
    assert anchor is not None
    for wrong in (replace(anchor, root=b"\x01" * 32), replace(anchor, origin="another.example/log")):
        verdict = check(reached(ledger), wrong)
        assert isinstance(verdict, AnchorMismatch)


def test_adopting_starts_a_new_origin_that_commits_to_the_lost_head(ledger: Ledger):
    ledger.add(3)
    old = ledger.sign()
    lost = Anchor(origin=ORIGIN, epoch="epoch-one", size=9, root=b"\x09" * 32, high_water=5.0)
    ledger.anchor.put(lost)
    kept = ledger.log.head
    ledger.conn.execute("BEGIN IMMEDIATE")
    adoption = adopt(
        ledger.conn,
        ledger.log,
        base=ORIGIN,
        epoch="epoch-2b7c",
        lost=lost,
        reason="restored",
        ref="REF",
        at=6.0,
    )
    ledger.commit()
    head = ledger.log.head
    ledger.anchor.put(
        Anchor(origin=adoption.new_origin, epoch="epoch-2b7c", size=head.size, root=head.root, high_water=6.0)
    )
    said = json.loads(next(iter(ledger.reader().tail(2))).body or b"")["adopted"]
    assert (said["kept"]["size"], said["lost"]["size"], said["lost"]["epoch"]) == (3, 9, "epoch-one")
    assert adoption.kept == kept
    new = ledger.sign()
    assert new.checkpoint.origin == f"{ORIGIN}/epoch-2b7c" == ledger.log.origin
    assert open_checkpoint(old.note, KEY.verifier).checkpoint.size == 3
    assert check(reached(ledger), ledger.anchor.read()) == AnchorHolds(ledger.anchor.read())
    again = SqliteLog()
    again.load(ledger.conn)
    assert again.origin == new.checkpoint.origin


def test_an_adoption_stands_first_in_its_transaction_and_needs_a_random_epoch(ledger: Ledger):
    assert new_origin(ORIGIN, "abcdefgh") == f"{ORIGIN}/abcdefgh"
    for epoch in ("", "short", "with space", "with/slash", "with+plus"):
        with pytest.raises(Malformed):
            new_origin(ORIGIN, epoch)
    ledger.conn.execute("BEGIN")
    append(ledger.log, ledger.conn, b"before")
    with pytest.raises(Unavailable):
        adopt(ledger.conn, ledger.log, base=ORIGIN, epoch="abcdefgh", lost=None, reason="", ref="R", at=1.0)
