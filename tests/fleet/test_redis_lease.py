"""A lease of cells is core.limits, cell by cell, whatever the clock does."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.swift_suite import NOW, ONE, limit
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.core.limits import Allowed, RateLimit, spend
from stepwrit_broker.core.slices import Ask, Taken, take
from stepwrit_broker.store.fleet.redis import RedisSwift

pytestmark = pytest.mark.live
ASKED = st.lists(st.tuples(st.integers(-40, 60), st.integers(1, 12)), min_size=1, max_size=30)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RedisServer]:
    async with redis_server(tmp_path_factory.mktemp("one")) as started:
        yield started


def oracle(each: RateLimit, tat: float, wanted: int, now: float) -> tuple[int, float]:
    """How many of these cells core.limits allows one after the other, and what it then stores."""
    for cell in range(wanted):
        outcome = spend(each, tat, now)
        if not isinstance(outcome, Allowed):
            return cell, tat
        tat = outcome.tat
    return wanted, tat


@settings(max_examples=60)
@given(asked=ASKED, count=st.sampled_from([1, 4, 10, 64]), burst=st.integers(1, 20))
def test_the_same_sequence_gives_the_same_cells(
    server: RedisServer, asked: list[tuple[int, int]], count: int, burst: int
) -> None:
    asyncio.run(compare(server.url, limit(count=count, period_s=8.0, burst=burst), asked))


async def compare(url: str, each: RateLimit, asked: list[tuple[int, int]]) -> None:
    swift = RedisSwift.of(url, fleet=f"t{secrets.token_hex(8)}", shards=1, timeout_s=30)
    try:
        await swift.begin(ONE, 1)
        tat, now = 0.0, NOW
        for moved, wanted in asked:
            now += moved / 16
            cells, tat = oracle(each, tat, wanted, now)
            at_once = Ask(
                interval=each.period_s / each.count,
                burst=each.burst,
                wanted=wanted,
                life=0.0,
                since=0.0,
                now=now,
            )
            assert (await swift.lease(ONE, "key", at_once)).cells == cells
    finally:
        await swift.close()


CASES = json.loads((Path(__file__).parents[1] / "vectors/leases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_the_vectors_of_the_rule_to_the_bit(server: RedisServer, case: dict[str, Any]) -> None:
    swift = RedisSwift.of(server.url, fleet=f"t{secrets.token_hex(8)}", shards=1, timeout_s=30)
    try:
        await swift.begin(ONE, 1)
        for step in case["steps"]:
            await one_step(swift, case, step)
    finally:
        await swift.close()


async def one_step(swift: RedisSwift, case: dict[str, Any], step: dict[str, Any]) -> None:
    if "ask" in step:
        rule = {"interval": case["interval"], "burst": case["burst"], "since": case["since"]}
        taken = await swift.lease(ONE, "key", Ask(**rule, **step["ask"]))
        assert taken == Taken(cells=step["cells"], tat=step["tat"], retry_after=step["retry_after"])
        return
    await swift.give_back(ONE, "key", step["known"], step["give_back"], case["interval"])
    if step["tat"] is not None:
        stands = Ask(interval=1e-9, burst=1, wanted=0, life=0.0, since=0.0, now=0.0)
        assert (await swift.lease(ONE, "key", stands)).tat == step["tat"]


FLOATS = st.floats(0, 5, allow_nan=False)


@settings(max_examples=40)
@given(
    asked=st.lists(st.tuples(FLOATS, st.integers(1, 9), FLOATS), min_size=1, max_size=20),
    interval=st.floats(0.01, 3.0),
    burst=st.integers(1, 50),
    since=st.floats(-5.0, 5.0),
)
def test_any_sequence_to_the_bit(
    server: RedisServer, asked: list[tuple[float, int, float]], interval: float, burst: int, since: float
) -> None:
    asks = [
        Ask(interval=interval, burst=burst, wanted=wanted, life=life, since=NOW + since, now=NOW + at)
        for at, wanted, life in asked
    ]
    asyncio.run(same(server.url, asks))


async def same(url: str, asks: list[Ask]) -> None:
    swift = RedisSwift.of(url, fleet=f"t{secrets.token_hex(8)}", shards=1, timeout_s=30)
    try:
        await swift.begin(ONE, 1)
        tat: float | None = None
        for ask in asks:
            expected = take(tat, ask)
            assert await swift.lease(ONE, "key", ask) == expected
            tat = expected.tat if expected.cells else tat
    finally:
        await swift.close()
