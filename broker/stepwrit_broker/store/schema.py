"""The store's file: its tables, its schema version and the lock that makes it one process's own."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from stepwrit_broker.core.errors import Unavailable

APPLICATION_ID: Final = 0x53545057
VERSION: Final = 4
PINS: Final = """
CREATE TABLE IF NOT EXISTS pins (
    key BLOB PRIMARY KEY, jkt TEXT NOT NULL, until REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pins_by_until ON pins (until);
"""
APPROVALS: Final = """
CREATE TABLE IF NOT EXISTS approvals (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, step TEXT NOT NULL UNIQUE, txn TEXT NOT NULL,
    tenant TEXT NOT NULL, requester TEXT NOT NULL, initiator TEXT NOT NULL, tool TEXT NOT NULL,
    state TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL, ended_at REAL NOT NULL,
    asked TEXT NOT NULL, sealed BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS approvals_by_requester ON approvals (requester, state);
CREATE TABLE IF NOT EXISTS signatures (
    approval TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL,
    method TEXT NOT NULL, authenticator TEXT, at REAL NOT NULL, PRIMARY KEY (approval, issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authenticators (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, issuer TEXT NOT NULL, subject TEXT NOT NULL,
    kind TEXT NOT NULL, public_key TEXT NOT NULL UNIQUE, credential TEXT UNIQUE, label TEXT NOT NULL,
    sign_count INTEGER NOT NULL, state TEXT NOT NULL, proposed_at REAL NOT NULL, decided_by TEXT NOT NULL,
    decided_at REAL NOT NULL
) STRICT;
"""
DEFERRED: Final = """
CREATE TABLE IF NOT EXISTS sealed_args (step TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""
AWAITS: Final = "ALTER TABLE steps ADD COLUMN awaits TEXT NOT NULL DEFAULT '';"
# From the version before to the one named; a file that is older than these reach is refused.
UPGRADES: Final[Mapping[int, str]] = {2: PINS, 3: APPROVALS, 4: DEFERRED + AWAITS}

SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS txns (
    txn TEXT PRIMARY KEY, root TEXT NOT NULL, intent TEXT NOT NULL, steps INTEGER NOT NULL,
    server_steps INTEGER NOT NULL, expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, txn TEXT NOT NULL, parent TEXT,
    deferred INTEGER NOT NULL, state TEXT NOT NULL, round INTEGER NOT NULL, performer TEXT,
    accepted_at REAL NOT NULL, beat_at REAL NOT NULL, waiting_at REAL NOT NULL, children INTEGER NOT NULL,
    ended_at REAL NOT NULL, due REAL NOT NULL, body TEXT NOT NULL, awaits TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS steps_by_due ON steps (due);
CREATE INDEX IF NOT EXISTS steps_by_txn ON steps (txn);
CREATE TABLE IF NOT EXISTS grants (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, step TEXT NOT NULL, line INTEGER NOT NULL,
    state TEXT NOT NULL, epoch TEXT NOT NULL, expires_at REAL NOT NULL, redeemed_by TEXT NOT NULL,
    redeemed_at REAL NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS grants_by_step ON grants (step);
CREATE TABLE IF NOT EXISTS ops (
    seq INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, digest TEXT NOT NULL, answer TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS proofs (key BLOB PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS proofs_by_until ON proofs (until);
CREATE TABLE IF NOT EXISTS marks (
    target TEXT PRIMARY KEY, verb TEXT NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL,
    ref TEXT NOT NULL, walked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    kind TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL,
    doc TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, ref TEXT NOT NULL,
    PRIMARY KEY (kind, number)
) STRICT, WITHOUT ROWID;
"""
    + PINS
    + APPROVALS
    + DEFERRED
)

_PRAGMAS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -65536",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA busy_timeout = 200",
)


def in_doubt(reason: str) -> Unavailable:
    """The error for a file that cannot be this store's."""
    return Unavailable("unavailable", reason, rule="store", who_can_change_it="the operator")


class FileLock:
    """Holds a file beside the database, so that exactly one process serves from it.

    Not a lock on the database file itself: closing any descriptor of that drops SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        try:
            self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise in_doubt(f"the store's lock: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise Unavailable(
                "unavailable",
                "another process has this store open: a broker that runs, or is still stopping",
                rule="store lock",
                who_can_change_it="the operator",
            ) from None

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)


def connect(path: Path) -> sqlite3.Connection:
    """The one writing connection. Raises Unavailable for a file that cannot be opened or is no database."""
    try:
        _touch(path)
        conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    except (OSError, sqlite3.Error) as error:
        raise in_doubt(f"the store's file: {error}") from error
    try:
        for pragma in _PRAGMAS:
            conn.execute(pragma)
    except sqlite3.Error as error:
        conn.close()
        raise in_doubt(f"the store's file: {error}") from error
    return conn


def _touch(path: Path) -> None:
    """Make the file its owner's alone, with its name durable, before SQLite would make it otherwise."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that sees what is committed and cannot write."""
    conn = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    conn.execute("PRAGMA query_only = ON")
    conn.execute("PRAGMA busy_timeout = 1000")
    return conn


def prepare(
    conn: sqlite3.Connection,
    log_schema: str,
    *,
    version: int = VERSION,
    upgrades: Mapping[int, str] = UPGRADES,
) -> None:
    """Make the tables, or bring the previous version's up; each in one transaction.

    Raises Unavailable for a newer file, a much older one, and another application's.
    """
    found = _found(conn)
    if found > version:
        raise in_doubt(f"the store has schema {found}, this broker knows {version}: a newer broker wrote it")
    steps = (SCHEMA,) if found == 0 else tuple(_upgrade(upgrades, to) for to in range(found + 1, version + 1))
    script = "".join((*steps, log_schema))
    head = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};"
    try:
        conn.executescript(f"BEGIN IMMEDIATE; {script} {head} COMMIT;")
    except sqlite3.Error as error:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise in_doubt(f"the store's tables: {error}") from error


def _found(conn: sqlite3.Connection) -> int:
    """The file's schema version; 0 for an empty file."""
    tables: int = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    version: int = conn.execute("PRAGMA user_version").fetchone()[0]
    owner: int = conn.execute("PRAGMA application_id").fetchone()[0]
    if tables and owner != APPLICATION_ID:
        raise in_doubt("the file is another application's database")
    return version if tables else 0


def _upgrade(upgrades: Mapping[int, str], to: int) -> str:
    script = upgrades.get(to)
    if script is None:
        raise in_doubt(f"no way from schema {to - 1} to {to}: upgrade through the release in between")
    return script


def check(path: Path) -> list[str]:
    """What SQLite finds wrong with a file; empty when it is whole. Reads only."""
    conn = connect_reader(path)
    try:
        found: list[str] = [row[0] for row in conn.execute("PRAGMA integrity_check(100)")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    finally:
        conn.close()
    return [] if found == ["ok"] else found
