"""Open the embedded store: lock, tables, log, mirrors, epoch, in this order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stepwrit_broker.ports import Entropy
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.log import EmbeddedLog
from stepwrit_broker.store.schema import FileLock, connect, in_doubt, prepare
from stepwrit_broker.store.sqlite import Anchoring, SqliteStore
from stepwrit_broker.store.state import State


def open_store(
    path: Path,
    *,
    log: EmbeddedLog,
    entropy: Entropy,
    anchor: Anchoring | None = None,
    disk: Disk | None = None,
    prepared: Callable[[sqlite3.Connection], None] | None = None,
) -> SqliteStore:
    """Open or make the store's file, take up the log and begin a new epoch.

    prepared: called before the epoch begins, with tables and log in place; it may refuse (an anchor that the
    database does not reach) by raising.

    Raises Unavailable: the file is in use (rule="store lock"), of a newer schema, or not a store.
    """
    real = path.resolve()
    lock = FileLock(real)
    try:
        conn = connect(real)
        try:
            return SqliteStore(real, lock, _ready(conn, real, log, entropy, disk, prepared), anchor)
        except BaseException:
            conn.close()
            raise
    except BaseException:
        lock.release()
        raise


def _ready(
    conn: sqlite3.Connection,
    path: Path,
    log: EmbeddedLog,
    entropy: Entropy,
    disk: Disk | None,
    prepared: Callable[[sqlite3.Connection], None] | None,
) -> State:
    prepare(conn, log.schema)
    log.load(conn)
    if prepared is not None:
        prepared(conn)
    room = disk or Disk(path)
    room.take_ballast()
    state = State(conn, log, entropy, room)
    try:
        state.load()
        state.begin_epoch()
    except sqlite3.Error as error:
        raise in_doubt(f"the store's rows: {error}") from error
    return state


PEPPER: Final = "SELECT value FROM meta WHERE name = 'pepper'"


def own_secret(conn: sqlite3.Connection, made: bytes) -> bytes:
    """The store's own secret (32 bytes): it names persons and makes nonces. `made` at first; never shown."""
    conn.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('pepper', ?)", (made.hex(),))
    found: str = conn.execute(PEPPER).fetchone()[0]
    return bytes.fromhex(found)
