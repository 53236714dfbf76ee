"""What one request sees while another works on the same transaction, and whose turn it is to carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.fleet.pair import Pair, memory_pair

from stepwrit_broker.core.errors import Unavailable


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with memory_pair() as made:
        yield made


async def gone(*_: object, **__: object) -> None:
    raise Unavailable("unavailable", "no connection", rule="store")


async def test_a_read_never_sees_a_copy_that_another_request_let_go(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for what is under way; meanwhile another one finds its copy old, and makes it anew."""
    record = await pair.accepted()
    txn, before = record.step.txn, await pair.one.past(record.step.txn)
    assert before.steps
    assert await pair.one.step(record.step.id) == record
    await pair.hold()
    made = asyncio.ensure_future(pair.one.open(pair.make.open(pair.make.child_step(record))))
    await pair.ordered()
    reads = [
        asyncio.ensure_future(read)
        for read in (pair.one.past(txn), pair.one.step(record.step.id), pair.one.knows(txn))
    ]
    await asyncio.sleep(0.01)
    other = asyncio.ensure_future(pair.two.open(pair.make.open(pair.make.child_step(record))))
    await asyncio.sleep(0.01)
    waits, goes_on = asyncio.Event(), asyncio.Event()
    fetch = pair.swifts[0].fetch

    async def slow(epoch: str, name: str, known: int) -> object:
        waits.set()
        await goes_on.wait()
        return await fetch(epoch, name, known)

    monkeypatch.setattr(pair.swifts[0], "fetch", slow)
    late = asyncio.ensure_future(pair.one.open(pair.make.open(pair.make.child_step(record))))
    await waits.wait()
    pair.carry()
    past, step, knows = await asyncio.gather(*reads)
    goes_on.set()
    assert knows
    assert step is not None
    assert step.life.children == 1
    assert len(past.steps) == len(before.steps) + 1
    assert len({each.step.id for each in await asyncio.gather(made, other, late)}) == 3


async def test_who_cannot_read_the_streams_lets_another_carry_them(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off from Redis and not from PostgreSQL: the lease alone would be renewed for ever."""
    await pair.one.open(pair.make.open(pair.make.root_step()))
    await pair.hold()
    monkeypatch.setattr(pair.swifts[0], "read", gone)
    assert await pair.truths[0].lead(pair.one.process, 60)
    pair.carry()
    root = await pair.two.open(pair.make.open(pair.make.root_step()))
    assert await pair.truths[0].whose(f"steps:{root.step.id}") == root.step.txn
