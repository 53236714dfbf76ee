"""The fleet's store keeps the Store port's contract, on engines in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.contracts import (
    store_suite,
    store_suite_approvals,
    store_suite_causes,
    store_suite_deferred,
    store_suite_ended,
    store_suite_rules,
    store_suite_tasks,
)
from tests.contracts.store_suite import House
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


@asynccontextmanager
async def opened(_folder: object = None) -> AsyncGenerator[House]:
    fleet = Fleet()
    store = await fleet.open()
    try:
        yield House(store=store, entries=fleet.truth.entries, restart=fleet.restart)
    finally:
        await fleet.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


class TestOperations(store_suite.OperationContract):
    pass


class TestOpen(store_suite.OpenContract):
    pass


class TestCauses(store_suite_causes.CauseContract):
    pass


class TestPast(store_suite.PastContract):
    pass


class TestDeclared(store_suite.DeclaredContract):
    pass


class TestAccept(store_suite.AcceptContract):
    pass


class TestDeferred(store_suite_deferred.DeferredContract):
    pass


class TestReserve(store_suite.ReserveContract):
    pass


class TestRedeem(store_suite.RedeemContract):
    pass


class TestMove(store_suite.MoveContract):
    pass


class TestAttend(store_suite_tasks.AttendContract):
    pass


class TestMarks(store_suite_rules.MarkContract):
    pass


class TestVersions(store_suite_rules.VersionContract):
    pass


class TestLedger(store_suite_rules.LedgerContract):
    pass


class TestReap(store_suite_rules.ReapContract):
    pass


class TestEnded(store_suite_ended.EndedContract):
    fresh = staticmethod(opened)
    test_nothing_below_an_end_does_anything_and_everything_else_does = store_suite_ended.cascades()


class TestPins(store_suite_rules.PinContract):
    pass


class TestApprovals(store_suite_approvals.ApprovalContract):
    pass


class TestAuthenticators(store_suite_approvals.AuthenticatorContract):
    pass
