"""A broker that is told to stop: unready at once, serving on, every connection told to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest_asyncio
from tests.fakes.feed import client
from tests.fakes.stage import Reply, Stage


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as stage:
        yield stage


async def ready(stage: Stage) -> tuple[int, Any]:
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{stage.broker.ops.url}/readyz")
        return answer.status_code, answer.json()["reason"]


async def beats(stage: Stage, step: str) -> Reply:
    return await (await stage.actor("mcp-server/ledger")).heartbeat(step)


async def test_it_is_unready_at_once_and_serves_on(stage: Stage) -> None:
    held = await stage.held()
    before = await beats(stage, held.step)
    assert "connection" not in before.headers
    assert await ready(stage) == (200, None)
    hurry = asyncio.Event()
    draining = asyncio.create_task(stage.broker.drain(3600, hurry))
    await asyncio.sleep(0)
    assert await ready(stage) == (503, "draining")
    assert (await beats(stage, held.step)).headers["connection"] == "close"
    assert (await held.redeem()).status == 200
    assert (await stage.mark("revoke", f"txn:{held.txn}")).status == 200
    assert not draining.done()
    hurry.set()
    await draining


async def test_it_ends_by_itself_when_the_time_is_over(stage: Stage) -> None:
    await stage.broker.drain(0.01)
    assert await ready(stage) == (503, "draining")


async def test_whoever_is_held_is_answered(stage: Stage) -> None:
    async with client(stage, "mcp-server/ledger") as broker:
        first = await broker.ended(None)
        held = asyncio.create_task(broker.ended(first.after, 600))
        while not stage.broker.housed.endings._held:
            await asyncio.sleep(0.01)
        await stage.broker.drain(0.0)
        assert (await held).complete


async def test_whoever_waits_for_an_approval_is_answered_as_things_stand(stage: Stage) -> None:
    bells = stage.broker.housed.bells
    waiting = asyncio.create_task(bells.wait("apr_1", 3600))
    while not bells._waiting:
        await asyncio.sleep(0)
    await stage.broker.drain(0.0)
    await waiting
    await bells.wait("apr_1", 3600)  # and nobody is held any more
