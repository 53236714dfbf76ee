"""One operation id, one proof, several things: a caller, or a thief of a bearer's request, at two brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.fleet.test_two_brokers import Fleet, code

from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports import OpenCommand
from stepwrit_broker.store.fleet.store import FleetStore

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
