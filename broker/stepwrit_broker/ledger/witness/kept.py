"""Cosignatures beside the checkpoints they are on, in the log's database."""

from __future__ import annotations

import sqlite3
from typing import Final

from stepwrit_broker.ledger.cosignature import Cosigned

_KEEP: Final = "INSERT OR REPLACE INTO cosignatures (origin, size, witness, at, line) VALUES (?, ?, ?, ?, ?)"


def keep(conn: sqlite3.Connection, origin: str, size: int, made: Cosigned) -> None:
    """In the caller's transaction; the witness's latest one on this checkpoint replaces an earlier one."""
    conn.execute(_KEEP, (origin, size, made.by.vkey, made.at, made.line))
