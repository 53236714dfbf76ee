"""A log of each kind, for the contracts of what reads it: written, signed and spoilt in the same words."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from tests.ledger.helpers import Ledger
from tests.rigs.ledgers import Cluster, PgLedger

from stepwrit_broker.ledger.view import LogView
from stepwrit_broker.ports_ledger import Kept, Said


class SqliteBook:
    """The embedded one."""

    read_only = sqlite3.OperationalError

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.view = LogView(self.ledger.reader().source)

    def write(self, kind: str, ref: str, tenant: str | None, txn: str | None, **more: str) -> int:
        body = json.dumps({"kind": kind, "ref": ref, **more}).encode()
        conn, log = self.ledger.conn, self.ledger.log
        conn.execute("BEGIN")
        seq = log.append(conn, body=body, at=1.0, kind=kind, txn=txn, ref=ref, tenant=tenant)
        self.ledger.commit()
        return seq

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        """An entry that is never committed."""
        conn, log = self.ledger.conn, self.ledger.log
        conn.execute("BEGIN")
        log.append(conn, body=b"{}", at=1.0, kind="refused", txn=None, ref="REF0000002", tenant="a")
        yield
        conn.execute("ROLLBACK")
        log.aborted(conn)

    def sign(self) -> None:
        self.ledger.sign()

    def keep(self, digest: str, txn: str, doc: bytes, salt: bytes) -> None:
        conn = self.ledger.conn
        self.ledger.log.put_salt(conn, txn, salt)
        self.ledger.log.put_decision(conn, digest, txn, doc)

    def erase(self, txn: str) -> None:
        """Salt and documents."""
        self.erase_salt(txn)
        self.ledger.log.erase_decisions(self.ledger.conn, txn)

    def erase_salt(self, txn: str) -> None:
        self.ledger.log.erase_salt(self.ledger.conn, txn)

    def spoil(self, salt: bytes, doc: bytes) -> None:
        """All salts and documents become these."""
        self.ledger.conn.execute("UPDATE salts SET salt = ?", (salt,))
        self.ledger.conn.execute("UPDATE decisions SET doc = ?", (doc,))

    def drop_body(self, seq: int) -> None:
        self.ledger.conn.execute("UPDATE entries SET body = NULL WHERE seq = ?", (seq,))

    def delete_by_view(self) -> None:
        self.view._source._conn.execute("DELETE FROM entries")  # type: ignore[attr-defined]

    def close(self) -> None:
        self.ledger.close()


class PgBook:
    """That of a fleet."""

    read_only = asyncpg.ReadOnlySQLTransactionError

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.ledger = PgLedger(cluster, folder)
        self.view = LogView(self.ledger.reader().source)

    def write(self, kind: str, ref: str, tenant: str | None, txn: str | None, **more: str) -> int:
        body = json.dumps({"kind": kind, "ref": ref, **more}).encode()
        self.ledger.say(Said(body, 1.0, kind, txn, ref, tenant))
        return self.ledger.size - 1

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        conn = self.ledger.conn
        self.ledger.execute("BEGIN")
        self.ledger.run(self.ledger.log.append(conn, [Said(b"{}", 1.0, "refused", None, "REF0000002", "a")]))
        yield
        self.ledger.execute("ROLLBACK")

    def sign(self) -> None:
        self.ledger.sign()

    def keep(self, digest: str, txn: str, doc: bytes, salt: bytes) -> None:
        log, conn = self.ledger.log, self.ledger.conn
        self.ledger.run(log.put_salts(conn, [(txn, salt)]))
        self.ledger.run(log.put_kept(conn, [Kept(digest, txn, doc)]))

    def erase(self, txn: str) -> None:
        self.ledger.run(self.ledger.log.erase(self.ledger.conn, txn))

    def erase_salt(self, txn: str) -> None:
        self.ledger.execute("UPDATE ledger_salts SET salt = NULL WHERE txn = $1", txn)

    def spoil(self, salt: bytes, doc: bytes) -> None:
        self.ledger.execute("UPDATE ledger_salts SET salt = $1", salt)
        self.ledger.execute("UPDATE ledger_decisions SET doc = $1", doc)

    def drop_body(self, seq: int) -> None:
        self.ledger.execute("DELETE FROM ledger_bodies WHERE seq = $1", seq)

    def delete_by_view(self) -> None:
        async def delete() -> None:
            pool = await self.view._source._reading._opened()  # type: ignore[attr-defined]
            async with pool.acquire() as conn:
                await conn.execute("DELETE FROM ledger_entries")

        loop = self.view._source._reading._loop  # type: ignore[attr-defined]
        asyncio.run_coroutine_threadsafe(delete(), loop).result(10)

    def close(self) -> None:
        self.ledger.close()


Book = SqliteBook | PgBook
