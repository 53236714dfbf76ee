"""The fleet's store keeps the Store port's contract on real engines: Redis, PostgreSQL with the log in it."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import asyncpg
import pytest
import pytest_asyncio
from tests.contracts import store_suites
from tests.contracts.store_suite import Beside, Entry, House
from tests.fakes import build
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy
from tests.fakes.workers import ended
from tests.rigs.postgres import PostgresServer, postgres_server
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.store import FleetStore

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]
SHARDS = 4
A_MOMENT_S = 600.0  # of the suites' own clock
_numbers = itertools.count()
_ENTRIES = (
    "SELECT body FROM (SELECT 0 AS part, seq AS place, body FROM stepwrit.ledger_bodies"
    " UNION ALL SELECT 1, id, body FROM stepwrit.outbox) AS said ORDER BY part, place"
)


@dataclass
class Engines:
    """The servers, and a thread in which a test's plain code may ask them."""

    redis: RedisServer
    postgres: PostgresServer
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def database(self, template: str = "prepared") -> str:
        """A database with the fleet's tables, the DSN of it."""
        name = "prepared" if template == "template0" else f"store_{next(_numbers)}"
        conn = await asyncpg.connect(self.postgres.dsn)
        await conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        await conn.close()
        return self.postgres.dsn_of("postgres", name)

    async def prepare(self) -> None:
        """Make the tables once; each test gets a copy."""
        session = Session(dsn=await self.database("template0"))
        await (await open_truth(session, PgLog(), SystemClock(), shards=SHARDS)).close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engines]:
    folder = tmp_path_factory.mktemp("redis")
    async with redis_server(folder, appendonly="no") as redis, postgres_server(fsync=False) as postgres:
        engines = Engines(redis, postgres)
        await engines.prepare()
        yield engines


class Fleet:
    """One broker after another on the same engines."""

    def __init__(self, engines: Engines, dsn: str) -> None:
        self.engines, self.dsn, self.name = engines, dsn, f"t{secrets.token_hex(4)}"
        self.entropy = SeededEntropy(3)
        self.truth: PostgresTruth
        self.store: FleetStore
        self._tasks: list[asyncio.Future[None]] = []

    async def open(self) -> FleetStore:
        session = Session(dsn=self.dsn)
        self.truth = await open_truth(session, PgLog(), SystemClock(), shards=SHARDS)
        swift = RedisSwift.of(self.engines.redis.url, fleet=self.name, shards=SHARDS, timeout_s=30)
        self.rates = Rates(swift)
        self.store = FleetStore(swift, self.truth, self.rates, self.entropy, me="one", now=lambda: 0.0)
        await self.store.start()
        self.store.use(build.limits(), lambda: 0)
        self._tasks = [asyncio.ensure_future(run()) for run in self.store.runs()]
        return self.store

    async def close(self) -> None:
        await ended(self._tasks)
        await self.truth.lead("one", 0)
        await self.store.close()

    async def restart(self) -> FleetStore:
        """As after a fail-over that lost everything swift."""
        await self.close()
        async with self.engines.redis.client() as client:
            await client.flushall()
        store = await self.open()
        standing = store.epochs.standing
        self.rates.drop(replace(standing, began_at=START - A_MOMENT_S, high=0.0))
        return store

    def entries(self) -> list[Entry]:
        return [json.loads(row[0]) for row in self._rows(_ENTRIES)]

    def beside(self, name: str) -> Beside:
        salts = self._rows("SELECT salt FROM stepwrit.ledger_salts WHERE txn = $1", name)
        docs = self._rows("SELECT doc FROM stepwrit.ledger_decisions WHERE txn = $1", name)
        return Beside(salts[0][0] if salts else None, tuple(row[0] for row in docs))

    def _rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        async def read() -> list[asyncpg.Record]:
            conn = await asyncpg.connect(self.dsn)
            try:
                return await conn.fetch(query, *values)
            finally:
                await conn.close()

        return self.engines.thread.submit(asyncio.run, read()).result()


@asynccontextmanager
async def opened(engines: Engines) -> AsyncGenerator[House]:
    fleet = Fleet(engines, await engines.database())
    store = await fleet.open()
    try:
        yield House(store=store, entries=fleet.entries, restart=fleet.restart, beside=fleet.beside)
    finally:
        await fleet.close()


@pytest_asyncio.fixture(loop_scope="module")
async def house(engines: Engines) -> AsyncIterator[House]:
    async with opened(engines) as house:
        yield house


globals().update(store_suites.tests())
