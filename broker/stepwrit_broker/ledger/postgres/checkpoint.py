"""Signing checkpoints of a fleet's log: one signer at a time, only what is committed, never backwards.

Several brokers hold the same key. What was signed last is a row; whoever signs holds the signers' lock,
proves from stored hashes that the head extends that row and what this broker has seen itself, and puts the
next row under a key that takes one root for each size. It is committed before the signature leaves.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from stepwrit_broker.core.errors import Conflict, Problem, Unavailable
from stepwrit_broker.core.merkle import Checkpoint, consistency_proof, verify_consistency
from stepwrit_broker.ledger.anchor import Anchor, AnchorFile
from stepwrit_broker.ledger.checkpoint import SignedCheckpoint, open_checkpoint
from stepwrit_broker.ledger.cosignature import Cosigned
from stepwrit_broker.ledger.notes import NoteRefused, NoteSigner, sign_note
from stepwrit_broker.ledger.postgres.log import Conn
from stepwrit_broker.ledger.postgres.schema import LOCK_CLASS, LOCK_SIGNING
from stepwrit_broker.ledger.postgres.source import subtrees
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.source import calculated, needed

_LATEST: Final = "SELECT note FROM ledger_checkpoints WHERE origin = $1 ORDER BY size DESC LIMIT 1"
_INSERT: Final = (
    "INSERT INTO ledger_checkpoints (origin, size, at, note) VALUES ($1, $2, $3, $4)"
    " ON CONFLICT (origin, size) DO NOTHING"
)
_KEEP: Final = (
    "INSERT INTO ledger_cosignatures (origin, size, witness, at, line) VALUES ($1, $2, $3, $4, $5)"
    " ON CONFLICT (origin, size, witness) DO UPDATE SET at = EXCLUDED.at, line = EXCLUDED.line"
    " WHERE EXCLUDED.at >= ledger_cosignatures.at"
)
OLDER: Final = "the database is older than this broker's anchor: it was restored, or entries were lost"
OTHER: Final = "the database tells another story than this broker's anchor"


class Tree(NamedTuple):
    """Size and root that belong together."""

    size: int
    root: bytes


class PgCheckpointer:
    """Signs the head for one broker. anchor: what this broker has seen, in its own state folder."""

    def __init__(self, key: NoteSigner, anchor: AnchorFile) -> None:
        self._key: Final = key
        self._anchor: Final = anchor

    async def admit(self, conn: Conn) -> SignedCheckpoint | None:
        """The newest checkpoint that stands, once this database extends all that this broker has seen.

        A broker without an anchor is new: it believes what the key signed, and the witnesses. Raises
        Unavailable(rule="anchor") for an older database or another history.
        """
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            origin, head = await self._origin(conn), await _head(conn)
            await self._compare_anchor(conn, origin, head)
            latest = await self._latest(conn, origin)
            if latest is not None:
                await _extends(conn, latest.checkpoint, head, "what was signed")
        return latest

    async def sign(self, conn: Conn, *, epoch: str, high_water: float, at: float) -> SignedCheckpoint:
        """Sign what is committed; committed and anchored before it is returned. One head, one note.

        conn: outside a transaction. at, high_water: seconds since the epoch. Raises Conflict for a second
        root or a way back, Unavailable when the database, the log or the anchor is in doubt.
        """
        if conn.is_in_transaction():
            raise in_doubt("only what is committed is signed")
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, LOCK_SIGNING)
            signed = await self._sign(conn, at)
        self._anchor.write(_anchor_of(signed, epoch, high_water))
        return signed

    async def _sign(self, conn: Conn, at: float) -> SignedCheckpoint:
        origin, head = await self._origin(conn), await _head(conn)
        await self._compare_anchor(conn, origin, head)
        latest = await self._latest(conn, origin)
        if latest is not None:
            await _extends(conn, latest.checkpoint, head, "what was signed")
            if latest.checkpoint.size == head.size:
                return latest
        key = self._key.under(origin)
        note = key_note(key, head)
        signed = open_checkpoint(note, key.verifier)  # our own output, before it leaves
        if await conn.execute(_INSERT, origin, head.size, at, note) != "INSERT 0 1":
            raise Conflict("wrong_state", f"size {head.size} was signed by somebody else meanwhile")
        return signed

    async def _origin(self, conn: Conn) -> str:
        origin: str | None = await conn.fetchval("SELECT value FROM ledger_meta WHERE name = 'origin'")
        base = self._key.name
        if origin is None:
            raise in_doubt("the log has no origin")
        if origin != base and not origin.startswith(f"{base}/"):
            raise in_doubt("the checkpoint key belongs to another log")
        return origin

    async def _latest(self, conn: Conn, origin: str) -> SignedCheckpoint | None:
        note: str | None = await conn.fetchval(_LATEST, origin)
        try:
            return None if note is None else open_checkpoint(note, self._key.under(origin).verifier)
        except NoteRefused as bad:
            raise in_doubt(
                "the newest checkpoint is not by this key: all brokers of a fleet have the same ledger key"
            ) from bad

    async def _compare_anchor(self, conn: Conn, origin: str, head: Tree) -> None:
        anchor = self._anchor.read()
        if anchor is None:
            return
        if anchor.size > head.size:
            raise _outrun(OLDER)
        if anchor.origin != origin:
            raise _outrun(OTHER)
        try:
            await _extends(conn, Tree(anchor.size, anchor.root), head, "the anchor")
        except Conflict as other:
            raise _outrun(OTHER) from other


async def keep(conn: Conn, origin: str, size: int, made: Cosigned) -> None:
    """Keep a cosignature; the witness's latest one on this checkpoint replaces an earlier one."""
    await conn.execute(_KEEP, origin, size, made.by.vkey, made.at, made.line)


def key_note(key: NoteSigner, head: Tree) -> str:
    """The signed note over a head, under the key's name."""
    return sign_note(Checkpoint(origin=key.name, size=head.size, root=head.root).text(), (key,))


async def _head(conn: Conn) -> Tree:
    row = await conn.fetchrow("SELECT size, root FROM ledger_head")
    if row is None:
        raise in_doubt("the log has no head")
    return Tree(row[0], row[1])


async def _extends(conn: Conn, first: Tree | Checkpoint, head: Tree, what: str) -> None:
    """Prove it from stored hashes (RFC 9162 section 2.1.4). Raises Conflict."""
    if first.size > head.size:
        raise Conflict("wrong_state", f"{what} has {first.size} entries, the log {head.size}")
    wanted = needed(lambda get: consistency_proof(first.size, head.size, get))
    hashes = await subtrees(conn, wanted)
    path = calculated(lambda get: consistency_proof(first.size, head.size, get), wanted, hashes)
    try:
        verify_consistency(
            first=first.size, second=head.size, first_root=first.root, second_root=head.root, path=path
        )
    except Problem as bad:
        raise Conflict("wrong_state", f"the log does not extend {what} at size {first.size}") from bad


def _anchor_of(signed: SignedCheckpoint, epoch: str, high_water: float) -> Anchor:
    head = signed.checkpoint
    return Anchor(
        origin=head.origin,
        epoch=epoch,
        size=head.size,
        root=head.root,
        high_water=high_water,
        note=signed.note,
    )


def _outrun(said: str) -> Unavailable:
    return Unavailable(
        "unavailable",
        said,
        rule="anchor",
        who_can_change_it="the operator (docs: reference/ledger-postgresql)",
    )
