"""The fleet's store keeps the Store port's contract, on engines in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.contracts import store_suite_ended, store_suites
from tests.contracts.store_suite import Beside, House
from tests.fakes import build
from tests.fakes.entropy import SeededEntropy
from tests.fakes.fleet import MemorySwift, MemoryTruth
from tests.fakes.workers import ended

from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.store import FleetStore

SHARDS = 4
A_MOMENT_S = 1.0
"""How long a fail-over takes, in which limits fill a little: the suites' clock stands still meanwhile."""


class Fleet:
    """Two engines, and one broker after another."""

    def __init__(self) -> None:
        self.swift, self.truth = MemorySwift(SHARDS), MemoryTruth(SHARDS)
        self.entropy = SeededEntropy(3)
        self.store: FleetStore
        self._tasks: list[asyncio.Future[None]] = []

    async def open(self) -> FleetStore:
        self.rates = Rates(self.swift)
        self.store = FleetStore(self.swift, self.truth, self.rates, self.entropy, me="one", now=lambda: 0.0)
        await self.store.start()
        self.store.use(build.limits(), lambda: 0)
        self._tasks = [asyncio.ensure_future(run()) for run in self.store.runs()]
        return self.store

    async def close(self) -> None:
        await ended(self._tasks)

    async def restart(self) -> FleetStore:
        """As after a fail-over that lost everything swift."""
        await self.close()
        self.swift.lose()
        store = await self.open()
        standing = store.epochs.standing
        self.rates.drop(replace(standing, began_at=standing.began_at - A_MOMENT_S))
        return store

    def beside(self, name: str) -> Beside:
        docs = tuple(each.doc for each in self.truth.kept.values() if each.name == name)
        return Beside(self.truth.salts.get(name), docs)


@asynccontextmanager
async def opened(_folder: object = None) -> AsyncGenerator[House]:
    fleet = Fleet()
    store = await fleet.open()
    try:
        yield House(store=store, entries=fleet.truth.entries, restart=fleet.restart, beside=fleet.beside)
    finally:
        await fleet.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


globals().update(store_suites.tests())


class TestEnded(store_suite_ended.EndedContract):
    fresh = staticmethod(opened)
    test_nothing_below_an_end_does_anything_and_everything_else_does = store_suite_ended.cascades()
