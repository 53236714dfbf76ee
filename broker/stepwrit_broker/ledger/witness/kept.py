"""Cosignatures beside the checkpoints they are on, in the log's database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from stepwrit_broker.ledger.cosignature import Cosigned
from stepwrit_broker.ledger.schema import get_meta
from stepwrit_broker.ports_ledger import Published

_KEEP: Final = "INSERT OR REPLACE INTO cosignatures (origin, size, witness, at, line) VALUES (?, ?, ?, ?, ?)"
_LATEST: Final = (
    "SELECT at FROM cosignatures WHERE origin = ? AND witness = ? ORDER BY size DESC, at DESC LIMIT 1"
)
_QUORUM: Final = (
    "SELECT size, note FROM checkpoints AS c WHERE origin = ? AND size <= ? AND ? <="
    " (SELECT count(*) FROM cosignatures AS w WHERE w.origin = c.origin AND w.size = c.size"
    " AND w.witness IN (SELECT value FROM json_each(?))) ORDER BY size DESC LIMIT 1"
)
_LINES: Final = "SELECT line FROM cosignatures WHERE origin = ? AND size = ? ORDER BY witness"


def keep(conn: sqlite3.Connection, origin: str, size: int, made: Cosigned) -> None:
    """In the caller's transaction; the witness's latest one on this checkpoint replaces an earlier one."""
    conn.execute(_KEEP, (origin, size, made.by.vkey, made.at, made.line))


def latest_at(conn: sqlite3.Connection, vkey: str) -> int:
    """When this witness cosigned last, seconds since the epoch; 0 for never."""
    row: tuple[int] | None = conn.execute(_LATEST, (get_meta(conn, "origin"), vkey)).fetchone()
    return 0 if row is None else row[0]


def newest_with(
    conn: sqlite3.Connection, witnesses: Sequence[str], quorum: int, *, at_most: int
) -> Published | None:
    """The newest checkpoint, up to a size, that so many of these witnesses (vkeys) cosigned.

    All cosignatures that were kept stand under it. None without one.
    """
    origin = get_meta(conn, "origin")
    asked = (origin, at_most, quorum, json.dumps(list(witnesses)))
    row: tuple[int, str] | None = conn.execute(_QUORUM, asked).fetchone()
    if row is None:
        return None
    lines: Sequence[tuple[str]] = conn.execute(_LINES, (origin, row[0])).fetchall()
    return Published(row[0], row[1] + "".join(line for (line,) in lines))
