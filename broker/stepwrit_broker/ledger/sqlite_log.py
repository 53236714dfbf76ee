"""The log's writing side, inside the store's own SQLite transaction.

One object per open database, used by the one thread that writes. The round is:

    BEGIN, (SAVEPOINT, append..., RELEASE | ROLLBACK TO and `rewind`)..., `seal`, COMMIT, `committed`
    anything fails: ROLLBACK, `aborted`

Entries are numbered from 0 without gaps. Hashing an entry and inserting its row is all that `append`
does; `seal` folds the batch into the tree. `head` is what is committed and may be read by any thread.
"""

from __future__ import annotations

import sqlite3
from hashlib import sha256
from typing import Final, NamedTuple

from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.core.merkle import Frontier
from stepwrit_broker.ledger.schema import SCHEMA, get_meta, in_doubt, node_getter, set_meta, stored_size

MAX_BODY_BYTES: Final = 65_535  # an entry's length is 16 bits in an entry bundle (C2SP tlog-tiles)
_INSERT: Final = (
    "INSERT INTO entries (seq, at, kind, txn, ref, tenant, leaf, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_NODE: Final = "INSERT INTO nodes (level, idx, hash) VALUES (?, ?, ?)"


class Position(NamedTuple):
    """Where a savepoint stands in the open transaction."""

    batch: int
    pending: int
    body_bytes: int


class TreeHead(NamedTuple):
    """Size and root that belong together."""

    size: int
    root: bytes


class Usage(NamedTuple):
    """What the database file takes: bytes in its pages, and of these in free pages."""

    total: int
    free: int


class SqliteLog:
    """The log in the database that `load` was given; see the module for the order of calls."""

    @property
    def schema(self) -> str:
        """The log's tables; every statement says IF NOT EXISTS."""
        return SCHEMA

    def __init__(self) -> None:
        self._frontier = Frontier()  # never changed once it stands for what is committed
        self._staged: Frontier | None = None
        self._pending: list[bytes] = []
        self._next = 0
        self._batch = 0
        self._body_bytes = 0
        self._committed_bytes = 0
        self._origin: str | None = None

    def load(self, conn: sqlite3.Connection) -> None:
        """Take up the log as the database has it; outside a transaction.

        Raises: Unavailable when the stored hashes do not make a tree, or the newest checkpoint is ahead.
        """
        if conn.in_transaction:
            raise in_doubt("the log was loaded inside a transaction")
        size, origin = stored_size(conn), get_meta(conn, "origin")
        signed = conn.execute("SELECT max(size) FROM checkpoints WHERE origin IS ?", (origin,)).fetchone()[0]
        if signed is not None and signed > size:
            raise in_doubt(f"{signed} entries were signed, {size} are here")
        self._frontier, self._origin = Frontier.at(size, node_getter(conn)), origin
        self._start_batch()

    @property
    def head(self) -> TreeHead:
        """Size and root of what is committed."""
        frontier = self._frontier
        return TreeHead(frontier.size, frontier.root)

    @property
    def size(self) -> int:
        """How many entries are committed."""
        return self._frontier.size

    @property
    def root(self) -> bytes:
        """The root of what is committed."""
        return self._frontier.root

    @property
    def origin(self) -> str | None:
        """The log's name; None before `name_log`."""
        return self._origin

    @property
    def appended_bytes(self) -> int:
        """Bytes of bodies appended since this object was made, the open transaction included."""
        return self._body_bytes

    def append(
        self,
        conn: sqlite3.Connection,
        *,
        body: bytes,
        at: float,
        kind: str,
        txn: str | None,
        ref: str | None,
        tenant: str | None,
    ) -> int:
        """Add an entry to the open transaction; its number. Durable when the caller's COMMIT returned.

        at: seconds since the epoch. Raises: Malformed for a body over 65,535 bytes, Unavailable after
        `seal`; then nothing was added.
        """
        if len(body) > MAX_BODY_BYTES:
            raise Malformed("invalid_request", f"a ledger entry has at most {MAX_BODY_BYTES} bytes")
        if self._staged is not None:
            raise in_doubt("an entry came after the batch was sealed")
        leaf, seq = sha256(b"\x00" + body).digest(), self._next
        conn.execute(_INSERT, (seq, at, kind, txn, ref, tenant, leaf, body))
        self._pending.append(leaf)
        self._next = seq + 1
        self._body_bytes += len(body)
        return seq

    def position(self) -> Position:
        """Taken right after SAVEPOINT, for `rewind`."""
        return Position(self._batch, len(self._pending), self._body_bytes)

    def rewind(self, position: Position) -> None:
        """Forget what was appended since `position`, right after ROLLBACK TO.

        Raises: Unavailable for a position of another transaction, or after `seal`.
        """
        if position.batch != self._batch or self._staged is not None or position.pending > len(self._pending):
            raise in_doubt("a rewind to a position that is not in this batch")
        del self._pending[position.pending :]
        self._next = self._frontier.size + position.pending
        self._body_bytes = position.body_bytes

    def seal(self, conn: sqlite3.Connection) -> None:
        """Fold the batch into the tree and store its completed tile tops; the last thing before COMMIT."""
        if self._staged is not None:
            raise in_doubt("a batch was sealed twice")
        staged = self._frontier.copy()
        tops = staged.extend(self._pending)
        if tops:
            conn.executemany(_INSERT_NODE, [(level, idx, node) for level, idx, node in tops])
        self._staged = staged

    def committed(self) -> None:
        """COMMIT returned: what was sealed is the log now."""
        if self._staged is None:
            raise in_doubt("a batch was committed without its seal")
        self._frontier = self._staged
        self._committed_bytes = self._body_bytes
        self._start_batch()

    def aborted(self, conn: sqlite3.Connection) -> None:
        """After ROLLBACK: take up what the database really has (a failed COMMIT may have been one)."""
        before = self._frontier.size
        if stored_size(conn) == before:
            self._body_bytes = self._committed_bytes
        self.load(conn)

    def name_log(self, conn: sqlite3.Connection, origin: str) -> None:
        """Give a new, empty log its name, in a transaction of its own or the caller's.

        Does nothing when the log has that name. Raises: Unavailable when it has another, or has entries.
        """
        if self._origin == origin:
            return
        if self._origin is not None or self._next:
            raise in_doubt("this log has another origin, or entries without one")
        self.rename(conn, origin)

    def rename(self, conn: sqlite3.Connection, origin: str) -> None:
        """Go on under another origin; only `adoption.adopt` does this, with its entry."""
        set_meta(conn, "origin", origin)
        self._origin = origin

    def put_salt(self, conn: sqlite3.Connection, txn: str, salt: bytes) -> None:
        """Keep a transaction's salt. Raises: Conflict when it has another one, or an erased one."""
        conn.execute("INSERT OR IGNORE INTO salts (txn, salt) VALUES (?, ?)", (txn, salt))
        if self.get_salt(conn, txn) != salt:
            raise Conflict("wrong_state", "this transaction has another salt, or an erased one")

    def get_salt(self, conn: sqlite3.Connection, txn: str) -> bytes | None:
        """The transaction's salt; None when there is none, or none any more."""
        row: tuple[bytes | None] | None
        row = conn.execute("SELECT salt FROM salts WHERE txn = ?", (txn,)).fetchone()
        return None if row is None else row[0]

    def erase_salt(self, conn: sqlite3.Connection, txn: str) -> bool:
        """Erase a salt for ever, so that the transaction's digests say nothing more; True if there was one.

        The old bytes leave the database file at once, the write-ahead log at its next checkpoint.
        """
        return _erase(conn, "UPDATE salts SET salt = NULL WHERE txn = ? AND salt IS NOT NULL", txn) == 1

    def put_decision(self, conn: sqlite3.Connection, digest: str, txn: str | None, doc: bytes) -> None:
        """Keep a decision document under its salted digest; once is enough."""
        conn.execute(
            "INSERT OR IGNORE INTO decisions (digest, txn, doc) VALUES (?, ?, ?)", (digest, txn, doc)
        )

    def get_decision(self, conn: sqlite3.Connection, digest: str) -> bytes | None:
        """The document under this digest; None when there is none, or none any more."""
        row: tuple[bytes] | None
        row = conn.execute("SELECT doc FROM decisions WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else row[0]

    def erase_decisions(self, conn: sqlite3.Connection, txn: str) -> int:
        """Erase a transaction's decision documents; how many there were."""
        return _erase(conn, "DELETE FROM decisions WHERE txn = ?", txn)

    @staticmethod
    def usage(conn: sqlite3.Connection) -> Usage:
        """What the database takes, for the headroom that negative acts keep."""
        size, pages, free = (
            conn.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        return Usage(total=size * pages, free=size * free)

    def _start_batch(self) -> None:
        self._staged = None
        self._pending = []
        self._next = self._frontier.size
        self._batch += 1


def _erase(conn: sqlite3.Connection, statement: str, txn: str) -> int:
    """Run it so that SQLite overwrites the old bytes, which it does not do by itself."""
    before: int = conn.execute("PRAGMA secure_delete").fetchone()[0]
    conn.execute("PRAGMA secure_delete = ON")
    try:
        return conn.execute(statement, (txn,)).rowcount
    finally:
        conn.execute(f"PRAGMA secure_delete = {before}")
