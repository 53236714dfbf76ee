"""Carrying the streams goes on under one lease, which is a commit of its own in the truth."""

from __future__ import annotations

import asyncio

from tests.contracts.test_fleet_store import SHARDS
from tests.fakes.fleet import MemoryTruth
from tests.fleet.test_two_brokers import Fleet

from stepwrit_broker.store.fleet.sequencer import LEAD_S


class Counting(MemoryTruth):
    """Counts who asks for the lease."""

    def __init__(self) -> None:
        super().__init__(SHARDS)
        self.asked: list[str] = []

    async def lead(self, me: str, for_s: float) -> bool:
        self.asked.append(me)
        return await super().lead(me, for_s)


async def test_a_turn_that_follows_another_does_not_ask_for_the_lease() -> None:
    truth = Counting()
    fleet = Fleet(truth=truth)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        store = await fleet.broker()
        for _ in range(30):
            await store.open(fleet.make.open(fleet.make.root_step()))
        assert store.sequencer.committed == 30
        assert 1 <= len(truth.asked) <= 2 + (loop.time() - began) / (LEAD_S / 2)
    finally:
        await fleet.close()


async def test_one_that_waits_for_the_lease_asks_until_it_is_free() -> None:
    truth = Counting()
    assert await truth.lead("somebody else", LEAD_S / 4)
    fleet = Fleet(truth=truth)
    try:
        store = await fleet.broker()
        await store.open(fleet.make.open(fleet.make.root_step()))
        assert truth.asked.count(store.process) > 1
        assert store.sequencer.leads
    finally:
        await fleet.close()
