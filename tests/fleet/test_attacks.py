"""Attacks on several brokers: one proof for several things, and a broker that is cut off from the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest
from tests.fakes.fleet import MemorySwift, MemoryTruth
from tests.fleet.test_two_brokers import Fleet, code

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports import OpenCommand
from stepwrit_broker.store.fleet.store import FleetStore
from stepwrit_broker.wiring.feeding import Newsroom

OLD_S = 1_000.0  # an epoch that does not look proofs up in the truth any more


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.close()


async def opened(fleet: Fleet) -> list[StepRecord]:
    """Two brokers, two transactions, in an epoch that is no more young."""
    await fleet.broker()
    await fleet.broker()
    roots = [await each.open(fleet.make.open(fleet.make.root_step())) for each in fleet.stores]
    fleet.make.now += OLD_S
    return roots


def both(fleet: Fleet, roots: list[StepRecord], digest: str) -> list[tuple[FleetStore, OpenCommand]]:
    """A child of each, by one operation id and one proof."""
    first = fleet.make.open(fleet.make.child_step(roots[0]))
    other = fleet.make.open(fleet.make.child_step(roots[1]))
    second = replace(other, op=replace(first.op, digest=digest), proofs=first.proofs)
    return list(zip(fleet.stores, (first, second), strict=True))


async def test_one_operation_at_two_brokers_at_once_is_one_step(fleet: Fleet) -> None:
    roots = await opened(fleet)
    epoch = fleet.make.epoch
    command = fleet.make.open(fleet.make.child_step(roots[0]))
    one, two = await asyncio.gather(*(each.open(command) for each in fleet.stores))
    assert one == two
    assert fleet.stores[0].epoch == epoch


@pytest.mark.parametrize("digest", ["d", "another"])
async def test_a_proof_for_two_transactions_under_one_operation_id(fleet: Fleet, digest: str) -> None:
    """The truth would take the proof once, and end everybody's epoch over the second time."""
    roots = await opened(fleet)
    epoch = fleet.make.epoch
    tries = both(fleet, roots, digest)
    assert sorted(await asyncio.gather(*(code(at.open(what)) for at, what in tries))) == ["done", "replay"]
    assert [each.epoch for each in fleet.stores] == [epoch, epoch]


@pytest.mark.parametrize("digest", ["d", "another"])
async def test_the_same_one_after_the_other(fleet: Fleet, digest: str) -> None:
    roots = await opened(fleet)
    epoch = fleet.make.epoch
    told = [await code(at.open(what)) for at, what in both(fleet, roots, digest)]
    assert told == ["done", "replay"]
    assert [each.epoch for each in fleet.stores] == [epoch, epoch]


async def test_an_operation_id_of_another_caller_or_key_is_another(fleet: Fleet) -> None:
    roots = await opened(fleet)
    mine = fleet.make.open(fleet.make.child_step(roots[0]))
    for at, change in zip(fleet.stores, ({"caller": "spiffe://a.test/b"}, {"key": "k"}), strict=True):
        theirs = fleet.make.open(fleet.make.child_step(roots[0]))
        theirs = replace(theirs, op=replace(mine.op, **change))
        assert (await at.open(theirs)).step.id == theirs.step.id
    assert (await fleet.stores[0].open(mine)).step.id == mine.step.id
    other = replace(mine, op=replace(mine.op, digest="another"))
    assert await code(fleet.stores[1].open(other)) == "operation_reused"


# --- cut off


class Cable:
    """One broker's way to the truth."""

    def __init__(self, truth: MemoryTruth) -> None:
        self._truth, self.is_cut = truth, False

    def __getattr__(self, verb: str) -> object:
        if self.is_cut:
            raise Unavailable("unavailable", "no connection", rule="store")
        return getattr(self._truth, verb)


async def far_and_near(fleet: Fleet) -> tuple[FleetStore, FleetStore, Cable, Newsroom]:
    """A broker, another at the end of a cable, and what the other tells its guards."""
    near, cable = await fleet.broker(), Cable(fleet.truth)
    fleet.truth = cast("Any", cable)
    far = await fleet.broker()
    room = Newsroom(far.marks, lambda: far.knows_marks)

    async def ruled() -> None:
        room.ruled()

    far.set_ruled(ruled)
    await until_known(far, is_known=True)
    return near, far, cable, room


async def until_known(store: FleetStore, *, is_known: bool) -> None:
    while store.knows_marks is not is_known:
        await asyncio.sleep(0.02)


async def test_a_broker_that_cannot_see_the_truth_tells_no_guard_that_nothing_happened(fleet: Fleet) -> None:
    who = SpiffeId("spiffe://a.test/door")
    with anyio.fail_after(60):
        near, far, cable, room = await far_and_near(fleet)
        follower = room.follow(who, None)
        assert await follower.next(0.0) == ()
        await near.mark(fleet.make.mark("tool:mail/send"))
        assert [each.target for each in await follower.next(30) or ()] == ["tool:mail/send"]

        cable.is_cut = True
        fleet.swift.listeners.clear()
        since = fleet.make.now
        await near.mark(fleet.make.mark("tool:mail/read"))
        await until_known(far, is_known=False)
        assert await follower.next(0.0) is None
        with pytest.raises(Unavailable):
            room.follow(who, since)

        cable.is_cut = False
        await until_known(far, is_known=True)
        assert "tool:mail/read" in [each.target for each in await room.follow(who, since).next(0.0) or ()]


async def test_a_mark_is_heard_by_all_while_the_swift_engine_is_away(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended the epoch, and no other can begin."""
    near, far, _, _ = await far_and_near(fleet)

    async def gone(*_: object) -> None:
        raise Unavailable("unavailable", "no connection", rule="store")

    assert not far.marks()
    for verb in ("rule", "fetch", "hold", "commit", "claim", "begin", "tell"):
        monkeypatch.setattr(MemorySwift, verb, gone)
    await near.mark(fleet.make.mark("tool:mail/send"))
    with anyio.fail_after(60):
        while not far.marks():
            await asyncio.sleep(0.02)
    assert far.knows_marks


async def test_brokers_that_were_given_one_name_hear_each_other_and_one_alone_leads(fleet: Fleet) -> None:
    stores = [await fleet.broker(me="twin") for _ in range(2)]
    with anyio.fail_after(60):
        root = await stores[0].open(fleet.make.open(fleet.make.root_step()))
        child = await stores[0].open(fleet.make.open(fleet.make.child_step(root)))
        record, _ = await stores[0].accept(fleet.make.accept(child))
        heard = asyncio.get_running_loop().create_future()
        stores[1].heed(ended=heard.set_result, marked=lambda: None)
        await stores[0].mark(fleet.make.mark(f"step:{record.step.id}"))
        await stores[0].walk(fleet.make.now)
        assert [each.step for each in await heard] == [record.step.id]
    assert sum(each.sequencer.leads for each in stores) == 1
