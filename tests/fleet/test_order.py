"""The order of a revocation against work under way, on engines in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.fleet.order_suite import ClockSuite, EpochSuite, LossSuite, OrderSuite
from tests.fleet.pair import Pair, memory_pair


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with memory_pair() as made:
        yield made


class TestOrderInMemory(OrderSuite):
    """See the suite."""


class TestEpochsInMemory(EpochSuite):
    """See the suite."""


class TestClocksInMemory(ClockSuite):
    """See the suite."""


class TestLossInMemory(LossSuite):
    """See the suite."""
