"""The log's tables, and the one way to read subtree hashes out of them.

They live in the store's database, so that an entry and what it records are one transaction.
Columns beside `body` and `leaf` are an index for looking up: only `body` is what the tree commits to.
`leaf` stands before `body`, so that proofs do not read through large bodies.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.merkle import TILE_LEVELS, GetNode, root_of

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, txn TEXT, ref TEXT, tenant TEXT,
    leaf BLOB NOT NULL, body BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_ref ON entries (ref, tenant) WHERE ref IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_by_txn ON entries (txn) WHERE txn IS NOT NULL;
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (
    origin TEXT NOT NULL, size INTEGER NOT NULL, at REAL NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (origin, size)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cosignatures (
    origin TEXT NOT NULL, size INTEGER NOT NULL, witness TEXT NOT NULL, at INTEGER NOT NULL,
    line TEXT NOT NULL, PRIMARY KEY (origin, size, witness)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS salts (txn TEXT PRIMARY KEY, salt BLOB) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decisions (
    digest TEXT PRIMARY KEY, txn TEXT, doc BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decisions_by_txn ON decisions (txn) WHERE txn IS NOT NULL;
CREATE TABLE IF NOT EXISTS log_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""

_LEAVES = "SELECT leaf FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"
_TOPS = "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"


COSIGNED = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'cosignatures'"


def in_doubt(reason: str) -> Unavailable:
    """The error for a log that is not what it must be: nothing is appended or signed on it."""
    return Unavailable("unavailable", reason, rule="the ledger", who_can_change_it="the operator")


def node_getter(conn: sqlite3.Connection) -> GetNode:
    """Subtree hashes as stored; reads at most 128 rows for one. It raises Unavailable for a hole."""

    def get(level: int, index: int) -> bytes:
        stored = level - level % TILE_LEVELS
        shift = level - stored
        first, end = index << shift, (index + 1) << shift
        rows = conn.execute(_TOPS, (stored, first, end)) if stored else conn.execute(_LEAVES, (first, end))
        hashes: list[bytes] = [row[0] for row in rows]
        if len(hashes) != end - first:
            raise in_doubt(f"hashes are missing in the subtree ({level}, {index})")
        return root_of(hashes)

    return get


def stored_size(conn: sqlite3.Connection) -> int:
    """One more than the highest sequence number."""
    size: int = conn.execute("SELECT ifnull(max(seq) + 1, 0) FROM entries").fetchone()[0]
    return size


def get_meta(conn: sqlite3.Connection, name: str) -> str | None:
    """A named value of the log, or None."""
    row: tuple[str] | None = conn.execute("SELECT value FROM log_meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def set_meta(conn: sqlite3.Connection, name: str, value: str) -> None:
    """Set a named value, in the caller's transaction."""
    conn.execute("INSERT OR REPLACE INTO log_meta (name, value) VALUES (?, ?)", (name, value))
