"""One PostgreSQL for the tests of a file, a database for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio
from tests.rigs.postgres import PostgresServer, postgres_server

_number = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres() -> AsyncIterator[PostgresServer]:
    async with postgres_server() as server:
        yield server


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Callable[[str], str]]:
    """An empty database: gives the DSN for a role."""
    name = f"test_{next(_number)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE template0")
    yield lambda role: postgres.dsn_of(role, name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(server: PostgresServer, statement: str) -> None:
    async with connected(server.dsn) as conn:
        await conn.execute(statement)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()
