"""Rules that came to nothing leave nothing: on engines in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.fleet.order_suite import code
from tests.fleet.pair import Pair, memory_pair

from stepwrit_broker.core.errors import Unavailable

TOOL = "tool:mail/send"


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with memory_pair() as made:
        yield made


async def gone(*_: object, **__: object) -> None:
    raise Unavailable("unavailable", "no connection", rule="store")


async def hangs(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_freeze_whose_lifting_failed_stands_on_the_broker_that_was_told(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    freeze, lift = pair.make.mark(TOOL, "freeze"), pair.make.mark(TOOL, "freeze", lift=True)
    await pair.one.mark(freeze)
    assert TOOL in pair.one.marks()
    await pair.one.mark(lift)
    assert TOOL not in pair.one.marks()
    await pair.one.mark(pair.make.mark(TOOL, "freeze"))
    again = pair.make.mark(TOOL, "freeze", lift=True)
    with monkeypatch.context() as cut:
        cut.setattr(pair.truths[0], "rule", hangs if is_cancelled else gone)
        telling = asyncio.ensure_future(code(pair.one.mark(again)))
        await asyncio.wait([telling], timeout=0.05)
        assert TOOL in pair.one.marks(), "it is not lifted before the truth has it"
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    assert TOOL in pair.one.marks()
    await pair.one.mark(again)
    assert TOOL not in pair.one.marks()


async def test_a_version_that_came_to_nothing_is_applied_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = pair.make.version("policy", 0)
    with monkeypatch.context() as cut:
        cut.setattr(pair.truths[0], "rule", gone)
        assert await code(pair.one.apply(command)) == "unavailable"
    assert await pair.one.version("policy") is None
    assert (await pair.one.apply(command)).number == 1
    assert await code(pair.two.apply(pair.make.version("policy", 0))) == "stale_version"
    assert (await pair.two.apply(pair.make.version("policy", 1))).number == 2
    assert (await pair.one.apply(pair.make.version("policy", 2))).number == 3


async def test_a_version_whose_answer_was_lost_is_the_same_on_every_broker(pair: Pair) -> None:
    command = pair.make.version("policy", 0)
    first = await pair.one.apply(command)
    assert await pair.one.apply(command) == first
    assert await pair.two.apply(command) == first


async def test_a_mark_that_two_brokers_are_told_at_once_is_one(pair: Pair) -> None:
    command = pair.make.mark("tool:anything")
    again = replace(command, mark=replace(command.mark, ref="OTHER00000"))
    one, two = await asyncio.gather(pair.one.mark(command), pair.two.mark(again))
    assert one == two == (await pair.truths[0].rules()).marks["tool:anything"]
