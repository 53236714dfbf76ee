"""The rows of the embedded log: a connection of its own that can write nothing and sees what is committed."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from stepwrit_broker.core.merkle import Node
from stepwrit_broker.ledger.report import Span
from stepwrit_broker.ledger.schema import COSIGNED, get_meta, in_doubt, node_getter, stored_size
from stepwrit_broker.ledger.source import Document, Entry, Noted, Subtree, entry_of

_COLUMNS: Final = "SELECT seq, at, kind, txn, ref, tenant, leaf, body FROM entries"
_ORIGIN: Final = "(SELECT value FROM log_meta WHERE name = 'origin')"
_LINES: Final = "SELECT line FROM cosignatures WHERE origin = ? AND size = ? ORDER BY witness"
_CHECKPOINT: Final = f"SELECT note, origin, size FROM checkpoints AS c WHERE origin = {_ORIGIN}"  # noqa: S608  a constant
_NEWEST: Final = f"{_CHECKPOINT} ORDER BY size DESC LIMIT 1"
_NEXT: Final = f"{_CHECKPOINT} AND size >= ? ORDER BY size LIMIT 1"
_QUORUM: Final = "(SELECT count(*) FROM cosignatures AS w WHERE w.origin = c.origin AND w.size = c.size)"
_NEXT_COSIGNED: Final = f"{_CHECKPOINT} AND size >= ? AND {_QUORUM} >= ? ORDER BY size LIMIT 1"
_THEIRS: Final = f"{_QUORUM[:-1]} AND w.witness IN (SELECT value FROM json_each(?)))"  # noqa: S608  constants
_NEWEST_WITH: Final = f"{_CHECKPOINT} AND size <= ? AND {_THEIRS} >= ? ORDER BY size DESC LIMIT 1"
_COSIGNED_AT: Final = (
    f"SELECT at FROM cosignatures WHERE origin = {_ORIGIN} AND witness = ?"  # noqa: S608  a constant
    " ORDER BY size DESC, at DESC LIMIT 1"
)
_COSIGNATURES: Final = (
    "SELECT c.note, w.line, w.size FROM cosignatures AS w JOIN checkpoints AS c"
    " ON c.origin = w.origin AND c.size = w.size ORDER BY w.size"
)
_DOCUMENT: Final = (
    "SELECT decisions.digest, decisions.txn, decisions.doc, salts.salt FROM decisions"
    " LEFT JOIN salts ON salts.txn = decisions.txn WHERE decisions.digest = ?"
)
_KINDS: Final = "('approval.asked', 'approval.signed')"
_APPROVALS: Final = (
    "SELECT DISTINCT decisions.digest, decisions.txn, decisions.doc, salts.salt FROM entries"  # noqa: S608  constants
    " JOIN decisions ON decisions.txn = entries.txn"
    " LEFT JOIN salts ON salts.txn = entries.txn"
    f" WHERE entries.seq >= ? AND entries.seq < ? AND entries.kind IN {_KINDS}"
    " AND decisions.digest = json_extract(CAST(entries.body AS TEXT), '$.decision') ORDER BY entries.seq"
)
_LEAVES: Final = "SELECT leaf FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"
_TOPS: Final = "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
_BODIES: Final = "SELECT body FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"


def open_reader(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that can only read; Unavailable when the file cannot be opened.

    immutable: nobody writes the file; then not even lock files are made beside it.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if immutable else ''}"
    try:
        conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        conn.execute("PRAGMA query_only = ON")
        conn.execute("PRAGMA trusted_schema = OFF")
    except sqlite3.Error as error:
        raise in_doubt("the database cannot be opened for reading") from error
    return conn


class SqliteSource:
    """The LogSource round a connection of `open_reader`, or the writer's outside a transaction."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn: Final = conn
        self._get: Final = node_getter(conn)
        self._lock: Final = threading.Lock()

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._conn.close()

    @contextmanager
    def still(self) -> Generator[SqliteSource]:
        """One read transaction."""
        self._conn.execute("BEGIN")
        try:
            yield self
        finally:
            self._conn.execute("ROLLBACK")

    def size(self) -> int:
        """One more than the highest number."""
        return stored_size(self._conn)

    def meta(self, name: str) -> str | None:
        """As stored."""
        return get_meta(self._conn, name)

    def by_txn(self, txn: str) -> list[Entry]:
        """By index."""
        return self._entries(f"{_COLUMNS} WHERE txn = ? ORDER BY seq", (txn,))

    def by_ref(self, ref: str) -> list[Entry]:
        """By index."""
        return self._entries(f"{_COLUMNS} WHERE ref = ? ORDER BY seq", (ref,))

    def after(
        self, seq: int, limit: int, kinds: Sequence[str] = (), tenant: str | None = None
    ) -> list[Entry]:
        """A page."""
        wanted = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        own = "" if tenant is None else " AND (tenant IS NULL OR tenant = ?)"
        whose = () if tenant is None else (tenant,)
        query = f"{_COLUMNS} WHERE seq > ?{wanted}{own} ORDER BY seq LIMIT ?"
        return self._entries(query, (seq, *kinds, *whose, limit))

    def first_from(self, at: float) -> int | None:
        """By the entries' own times."""
        found: int | None = self._one("SELECT min(seq) FROM entries WHERE at >= ?", (at,))[0]
        return found

    def subtrees(self, wanted: Sequence[Subtree]) -> Sequence[bytes]:
        """At most 128 rows for each."""
        return [self._get(level, index) for level, index in wanted]

    def stored(self, height: int, first: int, upto: int) -> Sequence[bytes | None]:
        """Safe to call from several threads."""
        return self._column(_TOPS, (height, first, upto)) if height else self._column(_LEAVES, (first, upto))

    def bodies(self, first: int, upto: int) -> Sequence[bytes | None]:
        """Safe to call from several threads."""
        return self._column(_BODIES, (first, upto))

    def checkpoint(self, *, at_least: int, quorum: int = 0) -> Noted | None:
        """An older database has no cosignatures."""
        if not quorum:
            return self._noted(_NEXT, (at_least,))
        return self._noted(_NEXT_COSIGNED, (at_least, quorum)) if self._has_cosignatures() else None

    def newest_checkpoint(self) -> Noted | None:
        """By key."""
        return self._noted(_NEWEST, ())

    def newest_with(self, witnesses: Sequence[str], quorum: int, at_most: int) -> Noted | None:
        """By key, newest first."""
        return self._noted(_NEWEST_WITH, (at_most, json.dumps(list(witnesses)), quorum))

    def cosigned_at(self, witness: str) -> int:
        """Of the largest size."""
        row = self._conn.execute(_COSIGNED_AT, (witness,)).fetchone()
        return 0 if row is None else row[0]

    def document(self, digest: str) -> Document | None:
        """By key."""
        row = self._conn.execute(_DOCUMENT, (digest,)).fetchone()
        return None if row is None else Document(*row)

    def salt(self, txn: str) -> bytes | None:
        """By key."""
        row = self._conn.execute("SELECT salt FROM salts WHERE txn = ?", (txn,)).fetchone()
        return None if row is None else row[0]

    def approvals(self, span: Span) -> Iterator[Document]:
        """By the digests in the bodies that are here."""
        return (Document(*row) for row in self._conn.execute(_APPROVALS, span))

    def every(self) -> Iterator[Entry]:
        """One pass."""
        return map(entry_of, self._conn.execute(f"{_COLUMNS} ORDER BY seq"))

    def nodes(self) -> Iterable[Node]:
        """One pass."""
        return self._conn.execute("SELECT level, idx, hash FROM nodes")

    def checkpoints(self) -> Iterable[tuple[str, float]]:
        """Of every origin."""
        return self._conn.execute("SELECT note, at FROM checkpoints ORDER BY size")

    def cosignatures(self) -> Iterable[tuple[str, str, int]]:
        """Of every origin; an older database has none."""
        return self._conn.execute(_COSIGNATURES).fetchall() if self._has_cosignatures() else ()

    def _has_cosignatures(self) -> bool:
        return self._conn.execute(COSIGNED).fetchone() is not None

    def _noted(self, query: str, values: tuple[object, ...]) -> Noted | None:
        row: tuple[str, str, int] | None = self._conn.execute(query, values).fetchone()
        if row is None:
            return None
        note, origin, size = row
        lines = self._conn.execute(_LINES, (origin, size)) if self._has_cosignatures() else ()
        return Noted(size, note + "".join(line for (line,) in lines))

    def _entries(self, query: str, values: tuple[object, ...]) -> list[Entry]:
        return [entry_of(row) for row in self._conn.execute(query, values).fetchall()]

    def _one(self, query: str, values: tuple[object, ...]) -> Any:
        return self._conn.execute(query, values).fetchone()

    def _column(self, query: str, values: tuple[int, ...]) -> list[bytes | None]:
        with self._lock:
            try:
                return [row[0] for row in self._conn.execute(query, values)]
            except (sqlite3.Error, OverflowError) as error:
                raise in_doubt("the log cannot be read") from error
