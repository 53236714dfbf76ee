"""The order of a revocation against work under way, on Redis and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from tests.fleet.forging_suite import ForgingSuite
from tests.fleet.order_suite import ClockSuite, EpochSuite, LossSuite, OrderSuite
from tests.fleet.pair import Pair, real_pair
from tests.rigs.postgres import PostgresServer, postgres_server
from tests.rigs.redis import RedisServer, redis_server

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Servers:
    redis: RedisServer
    postgres: PostgresServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    folder = tmp_path_factory.mktemp("redis")
    async with redis_server(folder, appendonly="no") as redis, postgres_server(fsync=False) as postgres:
        yield Servers(redis, postgres)


@pytest_asyncio.fixture(loop_scope="module")
async def pair(servers: Servers) -> AsyncIterator[Pair]:
    async with real_pair(servers.redis, servers.postgres) as made:
        yield made


class TestOrderOnRealEngines(OrderSuite):
    """See the suite."""


class TestEpochsOnRealEngines(EpochSuite):
    """See the suite."""


class TestClocksOnRealEngines(ClockSuite):
    """See the suite."""


class TestForgingOnRealEngines(ForgingSuite):
    """See the suite."""


class TestLossOnRealEngines(LossSuite):
    """See the suite."""
