"""A broker of a fleet that is started while its engines are away, or are moving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.rigs.engines import Fleet, fleet

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.wiring.starting import started

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(Path(tmp_path_factory.mktemp("fleet"))) as made:
        yield made


async def test_it_is_ready_as_soon_as_redis_is_there(two: Fleet) -> None:
    stop, redis = asyncio.Event(), two.engines.redis
    redis.kill()

    async def ready() -> str | None:
        async with started(two.settings("three"), stop) as broker:
            assert broker is not None
            return broker.not_ready()

    starting = asyncio.create_task(ready())
    await asyncio.sleep(2.0)
    assert not starting.done()
    await redis.start()
    assert await starting is None


async def test_it_says_why_once_its_patience_is_over(two: Fleet) -> None:
    stop, redis = asyncio.Event(), two.engines.redis
    redis.kill()
    try:
        with pytest.raises(Unavailable, match="Redis"):
            async with started(two.settings("four"), stop, patience_s=1.0):
                pass
    finally:
        await redis.start()
    async with started(two.settings("four"), stop, patience_s=0.0) as broker:
        assert broker is not None


async def test_it_is_not_waited_for_when_it_is_told_to_stop(two: Fleet) -> None:
    stop, redis = asyncio.Event(), two.engines.redis
    redis.kill()

    async def nothing() -> bool:
        async with started(two.settings("five"), stop) as broker:
            return broker is None

    starting = asyncio.create_task(nothing())
    await asyncio.sleep(1.0)
    assert not starting.done()
    stop.set()
    assert await starting
    await redis.start()


async def test_what_no_waiting_mends_is_said_at_once(two: Fleet) -> None:
    settings = two.settings("six")
    assert settings.fleet is not None
    object.__setattr__(settings.fleet, "shards", 5)
    with pytest.raises(Unavailable, match="4 shards for good"):
        async with started(settings, asyncio.Event(), patience_s=3600):
            pass
