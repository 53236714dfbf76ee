"""Connections that only read, on an event loop of their own, for callers that wait.

The reading side of the log is synchronous: it runs in worker threads, in the command line and in processes
of its own. asyncpg is not; so its connections live on one thread, and whoever asks waits, for a bounded time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import asyncpg
from asyncpg.exceptions import InterfaceError, PostgresError

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.ledger.postgres.log import Conn
from stepwrit_broker.ledger.schema import in_doubt

TIMEOUT_S: Final = 10.0
CONNECTIONS: Final = 4
SEARCH_PATH: Final = "stepwrit, public"  # the fleet's own schema; a copy of the log may be in another
_READ_ONLY: Final = {
    "default_transaction_read_only": "on",
    "application_name": "stepwrit ledger",
    "search_path": SEARCH_PATH,
    "jit": "off",
}
_TROUBLE: Final = (
    PostgresError,
    InterfaceError,
    OSError,
    TimeoutError,
    ValueError,
)
T = TypeVar("T")
Job = Callable[[Conn], Awaitable[T]]


class Asking(Protocol):
    """Runs a question on a connection, and waits for its answer."""

    def run(self, job: Job[T]) -> T:
        """Raises Unavailable when it cannot be asked, or not answered in time; Problems as they are."""
        ...


class Reading:
    """A few connections to the database at `dsn`. Safe to call from several threads."""

    def __init__(self, dsn: str, *, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS) -> None:
        self._dsn, self._timeout_s, self._connections = dsn, timeout_s, connections
        self._loop: Final = asyncio.new_event_loop()
        self._thread: Final = threading.Thread(target=self._serve, name="ledger reading", daemon=True)
        self._pool: Any = None
        self._opening: asyncio.Lock | None = None
        self._thread.start()

    def close(self) -> None:
        """Let go of the connections, and of the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(self._timeout_s)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self._timeout_s)

    def run(self, job: Job[T]) -> T:
        """On any of the connections."""
        found: T = self._wait(self._on_any(job))
        return found

    @contextmanager
    def pinned(self) -> Generator[Asking]:
        """One connection in one read-only transaction: all that it is asked is of one moment."""
        conn = self._wait(self._begin())
        try:
            yield _Pinned(self._wait, conn)
        finally:
            self._wait(self._rollback(conn))

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _wait(self, work: Any) -> Any:
        if not self._thread.is_alive():
            work.close()
            raise in_doubt("the log is not read any more")
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result(self._timeout_s)
        except Problem:
            raise
        except (*_TROUBLE, concurrent.futures.TimeoutError) as trouble:
            asked.cancel()
            raise in_doubt("the log cannot be read") from trouble

    async def _on_any(self, job: Job[T]) -> T:
        pool = await self._opened()
        async with pool.acquire() as conn:
            return await job(conn)

    async def _begin(self) -> Conn:
        conn = await (await self._opened()).acquire()
        try:
            await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        except BaseException:
            await self._pool.release(conn)
            raise
        return conn

    async def _rollback(self, conn: Conn) -> None:
        try:
            await conn.execute("ROLLBACK")
        finally:
            await self._pool.release(conn)

    async def _opened(self) -> Any:
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(  # type: ignore[no-untyped-call]
                    self._dsn,
                    min_size=0,
                    max_size=self._connections,
                    command_timeout=self._timeout_s,
                    timeout=self._timeout_s,
                    server_settings=_READ_ONLY,
                )
            return self._pool

    async def _end(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            await asyncio.sleep(0)  # the transports say goodbye


class _Pinned:
    def __init__(self, wait: Callable[[Any], Any], conn: Conn) -> None:
        self._wait, self._conn = wait, conn

    def run(self, job: Job[T]) -> T:
        """On this one."""
        found: T = self._wait(job(self._conn))
        return found
