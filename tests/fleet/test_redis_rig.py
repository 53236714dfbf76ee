"""The rig itself: a server of the test's own, its data over a kill, a replica, sentinels, a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.rigs.redis import redis_cluster, redis_replica, redis_sentinels, redis_server

pytestmark = pytest.mark.live


async def test_data_outlive_a_kill_with_appendfsync_always(tmp_path: Path) -> None:
    async with redis_server(tmp_path, appendfsync="always") as server:
        async with server.client() as client:
            assert (await client.config_get("appendfsync"))["appendfsync"] == "always"
            await client.set("k", "v")
        server.kill()
        await server.start()
        async with server.client() as client:
            assert await client.get("k") == b"v"
    assert server.process.returncode is not None


async def test_a_replica_has_the_primarys_data(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as primary:
        async with primary.client() as client:
            await client.set("k", "v")
        async with redis_replica(tmp_path, primary) as replica, replica.client() as client:
            assert await client.get("k") == b"v"


async def test_sentinels_know_the_primary(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as primary,
        redis_replica(tmp_path, primary),
        redis_sentinels(tmp_path, primary) as sentinels,
        sentinels[1].client() as client,
    ):
        assert (await client.sentinel_master("stepwrit"))["port"] == primary.port


async def test_a_cluster_has_all_slots(tmp_path: Path) -> None:
    async with redis_cluster(tmp_path) as nodes, nodes[2].client() as client:
        said = await client.execute_command("CLUSTER", "SLOTS")
        assert len(said) == 3
