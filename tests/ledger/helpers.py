"""A log in a temporary database, driven the way a store drives it."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from stepwrit_broker.core.entry import encode
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.checkpoint import Checkpointer, SignedCheckpoint
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader

ORIGIN = "ledger.example/stepwrit"
SEED = b"\x07" * 32
KEY = NoteSigner.from_seed(ORIGIN, SEED)
OTHER_KEY = NoteSigner.from_seed(ORIGIN, b"\x08" * 32)


class Ledger:
    """Database, writer, checkpointer and anchor in one folder."""

    def __init__(self, folder: Path, key: NoteSigner = KEY) -> None:
        self.path = folder / "store.db"
        self.key = key
        self.conn = connect(self.path)
        self.log = SqliteLog()
        self.log.load(self.conn)
        self.anchor = AnchorFile(folder / "anchor.json")
        self.checkpointer = Checkpointer(key, self.anchor)
        self.log.name_log(self.conn, key.name)
        self._readers: list[sqlite3.Connection] = []

    def add(self, count: int, **columns: str | None) -> None:
        self.add_bodies([body_of(self.log.size + i, **columns) for i in range(count)], **columns)

    def add_bodies(self, bodies: Iterable[bytes], **columns: str | None) -> None:
        self.conn.execute("BEGIN IMMEDIATE")
        for body in bodies:
            append(self.log, self.conn, body, **columns)
        self.commit()

    def commit(self) -> None:
        self.log.seal(self.conn)
        self.conn.execute("COMMIT")
        self.log.committed()

    def sign(self, at: float = 1_760_000_000.0) -> SignedCheckpoint:
        return self.checkpointer.sign(self.conn, self.log, epoch="epoch-one", high_water=at, at=at)

    def reader(self) -> LogReader:
        self._readers.append(open_reader(self.path))
        return LogReader(SqliteSource(self._readers[-1]))

    @property
    def source(self) -> SqliteSource:
        return SqliteSource(self.conn)

    def close(self) -> None:
        for conn in (self.conn, *self._readers):
            conn.close()

    def tamper(self, *statements: str) -> None:
        """Change the file as someone with write access would, after the broker has stopped."""
        self.close()
        conn = sqlite3.connect(self.path, isolation_level=None)
        for statement in statements:
            conn.execute(statement)
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        conn.close()


def connect(path: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = OFF")
    conn.executescript(SqliteLog().schema)
    return conn


def append(log: SqliteLog, conn: sqlite3.Connection, body: bytes, **columns: str | None) -> int:
    given = {"txn": None, "ref": None, "tenant": None, **columns}
    return log.append(conn, body=body, at=1_760_000_000.5, kind="step.opened", **given)


def body_of(number: int, **columns: str | None) -> bytes:
    facts = {"n": number, **{k: v for k, v in columns.items() if k != "ref"}}
    return (
        encode("step.opened", columns.get("ref") or "", 1_760_000_000.5, facts) if columns else b"%d" % number
    )
