"""The embedded log as the store sees it: it lives in the store's database and moves with its transactions."""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol


class EmbeddedLog(Protocol):
    """An append-only log inside the store's own SQLite transactions.

    The order of calls: `load`; then per batch `append` and `rewind` inside savepoints, `seal` right before
    COMMIT, then `committed`, or `aborted` after ROLLBACK. All are called from one thread.
    """

    @property
    def schema(self) -> str:
        """Its tables; every statement says IF NOT EXISTS."""
        ...

    def load(self, conn: sqlite3.Connection) -> None:
        """Take up the log as the database has it. Raises Unavailable when it is not whole."""
        ...

    def append(
        self,
        conn: sqlite3.Connection,
        *,
        body: bytes,
        at: float,
        kind: str,
        txn: str | None,
        ref: str | None,
        tenant: str | None,
    ) -> int:
        """Add an entry to the open transaction; its number."""
        ...

    def position(self) -> Any:  # the log's own business
        """Where a savepoint stands, for `rewind`."""
        ...

    def rewind(self, position: Any, /) -> None:
        """Forget what was appended since `position`, right after ROLLBACK TO."""
        ...

    def seal(self, conn: sqlite3.Connection) -> None:
        """Fold the batch into the tree."""
        ...

    def committed(self) -> None:
        """COMMIT returned."""
        ...

    def aborted(self, conn: sqlite3.Connection) -> None:
        """After ROLLBACK: take up what the database really has."""
        ...

    def put_salt(self, conn: sqlite3.Connection, txn: str, salt: bytes) -> None:
        """Keep a transaction's salt. Raises Conflict when it has another one."""
        ...

    def get_salt(self, conn: sqlite3.Connection, txn: str) -> bytes | None:
        """The transaction's salt; None when there is none, or none any more."""
        ...

    def erase_salt(self, conn: sqlite3.Connection, txn: str) -> bool:
        """Erase a salt for ever; True if there was one."""
        ...

    def erase_decisions(self, conn: sqlite3.Connection, txn: str) -> int:
        """Erase a transaction's documents; how many there were."""
        ...

    def put_decision(self, conn: sqlite3.Connection, digest: str, txn: str | None, doc: bytes) -> None:
        """Keep a decision document under its salted digest."""
        ...

    @property
    def size(self) -> int:
        """How many entries are committed."""
        ...
