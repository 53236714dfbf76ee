"""The engines behind relays: who asks is known, any two can be parted, a fail-over comes and goes."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest
from tests.faults.relay import Behaviour
from tests.rigs.fleet import Engines, engines
from tests.rigs.redis import in_sync, until

pytestmark = pytest.mark.live


async def test_a_fail_over_there_and_back_with_all_behind_relays(tmp_path: Path) -> None:
    async with engines(tmp_path) as rig:
        rig.others["test"] = os.getpid
        assert await rig.primary() == "redis-a"
        assert {"redis-b", "sentinel-1", "sentinel-2", "sentinel-3"} <= set(rig.relays["redis-a"].sources)
        await parted(rig)
        for fallen, risen in (("redis-a", "redis-b"), ("redis-b", "redis-a")):
            rig.redis[fallen].pause()
            await rig.failed_over(risen)
            rig.redis[fallen].resume()
            await until(lambda f=fallen: in_sync(rig.redis[f]), f"{fallen} follows")


async def parted(rig: Engines) -> None:
    """PostgreSQL answers this process until it is cut from it, and again once that heals."""
    relay = rig.relays["postgres"]
    conn = await asyncpg.connect(rig.dsn)
    assert relay.sources == ["test"]
    relay.misbehave(Behaviour("cut"), "test")
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await conn.fetchval("SELECT 1")
    conn.terminate()
    relay.heal("test")
    conn = await asyncpg.connect(rig.dsn)
    assert await conn.fetchval("SELECT 1") == 1
    await conn.close()
