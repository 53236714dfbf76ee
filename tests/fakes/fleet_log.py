"""A small log for tests of the true engine: entries in one table, numbered by a head that is locked."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from stepwrit_broker.store.fleet.seams import Beside, Contradiction, Kept, Said


class SmallLog:
    """Keeps every promise of `FleetLog` but hashes nothing."""

    schema = """
    CREATE TABLE IF NOT EXISTS entries (
        seq bigint PRIMARY KEY, at double precision NOT NULL, kind text NOT NULL, txn text, ref text,
        tenant text, body bytea NOT NULL
    );
    CREATE TABLE IF NOT EXISTS log_head (one boolean PRIMARY KEY CHECK (one), size bigint NOT NULL);
    INSERT INTO log_head VALUES (true, 0) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS salts (txn text PRIMARY KEY, salt bytea);
    CREATE TABLE IF NOT EXISTS decisions (digest text PRIMARY KEY, txn text, doc bytea NOT NULL);
    """
    movable = ("log_head", "salts", "decisions")

    async def append(self, conn: asyncpg.Connection, entries: Sequence[Said]) -> None:
        size = await conn.fetchval("SELECT size FROM log_head FOR UPDATE")
        rows = [(size + at, e.at, e.kind, e.txn, e.ref, e.tenant, e.body) for at, e in enumerate(entries)]
        await conn.executemany("INSERT INTO entries VALUES ($1, $2, $3, $4, $5, $6, $7)", rows)
        await conn.execute("UPDATE log_head SET size = $1", size + len(rows))

    async def put_salts(self, conn: asyncpg.Connection, salts: Sequence[tuple[str, bytes]]) -> None:
        for txn, salt in salts:
            await conn.execute("INSERT INTO salts VALUES ($1, $2) ON CONFLICT DO NOTHING", txn, salt)
            if await conn.fetchval("SELECT salt FROM salts WHERE txn = $1", txn) != salt:
                raise Contradiction(f"{txn} has another salt")

    async def put_kept(self, conn: asyncpg.Connection, kept: Sequence[Kept]) -> None:
        gone = {row[0] for row in await conn.fetch("SELECT txn FROM salts WHERE salt IS NULL")}
        rows = [(each.digest, each.name, each.doc) for each in kept if each.name not in gone]
        await conn.executemany("INSERT INTO decisions VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", rows)

    async def beside(self, conn: asyncpg.Connection, name: str) -> Beside:
        salts = await conn.fetchval("SELECT count(*) FROM salts WHERE txn = $1 AND salt IS NOT NULL", name)
        documents = await conn.fetchval("SELECT count(*) FROM decisions WHERE txn = $1", name)
        return Beside(salts > 0, documents)

    async def erase(self, conn: asyncpg.Connection, name: str) -> tuple[int, int]:
        before = await self.beside(conn, name)
        await conn.execute("UPDATE salts SET salt = NULL WHERE txn = $1", name)
        await conn.execute("DELETE FROM decisions WHERE txn = $1", name)
        return int(before.is_salted), before.documents
