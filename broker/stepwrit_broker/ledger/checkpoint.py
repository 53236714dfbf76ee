"""Signing checkpoints: only what is committed, never two roots for one size, never backwards.

Source: C2SP tlog-checkpoint ("a log must not sign any checkpoint which is inconsistent with any it
previously signed"). The claim is durable in the database before the signature leaves.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from stepwrit_broker.core.errors import Conflict
from stepwrit_broker.core.merkle import Checkpoint, parse_checkpoint, root_at
from stepwrit_broker.ledger.anchor import Anchor, AnchorFile
from stepwrit_broker.ledger.notes import NoteSigner, NoteVerifier, open_note, sign_note
from stepwrit_broker.ledger.schema import get_meta, in_doubt, node_getter, stored_size
from stepwrit_broker.ledger.sqlite_log import SqliteLog, TreeHead

_LATEST = "SELECT note FROM checkpoints WHERE origin = ? ORDER BY size DESC LIMIT 1"
_INSERT = "INSERT INTO checkpoints (origin, size, at, note) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint and the note that says so."""

    checkpoint: Checkpoint
    note: str


def open_checkpoint(unverified: str, verifier: NoteVerifier) -> SignedCheckpoint:
    """The checkpoint in a note that this key signed under its own name.

    Raises: NoteRefused, CheckpointRefused; Conflict when the key vouches for another origin.
    """
    checkpoint = parse_checkpoint(open_note(unverified, (verifier,)).text)
    if checkpoint.origin != verifier.name:
        raise Conflict("wrong_state", "the checkpoint's origin is not the key's name")
    return SignedCheckpoint(checkpoint=checkpoint, note=unverified)


class Checkpointer:
    """Signs the log's head. Used by the thread that writes, between its transactions."""

    def __init__(self, key: NoteSigner, anchor: AnchorFile) -> None:
        self._key = key
        self._anchor = anchor

    @property
    def verifier(self) -> NoteVerifier:
        """The public key under the name in its file (the log's first origin)."""
        return self._key.verifier

    def sign(
        self, conn: sqlite3.Connection, log: SqliteLog, *, epoch: str, high_water: float, at: float
    ) -> SignedCheckpoint:
        """Sign what is committed; stored and anchored before it is returned. One head, one note.

        at, high_water: seconds since the epoch. Raises: Conflict for a second root or a way back,
        Unavailable when the database, the log or the anchor is in doubt.
        """
        if conn.in_transaction or log.position().pending:
            raise in_doubt("only what is committed is signed")
        conn.execute("BEGIN IMMEDIATE")
        try:
            signed = self._sign(conn, log, at)
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
        self._anchor.write(_anchor_of(signed, epoch, high_water))
        return signed

    def _sign(self, conn: sqlite3.Connection, log: SqliteLog, at: float) -> SignedCheckpoint:
        key, head = self._key_for(conn, log), log.head
        if stored_size(conn) != head.size:
            raise in_doubt("the database has another size than the log in memory")
        row: tuple[str] | None = conn.execute(_LATEST, (key.name,)).fetchone()
        if row is not None:
            latest = open_checkpoint(row[0], key.verifier)
            _check_extends(conn, latest.checkpoint, head)
            if latest.checkpoint.size == head.size:
                return latest
        note = sign_note(Checkpoint(origin=key.name, size=head.size, root=head.root).text(), (key,))
        signed = open_checkpoint(note, key.verifier)  # our own output, before it leaves
        conn.execute(_INSERT, (key.name, head.size, at, note))
        return signed

    def _key_for(self, conn: sqlite3.Connection, log: SqliteLog) -> NoteSigner:
        origin, base = get_meta(conn, "origin"), self._key.name
        if origin is None or origin != log.origin:
            raise in_doubt("the log has no origin, or another than the database")
        if origin != base and not origin.startswith(f"{base}/"):
            raise in_doubt("the checkpoint key belongs to another log")
        return self._key.under(origin)


def _check_extends(conn: sqlite3.Connection, signed: Checkpoint, head: TreeHead) -> None:
    if signed.size > head.size:
        raise Conflict("wrong_state", f"{signed.size} entries were signed, the log has {head.size}")
    now = head.root if signed.size == head.size else root_at(signed.size, node_getter(conn))
    if now != signed.root:
        raise Conflict("wrong_state", f"another root was signed for size {signed.size}")


def _anchor_of(signed: SignedCheckpoint, epoch: str, high_water: float) -> Anchor:
    checkpoint = signed.checkpoint
    return Anchor(
        origin=checkpoint.origin,
        epoch=epoch,
        size=checkpoint.size,
        root=checkpoint.root,
        high_water=high_water,
        note=signed.note,
    )
