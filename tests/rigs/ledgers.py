"""A log in a real PostgreSQL, with the calls of `tests.ledger.helpers.Ledger`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from tests.ledger.helpers import KEY, body_of
from tests.rigs.postgres import PostgresServer, postgres_server

from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.checkpoint import SignedCheckpoint
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.postgres.reading import Reading
from stepwrit_broker.ledger.postgres.source import PgSource
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ports_ledger import Said

T = TypeVar("T")
AT = 1_760_000_000.5  # October 2025
_numbers = itertools.count()


class Cluster:
    """A server for a module of tests, and the loop on which it is asked."""

    def __init__(self, runner: asyncio.Runner, server: PostgresServer) -> None:
        self.runner, self.server = runner, server

    def database(self) -> str:
        """The DSN of a new, empty database."""
        name = f"ledger_{next(_numbers)}"

        async def make() -> None:
            conn = await asyncpg.connect(self.server.dsn)
            await conn.execute(f"CREATE DATABASE {name}")
            await conn.close()

        self.runner.run(make())
        return self.server.dsn_of("postgres", name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(postgres_server(fsync=False)))
        try:
            yield Cluster(runner, server)
        finally:
            runner.run(stack.aclose())


class PgLedger:
    """A log in a database of its own: writer, checkpointer, anchor, readers."""

    def __init__(self, cluster: Cluster, folder: Path, key: NoteSigner = KEY, dsn: str | None = None) -> None:
        self.cluster, self.key, self.folder = cluster, key, folder
        self.dsn = dsn or cluster.database()
        self.log = PgLog()
        self.conn: Any = self.run(asyncpg.connect(self.dsn))
        self.run(self.conn.execute(self.log.schema))
        self.run(self.log.name_log(self.conn, key.name))
        self.anchor = AnchorFile(folder / "anchor.json")
        self.checkpointer = PgCheckpointer(key, self.anchor)
        self._reading: Reading | None = None

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.cluster.runner.run(wait())

    @property
    def size(self) -> int:
        return int(self.value("SELECT size FROM ledger_head"))

    def value(self, query: str, *values: object) -> Any:
        return self.run(self.conn.fetchval(query, *values))

    def execute(self, statement: str, *values: object) -> str:
        return str(self.run(self.conn.execute(statement, *values)))

    def say(self, *said: Said) -> None:
        self.within(lambda conn: self.log.append(conn, said))

    def within(self, job: Callable[[Any], Awaitable[T]]) -> T:
        async def work() -> T:
            async with self.conn.transaction():
                return await job(self.conn)

        return self.run(work())

    def add(self, count: int, **columns: str | None) -> None:
        first = self.size
        self.add_bodies([body_of(first + i, **columns) for i in range(count)], **columns)

    def add_bodies(self, bodies: Iterable[bytes], at: float = AT, **columns: str | None) -> None:
        given: dict[str, Any] = {"txn": None, "ref": None, "tenant": None, **columns}
        self.say(*(Said(body=body, at=at, kind="step.opened", **given) for body in bodies))

    def sign(self, at: float = AT) -> SignedCheckpoint:
        return self.run(self.checkpointer.sign(self.conn, epoch="epoch-one", high_water=at, at=at))

    @property
    def source(self) -> PgSource:
        self._reading = self._reading or Reading(self.dsn)
        return PgSource(self._reading)

    def reader(self) -> LogReader:
        return LogReader(self.source)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
        self.run(self.conn.close())


@contextmanager
def pg_ledger(cluster: Cluster, folder: Path) -> Iterator[PgLedger]:
    made = PgLedger(cluster, folder)
    try:
        yield made
    finally:
        made.close()
