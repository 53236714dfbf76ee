"""What the verbs tell the ledger, gathered: it is appended where the truth is committed."""

from __future__ import annotations

import sqlite3
from typing import Final

from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.store.fleet.seams import Beside, Kept, Said

MAX_BODY_BYTES = 65_535  # an entry's length is 16 bits in an entry bundle (C2SP tlog-tiles)
NOTHING_BESIDE: Final = Beside(is_salted=False, documents=0)


class Gathering:
    """An `EmbeddedLog` that keeps what it is told until it is taken.

    A transaction's salt is one of its rows, so that whichever broker writes its next entry has it. beside:
    what the truth keeps under the name that is about to be erased.
    """

    schema = "CREATE TABLE salts (txn TEXT PRIMARY KEY, salt BLOB NOT NULL) STRICT, WITHOUT ROWID;"

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.kept: list[Kept] = []
        self.salts: list[tuple[str, bytes]] = []
        self.erased: list[str] = []
        self.beside = NOTHING_BESIDE
        self.size = 0

    def clear(self) -> None:
        """Forget what was gathered."""
        self.said, self.kept, self.salts, self.erased = [], [], [], []

    def load(self, conn: sqlite3.Connection) -> None:
        """Nothing to take up."""

    def append(
        self,
        conn: sqlite3.Connection,  # noqa: ARG002  the port's
        *,
        body: bytes,
        at: float,
        kind: str,
        txn: str | None,
        ref: str | None,
        tenant: str | None,
    ) -> int:
        """Keep one entry. Raises Malformed for one that is too long."""
        if len(body) > MAX_BODY_BYTES:
            raise Malformed("invalid_request", f"a ledger entry has at most {MAX_BODY_BYTES} bytes")
        self.said.append(Said(body, at, kind, txn, ref, tenant))
        return len(self.said) - 1

    def position(self) -> tuple[int, int, int, int]:
        """How much was gathered."""
        return len(self.said), len(self.kept), len(self.salts), len(self.erased)

    def rewind(self, position: tuple[int, int, int, int]) -> None:
        """Forget what was gathered since."""
        said, kept, salts, erased = position
        del self.said[said:], self.kept[kept:], self.salts[salts:], self.erased[erased:]

    def seal(self, conn: sqlite3.Connection) -> None:
        """The tree is grown elsewhere."""

    def committed(self) -> None:
        """The tree is grown elsewhere."""

    def aborted(self, conn: sqlite3.Connection) -> None:
        """The tree is grown elsewhere."""

    def put_salt(self, conn: sqlite3.Connection, txn: str, salt: bytes) -> None:
        """Keep a salt. Raises Conflict when the transaction has another one."""
        conn.execute("INSERT OR IGNORE INTO salts (txn, salt) VALUES (?, ?)", (txn, salt))
        if self.get_salt(conn, txn) != salt:
            raise Conflict("wrong_state", "this transaction has another salt, or an erased one")
        self.salts.append((txn, salt))

    def get_salt(self, conn: sqlite3.Connection, txn: str) -> bytes | None:
        """The transaction's salt."""
        row: tuple[bytes] | None = conn.execute("SELECT salt FROM salts WHERE txn = ?", (txn,)).fetchone()
        return None if row is None else row[0]

    def erase_salt(self, conn: sqlite3.Connection, txn: str) -> bool:
        """The row goes, and with it what stands beside the log: there it is erased."""
        self.erased.append(txn)
        is_here = conn.execute("DELETE FROM salts WHERE txn = ?", (txn,)).rowcount == 1
        return is_here or self.beside.is_salted

    def erase_decisions(self, conn: sqlite3.Connection, txn: str) -> int:  # noqa: ARG002  the port's
        """They go with the salt; as many as there were when the truth was asked."""
        return self.beside.documents

    def put_decision(self, conn: sqlite3.Connection, digest: str, txn: str | None, doc: bytes) -> None:  # noqa: ARG002
        """Keep a document."""
        self.kept.append(Kept(digest, txn, doc))
