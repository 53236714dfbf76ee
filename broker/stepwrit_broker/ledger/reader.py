"""The log's reading side: a connection of its own that can write nothing and sees only what is committed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from stepwrit_broker.core.merkle import ProofRefused, consistency_proof, inclusion_proof, root_at
from stepwrit_broker.ledger.schema import COSIGNED, in_doubt, node_getter, stored_size

MAX_PAGE: Final = 1_000  # entries
_COLUMNS: Final = "SELECT seq, at, kind, txn, ref, tenant, leaf, body FROM entries"
_ORIGIN: Final = "(SELECT value FROM log_meta WHERE name = 'origin')"
_LINES: Final = "SELECT line FROM cosignatures WHERE origin = ? AND size = ? ORDER BY witness"
_CHECKPOINT: Final = f"SELECT note, origin, size FROM checkpoints AS c WHERE origin = {_ORIGIN}"  # noqa: S608  a constant
_NEWEST_CHECKPOINT: Final = f"{_CHECKPOINT} ORDER BY size DESC LIMIT 1"
_NEXT_CHECKPOINT: Final = f"{_CHECKPOINT} AND size >= ? ORDER BY size LIMIT 1"
_HAS_QUORUM: Final = (
    "(SELECT count(*) FROM cosignatures AS w WHERE w.origin = c.origin AND w.size = c.size) >= ?"
)
_NEXT_COSIGNED: Final = f"{_CHECKPOINT} AND size >= ? AND {_HAS_QUORUM} ORDER BY size LIMIT 1"

Row = tuple[int, float, str, str | None, str | None, str | None, bytes, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry. at: seconds since the epoch. body: None once it lives in an export only.

    The tree commits to `body`; the other columns are for finding it.
    """

    seq: int
    at: float
    kind: str
    txn: str | None
    ref: str | None
    tenant: str | None
    leaf: bytes
    body: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """Entry `seq` is in the tree of `size` leaves with this root, as the path shows."""

    seq: int
    size: int
    leaf: bytes
    path: tuple[bytes, ...]
    root: bytes


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


class LogReader:
    """Questions about committed entries. One per thread, round a connection of `open_reader`."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._get = node_getter(conn)

    @property
    def size(self) -> int:
        """How many entries are committed now."""
        return stored_size(self._conn)

    def entry(self, seq: int) -> Entry | None:
        """The entry with this number, or None."""
        found = self._entries(f"{_COLUMNS} WHERE seq = ?", (seq,))
        return found[0] if found else None

    def entries_of(self, txn: str) -> list[Entry]:
        """A transaction's entries, oldest first."""
        return self._entries(f"{_COLUMNS} WHERE txn = ? ORDER BY seq", (txn,))

    def by_ref(self, ref: str, tenant: str | None) -> list[Entry]:
        """A tenant's entries under this ref; another tenant's ref looks like one that does not exist."""
        return self._entries(f"{_COLUMNS} WHERE ref = ? AND tenant IS ? ORDER BY seq", (ref, tenant))

    def by_any_ref(self, ref: str) -> list[Entry]:
        """Every tenant's entries under this ref: for who may see them all."""
        return self._entries(f"{_COLUMNS} WHERE ref = ? ORDER BY seq", (ref,))

    def tail(
        self, after: int, limit: int = MAX_PAGE, kinds: Sequence[str] = (), tenant: str | None = None
    ) -> list[Entry]:
        """Entries with a number above `after` (-1: from the start), oldest first; no kinds: all kinds.

        tenant: only its own entries and those of no tenant; None: all.
        """
        wanted = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        own = "" if tenant is None else " AND (tenant IS NULL OR tenant = ?)"
        query = f"{_COLUMNS} WHERE seq > ?{wanted}{own} ORDER BY seq LIMIT ?"
        whose = () if tenant is None else (tenant,)
        return self._entries(query, (after, *kinds, *whose, max(0, min(limit, MAX_PAGE))))

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` entries; ProofRefused when there are not that many."""
        self._check(size)
        return root_at(size, self._get)

    def inclusion(self, seq: int, size: int) -> Inclusion:
        """The proof that entry `seq` is in the tree of `size`; ProofRefused when it is not."""
        self._check(size)
        path = inclusion_proof(seq, size, self._get)
        leaf, root = self._get(0, seq), root_at(size, self._get)
        return Inclusion(seq=seq, size=size, leaf=leaf, path=tuple(path), root=root)

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the tree of `second` extends that of `first`; ProofRefused when there is none."""
        self._check(second)
        return tuple(consistency_proof(first, second, self._get))

    def checkpoint(self, *, at_least: int = 0) -> str | None:
        """The smallest signed checkpoint of this origin with that size or more; None when there is none.

        With the cosignatures that were kept, as `newest_checkpoint` has them.
        """
        return self._noted(self._conn.execute(_NEXT_CHECKPOINT, (at_least,)).fetchone())

    def cosigned_checkpoint(self, *, at_least: int, quorum: int) -> str | None:
        """As `checkpoint`, but one with so many cosignatures; None when there is none (yet)."""
        if not self._has_cosignatures():
            return None
        return self._noted(self._conn.execute(_NEXT_COSIGNED, (at_least, quorum)).fetchone())

    def newest_checkpoint(self) -> str | None:
        """The newest signed checkpoint of this origin; None before the first."""
        return self._noted(self._conn.execute(_NEWEST_CHECKPOINT).fetchone())

    def _noted(self, row: tuple[str, str, int] | None) -> str | None:
        if row is None:
            return None
        note, origin, size = row
        lines = self._conn.execute(_LINES, (origin, size)) if self._has_cosignatures() else ()
        return note + "".join(line for (line,) in lines)

    def _has_cosignatures(self) -> bool:
        """An older database has no table of them."""
        return self._conn.execute(COSIGNED).fetchone() is not None

    def _entries(self, query: str, values: tuple[object, ...]) -> list[Entry]:
        rows: list[Row] = self._conn.execute(query, values).fetchall()
        return [entry_of(row) for row in rows]

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ProofRefused("invalid_proof", "the log has no such size")


def entry_of(row: Row) -> Entry:
    """The entry in a row of the columns above."""
    seq, at, kind, txn, ref, tenant, leaf, body = row
    return Entry(seq=seq, at=at, kind=kind, txn=txn, ref=ref, tenant=tenant, leaf=leaf, body=body)
