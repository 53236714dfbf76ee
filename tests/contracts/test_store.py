"""The embedded store keeps the Store port's contract."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

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
from tests.contracts.store_suite import Entry, House, refusal
from tests.fakes import build
from tests.fakes.entropy import SeededEntropy

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store


class Embedded:
    """One database file, opened again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entropy = SeededEntropy(3)
        self.store = self._open()

    def _open(self) -> SqliteStore:
        store = open_store(self.path, log=SqliteLog(), entropy=self.entropy)
        store.use(build.limits(), lambda: 0)
        return store

    async def restart(self) -> SqliteStore:
        await self.store.close()
        self.store = self._open()
        return self.store

    def entries(self) -> list[Entry]:
        conn = sqlite3.connect(self.path)
        try:
            return [json.loads(row[0]) for row in conn.execute("SELECT body FROM entries ORDER BY seq")]
        finally:
            conn.close()


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[House]:
    embedded = Embedded(folder / "store.db")
    try:
        yield House(store=embedded.store, entries=embedded.entries, restart=embedded.restart)
    finally:
        await embedded.store.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as house:
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


class TestCopy(store_suite_rules.CopyContract):
    pass


class TestPins(store_suite_rules.PinContract):
    pass


class TestApprovals(store_suite_approvals.ApprovalContract):
    pass


class TestAuthenticators(store_suite_approvals.AuthenticatorContract):
    pass


GRANTS = ("open", "accept", "resume", "reserve", "redeem")


async def granting(house: House) -> dict[str, Callable[[], Awaitable[object]]]:
    """A call of each verb that grants something; each would succeed."""
    root = await house.root(expires_at=house.now + 7200)
    job = await store_suite_deferred.deferred(house, root)
    waits, runs, grant = await house.child(), await house.accepted(), await house.issued()
    return {
        "open": lambda: house.store.open(house.make.open(house.make.child_step(root))),
        "accept": lambda: house.store.accept(house.make.accept(waits)),
        "resume": lambda: house.store.resume(house.make.resume(job)),
        "reserve": lambda: house.store.reserve(house.make.reserve(house.make.grant(runs))),
        "redeem": lambda: house.store.redeem(house.make.redeem(grant)),
    }


@pytest.mark.parametrize("verb", GRANTS)
async def test_nothing_is_granted_that_the_guard_refuses(house: House, verb: str) -> None:
    """A ledger that was set back must not grant by any verb."""
    tries, asked = await granting(house), list[str]()
    kinds = house.kinds()

    def refuse(name: str) -> None:
        asked.append(name)
        raise Unavailable("unavailable", "another history", rule="witness")

    guarded = cast("SqliteStore", house.store)
    guarded.set_guard(refuse)
    assert (await refusal(tries[verb]())).rule == "witness"
    assert (asked, house.kinds()) == ([verb], kinds)
    guarded.set_guard(asked.append)
    await tries[verb]()
    assert len(house.kinds()) > len(kinds)
