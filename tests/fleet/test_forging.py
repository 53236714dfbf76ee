"""Somebody else writes to the swift engine, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.fleet.forging_suite import ForgingSuite
from tests.fleet.pair import Pair, memory_pair


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with memory_pair() as made:
        yield made


class TestForgingInMemory(ForgingSuite):
    """See the suite."""
