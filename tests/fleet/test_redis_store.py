"""The fleet's store keeps the Store port's contract on a real Redis; the truth stays in memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.contracts import test_fleet_store as in_memory
from tests.contracts.store_suite import House
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.store import FleetStore

pytestmark = pytest.mark.live


class Fleet(in_memory.Fleet):
    """As there; what a fail-over loses is lost by FLUSHALL."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._server, self._name = server, f"t{secrets.token_hex(4)}"
        self.swift: Any = self._connected()

    def _connected(self) -> RedisSwift:
        return RedisSwift.of(self._server.url, fleet=self._name, shards=in_memory.SHARDS, timeout_s=30)

    async def close(self) -> None:
        await super().close()
        await self.swift.close()

    async def restart(self) -> FleetStore:
        await self.close()
        async with self._server.client() as client:
            await client.flushall()
        self.swift = self._connected()
        store = await self.open()
        standing = store.epochs.standing
        self.rates.drop(replace(standing, began_at=standing.began_at - in_memory.A_MOMENT_S))
        return store


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RedisServer]:
    async with redis_server(tmp_path_factory.mktemp("one")) as started:
        yield started


@asynccontextmanager
async def opened_on(server: RedisServer) -> AsyncGenerator[House]:
    fleet = Fleet(server)
    store = await fleet.open()
    try:
        yield House(store=store, entries=fleet.truth.entries, restart=fleet.restart)
    finally:
        await fleet.close()


@pytest.fixture
async def house(server: RedisServer) -> AsyncIterator[House]:
    async with opened_on(server) as house:
        yield house


class TestOperations(in_memory.TestOperations):
    pass


class TestOpen(in_memory.TestOpen):
    pass


class TestCauses(in_memory.TestCauses):
    pass


class TestPast(in_memory.TestPast):
    pass


class TestDeclared(in_memory.TestDeclared):
    pass


class TestAccept(in_memory.TestAccept):
    pass


class TestDeferred(in_memory.TestDeferred):
    pass


class TestReserve(in_memory.TestReserve):
    pass


class TestRedeem(in_memory.TestRedeem):
    pass


class TestMove(in_memory.TestMove):
    pass


class TestAttend(in_memory.TestAttend):
    pass


class TestMarks(in_memory.TestMarks):
    pass


class TestVersions(in_memory.TestVersions):
    pass


class TestLedger(in_memory.TestLedger):
    pass


class TestReap(in_memory.TestReap):
    pass


class TestPins(in_memory.TestPins):
    pass


class TestApprovals(in_memory.TestApprovals):
    pass


class TestAuthenticators(in_memory.TestAuthenticators):
    pass
