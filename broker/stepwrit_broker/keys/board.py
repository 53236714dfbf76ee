"""The board of key statements in PostgreSQL: a table of its own, a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg
from asyncpg import exceptions

from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.ports_fleet import STATEMENT_MAX, Posted

T = TypeVar("T")
_create_pool: Final[Any] = asyncpg.create_pool
TIMEOUT_S: Final = 3.0  # the driver's too: it waits for the end of what was given up
MOST: Final = 4_096  # statements that are read
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS broker_keys (
    id text PRIMARY KEY CHECK (length(id) <= 200),
    statement text NOT NULL,
    until double precision NOT NULL
)
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(1398032725, 1)"
_POST: Final = (
    "INSERT INTO broker_keys (id, statement, until) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING"
)
_FORGET: Final = "DELETE FROM broker_keys WHERE until <= $1"
_READ: Final = (  # what no broker posted is not brought here: it could be of any size
    "SELECT id, statement, until FROM broker_keys WHERE until > $1 AND octet_length(statement) <= $3"
    " ORDER BY until DESC LIMIT $2"
)


class PgKeyBoard:
    """The `KeyBoard` port. Made by `open_board`."""

    def __init__(self, pool: Any) -> None:
        self._pool: Final = pool

    async def post(self, posted: Posted, now: float) -> None:
        """As the port has it."""
        if len(posted.text) > STATEMENT_MAX:
            raise Malformed("invalid_request", f"a statement is at most {STATEMENT_MAX} bytes")

        async def work(conn: Any) -> None:
            async with conn.transaction():
                await conn.execute("SET LOCAL synchronous_commit = on")
                await conn.execute(_FORGET, now)
                await conn.execute(_POST, posted.id, posted.text, posted.until)

        await self._with(work)

    async def posted(self, now: float) -> Sequence[Posted]:
        """As the port has it."""

        async def work(conn: Any) -> Sequence[Posted]:
            return [
                Posted(id=row[0], text=row[1], until=row[2])
                for row in await conn.fetch(_READ, now, MOST, STATEMENT_MAX)
            ]

        return await self._with(work)

    async def close(self) -> None:
        """Let go of the connections."""
        self._pool.terminate()

    async def _with(self, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._pool.acquire() as conn:
                return await work(conn)
        except (OSError, TimeoutError, exceptions.PostgresError, exceptions.InterfaceError) as down:
            raise _in_doubt(down) from down


async def open_board(dsn: str, **how: Any) -> PgKeyBoard:
    """On this database; makes the table. how: as `asyncpg.create_pool` takes it. Raises Unavailable."""
    try:
        async with asyncio.timeout(10.0):
            pool: Any = await _create_pool(
                dsn, min_size=0, max_size=2, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S, **how
            )
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute(_LOCK)  # two that start together make it once
                if await conn.fetchval("SELECT to_regclass('broker_keys') IS NULL"):
                    await conn.execute(SCHEMA)
    except (OSError, TimeoutError, exceptions.PostgresError, exceptions.InterfaceError) as down:
        raise _in_doubt(down) from down
    return PgKeyBoard(pool)


def _in_doubt(down: BaseException) -> Unavailable:
    return Unavailable(
        "unavailable",
        f"the brokers' keys cannot be read or posted ({type(down).__name__})",
        rule="store",
        retry_after=1.0,
        who_can_change_it="the operator (PostgreSQL)",
    )
