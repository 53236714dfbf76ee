"""Of a fleet's brokers the one that carries the streams sweeps; whoever sees that it does not, does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.fakes.fleet import MemorySwift
from tests.fakes.workers import ended
from tests.fleet.test_two_brokers import Fleet

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.store.fleet.store import FleetStore
from stepwrit_broker.store.fleet.sweeping import LATE_S

STEP_S = 300.0  # until a step's time is over that nobody accepts


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.close()


async def pair(fleet: Fleet) -> tuple[FleetStore, FleetStore]:
    """The one that leads, and another."""
    one = await fleet.broker()
    await one.open(fleet.make.open(fleet.make.root_step()))
    two = await fleet.broker()
    assert one.sequencer.leads
    assert not two.sequencer.leads
    return one, two


async def due(fleet: Fleet, store: FleetStore) -> StepRecord:
    """A step that is over now and has not ended."""
    root = await store.open(fleet.make.open(fleet.make.root_step(expires_at=fleet.make.now + STEP_S)))
    fleet.make.now += STEP_S
    return root


async def state(store: FleetStore, record: StepRecord) -> str:
    found = await store.step(record.step.id)
    assert found is not None
    return found.life.state


async def test_the_one_that_carries_the_streams_sweeps_and_the_others_do_not(fleet: Fleet) -> None:
    one, two = await pair(fleet)
    record = await due(fleet, two)
    assert (await two.reap_in_turn(fleet.make.now)).steps == 0
    assert await state(two, record) == "accepted"
    assert (await one.reap_in_turn(fleet.make.now)).steps > 0
    assert await state(two, record) == "expired"


async def test_what_is_late_is_swept_by_whoever_sees_it(fleet: Fleet) -> None:
    one, two = await pair(fleet)
    record = await due(fleet, one)
    fleet.make.now += LATE_S - 0.01
    assert (await two.reap_in_turn(fleet.make.now)).steps == 0
    fleet.make.now += 0.01
    assert (await two.reap_in_turn(fleet.make.now)).steps > 0
    assert await state(one, record) == "expired"


async def test_a_revocation_that_nobody_follows_is_followed_by_any(fleet: Fleet) -> None:
    one, two = await pair(fleet)
    root = await one.open(fleet.make.open(fleet.make.root_step()))
    await one.mark(fleet.make.mark(f"txn:{root.step.txn}"))  # and ends before it has walked
    assert (await two.reap_in_turn(fleet.make.now)).steps == 0
    fleet.make.now += LATE_S
    assert (await two.reap_in_turn(fleet.make.now)).steps == 1
    assert await state(one, root) == "revoked"


async def test_credentials_of_an_epoch_that_is_over_are_the_leaders(fleet: Fleet) -> None:
    one, two = await pair(fleet)
    record = await fleet.accepted(one, two)
    await one.reserve(fleet.make.reserve(fleet.make.grant(record)))
    fleet.swift.lose()
    before = one.epoch
    await one.knows(record.step.txn)
    while two.epoch == before:
        await asyncio.sleep(0.001)
    assert (await two.reap_in_turn(fleet.make.now)).grants == 0
    assert (await one.reap_in_turn(fleet.make.now)).grants == 1


async def test_when_the_leader_is_killed_everything_still_ends(fleet: Fleet) -> None:
    one, two = await pair(fleet)
    record = await due(fleet, one)
    mine, rest = fleet.tasks[: len(one.runs())], fleet.tasks[len(one.runs()) :]
    await ended(mine)  # it gives nothing up: its lease runs out
    fleet.tasks = rest
    while (await two.reap_in_turn(fleet.make.now)).steps == 0:
        await asyncio.sleep(0.01)
    assert await fleet.truth.leader() in ("", two.process)
    assert await state(two, record) == "expired"


async def test_who_leads_and_cannot_reach_redis_lets_another_lead(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await pair(fleet)
    real = MemorySwift.read

    async def gone(self: MemorySwift, *asked: object, **more: object) -> object:
        if await fleet.truth.leader() == one.process:
            raise Unavailable("unavailable", "no connection", rule="store")
        return await real(self, *asked, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MemorySwift, "read", gone)
    while not two.sequencer.leads:
        await asyncio.sleep(0.01)
    record = await two.open(fleet.make.open(fleet.make.root_step()))
    assert await state(two, record) == "accepted"
