"""The tables of a broker's copy of transactions, and whose row a row is.

They are the embedded store's own, in memory, so that the same verbs run on them. Triggers note each row that
a verb touches: what it made of a transaction is read off afterwards, and no verb has to say it twice.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stepwrit_broker.store.schema import SCHEMA

AUTHENTICATORS: Final = "txn_100authenticators"  # an aggregate of its own: few rows, seldom written
_TOUCHED: Final = """
CREATE TABLE touched (
    n INTEGER PRIMARY KEY, tbl TEXT NOT NULL, key TEXT NOT NULL, UNIQUE (tbl, key)
) STRICT;
"""
PLACES: Final = "CREATE TABLE places (grant_id TEXT PRIMARY KEY, keys TEXT NOT NULL) STRICT, WITHOUT ROWID;"


@dataclass(frozen=True, slots=True)
class Table:
    """One table whose rows travel. columns: all but `seq`; key: the columns that name a row."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def _named(self) -> str:
        return " AND ".join(f"{each} = ?" for each in self.key)

    @property
    def select(self) -> str:
        """One row by its key."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} WHERE {self._named}"  # noqa: S608  constants

    @property
    def insert(self) -> str:
        """One row as it was read."""
        places = ", ".join("?" * len(self.columns))
        return f"INSERT OR REPLACE INTO {self.name} ({', '.join(self.columns)}) VALUES ({places})"  # noqa: S608

    @property
    def delete(self) -> str:
        """One row by its key."""
        return f"DELETE FROM {self.name} WHERE {self._named}"  # noqa: S608

    def triggers(self) -> str:
        """Note each row that is touched, under its key."""

        def named(row: str) -> str:
            return " || '|' || ".join(_text(f"{row}.{each}") for each in self.key)

        made = "CREATE TRIGGER {name}_{verb} AFTER {verb} ON {name} BEGIN {note}; END;\n"
        note = "INSERT OR IGNORE INTO touched (tbl, key) VALUES ('{name}', {key})"
        return "".join(
            made.format(name=self.name, verb=verb, note=note.format(name=self.name, key=named(row)))
            for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
        )


def _text(column: str) -> str:
    """A key's column as text; blobs in hex."""
    return f"CASE typeof({column}) WHEN 'blob' THEN hex({column}) ELSE {column} END"


class Copy:
    """The connection in memory, its tables in a known order, and how a row is written down."""

    def __init__(self, log_schema: str) -> None:
        self.conn = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.conn.execute("PRAGMA temp_store = MEMORY")
        self.conn.execute("PRAGMA recursive_triggers = ON")  # an INSERT OR REPLACE tells of both rows
        self.conn.executescript(SCHEMA + log_schema + PLACES + _TOUCHED)
        self.tables: Final = {name: self._table(name, key) for name, key in _KEYS.items()}
        self.conn.executescript("".join(table.triggers() for table in self.tables.values()))

    def _table(self, name: str, key: tuple[str, ...]) -> Table:
        found = self.conn.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
        return Table(name, tuple(row[0] for row in found if row[0] != "seq"), key)

    def touched(self) -> list[tuple[str, str]]:
        """Table and key of each row that was touched, in order; forgets them."""
        rows = self.conn.execute("SELECT tbl, key FROM touched ORDER BY n").fetchall()
        self.conn.execute("DELETE FROM touched")
        return rows

    def read(self, table: str, key: str) -> tuple[Any, ...] | None:
        """The row, or None when it is gone."""
        of = self.tables[table]
        row: tuple[Any, ...] | None = self.conn.execute(of.select, _key(of, key)).fetchone()
        return row

    def put(self, field: str, value: bytes) -> None:
        """Write a row down as `encoded` made it."""
        table, _, _ = field.partition(":")
        self.conn.execute(self.tables[table].insert, msgspec.msgpack.decode(value))

    def drop(self, field: str) -> None:
        """Take a row away."""
        table, _, key = field.partition(":")
        of = self.tables[table]
        self.conn.execute(of.delete, _key(of, key))


_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "txns": ("txn",),
    "salts": ("txn",),
    "steps": ("id",),
    "grants": ("id",),
    "ops": ("key",),
    "sealed_args": ("step",),
    "approvals": ("id",),
    "signatures": ("approval", "issuer", "subject"),
    "authenticators": ("id",),
    "pins": ("key",),
    "places": ("grant_id",),
    "marks": ("target",),
    "versions": ("kind", "number"),
}
_BLOBS: Final = frozenset({"ops", "pins"})


def _key(table: Table, key: str) -> tuple[Any, ...]:
    if table.name in _BLOBS:
        return (bytes.fromhex(key),)
    if len(table.key) == 1:
        return (key,)
    return tuple(key.split("|", len(table.key) - 1))


def encoded(row: tuple[Any, ...]) -> bytes:
    """A row as it travels: a msgpack array of its columns."""
    return msgspec.msgpack.encode(row)


def shard_of_name(name: str, shards: int) -> int:
    """The shard of an aggregate: a transaction's id says it, all others are spread by their name."""
    if name.startswith("txn_1"):
        return int(name[5:7], 16) % shards
    return hashlib.sha256(name.encode()).digest()[0] % shards
