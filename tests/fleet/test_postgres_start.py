"""Brokers that start at once, or beside others that work: none waits for tables that are there already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.fleet.conftest import connected

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.store.fleet.postgres import schema
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth

pytestmark = pytest.mark.live
Database = Callable[[str], str]
SHARDS = 4
DOCUMENT = "INSERT INTO stepwrit.ledger_decisions (digest, doc) VALUES ($1, '')"
HEAD = "SELECT size FROM stepwrit.ledger_head FOR UPDATE"
ENTRIES = "LOCK TABLE stepwrit.ledger_entries IN ROW EXCLUSIVE MODE"


class NextLog(PgLog):
    """Of a broker that knows one table more."""

    @property
    def schema(self) -> str:
        return super().schema + "CREATE TABLE IF NOT EXISTS ledger_more (n int);"


async def start(dsn: str, log: PgLog | None = None, **more: float) -> None:
    """All that a broker does to the tables at its start."""
    session = Session(dsn=dsn, **more)  # type: ignore[arg-type]
    truth = await open_truth(session, log or PgLog(), SystemClock(), shards=SHARDS)
    async with connected(dsn) as conn:
        await conn.execute("SET search_path = stepwrit")
        await PgLog().prepare_months(conn)
    await truth.close()


@asynccontextmanager
async def committing(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A broker in the middle of a commit: it has locked what a commit locks first."""
    async with connected(dsn) as conn, conn.transaction():
        await conn.execute(DOCUMENT, "sha-256:x")
        await conn.fetchval(HEAD)
        await conn.execute(ENTRIES)
        yield conn


async def test_four_brokers_at_once_on_an_empty_database_again_and_again(database: Database) -> None:
    dsn = database("postgres")
    for _ in range(8):
        async with connected(dsn) as conn:
            await conn.execute("DROP SCHEMA IF EXISTS stepwrit CASCADE")
        await asyncio.gather(*(start(dsn) for _ in range(4)))


async def test_a_start_beside_a_commit_waits_for_no_lock(database: Database) -> None:
    dsn = database("postgres")
    await start(dsn)
    async with committing(dsn):
        await start(dsn, lock_s=0.2)


async def test_tables_that_are_new_wait_for_a_commit_and_are_tried_again(database: Database) -> None:
    dsn = database("postgres")
    await start(dsn)
    async with committing(dsn):
        starting = asyncio.create_task(start(dsn, NextLog(), lock_s=0.2))
        await asyncio.sleep(1.0)
        assert not starting.done()
    await starting
    async with connected(dsn) as conn:
        assert await conn.fetchval("SELECT to_regclass('stepwrit.ledger_more')") is not None
        await conn.execute("DROP TABLE stepwrit.ledger_more")
    await start(dsn, NextLog())
    await start(dsn)  # a broker of before goes on, and undoes nothing
    async with connected(dsn) as conn:
        assert await conn.fetchval("SELECT to_regclass('stepwrit.ledger_more')") is None


async def test_a_role_that_makes_no_tables_is_told_that_the_logs_are_missing(database: Database) -> None:
    dsn = database("postgres")
    async with connected(dsn) as conn:
        await conn.execute("CREATE ROLE follower LOGIN")
        await schema.migrate(conn, PgLog(), shards=SHARDS, brokers=["follower"])
    await start(database("follower"))
    with pytest.raises(Unavailable, match="lacks tables of the ledger"):
        await start(database("follower"), NextLog())


async def test_a_wait_that_does_not_end_is_given_up(database: Database) -> None:
    dsn = database("postgres")
    await start(dsn)
    async with committing(dsn):
        with pytest.raises(Unavailable, match="SQLSTATE 55P03"):
            await start(dsn, NextLog(), lock_s=0.01)
    await start(dsn, NextLog())


async def test_brokers_that_start_beside_commits_deadlock_with_none(database: Database) -> None:
    dsn = database("postgres")
    await start(dsn)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        working = [group.create_task(commits(dsn, n, over)) for n in range(2)]
        for _ in range(5):
            await asyncio.gather(*(start(dsn) for _ in range(4)))
        over.set()
    assert all(each.result() for each in working)


async def commits(dsn: str, n: int, over: asyncio.Event) -> int:
    """One after the other, each a while between what it locks; how many."""
    done = 0
    async with connected(dsn) as conn:
        while not over.is_set():
            async with conn.transaction():
                await conn.execute(DOCUMENT, f"sha-256:{n}:{done}")
                await asyncio.sleep(0.01)
                await conn.fetchval(HEAD)
                await conn.execute(ENTRIES)
            done += 1
    return done
