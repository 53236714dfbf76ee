"""Redis keeps the contract of `Swift`: on one server, and on a cluster of three."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from redis.crc import key_slot
from tests.contracts.swift_suite import ONE, SHARDS, TWO, SwiftSuite, change, commit, txn
from tests.rigs.redis import RedisServer, redis_cluster, redis_server

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.redis.keys import Keys
from stepwrit_broker.store.fleet.seams import EpochOver

pytestmark = pytest.mark.live


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RedisServer]:
    async with redis_server(tmp_path_factory.mktemp("one")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[list[RedisServer]]:
    async with redis_cluster(tmp_path_factory.mktemp("three")) as started:
        yield started


class TestOneServer(SwiftSuite):
    @pytest.fixture
    async def swift(self, server: RedisServer) -> AsyncGenerator[RedisSwift]:
        swift = RedisSwift.of(server.url, fleet=f"t{secrets.token_hex(4)}", shards=SHARDS, timeout_s=30)
        yield swift
        await swift.close()


class TestCluster(SwiftSuite):
    @pytest.fixture
    async def swift(self, cluster: list[RedisServer]) -> AsyncGenerator[RedisSwift]:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster[:2])
        url = f"redis+cluster://{hosts}"
        swift = RedisSwift.of(url, fleet=f"t{secrets.token_hex(4)}", shards=SHARDS, timeout_s=30)
        yield swift
        await swift.close()

    async def test_the_shards_lie_on_several_nodes(
        self, swift: RedisSwift, cluster: list[RedisServer]
    ) -> None:
        await swift.begin(ONE, 1)
        found = []
        for node in cluster:
            async with node.client() as client:
                found.append(len(await client.keys(f"{{{swift.keys.fleet}:*")))
        assert sum(found) == SHARDS
        assert max(found) < SHARDS

    async def test_a_slot_that_moved_is_refused_and_then_found_without_its_epoch(
        self, swift: RedisSwift, cluster: list[RedisServer]
    ) -> None:
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0, 1))) == 1
        await _move(cluster, swift.keys)
        with pytest.raises(Unavailable):  # MOVED: the script did not run
            await commit(swift, change(txn(0, 2)))
        with pytest.raises(EpochOver):  # its data stayed behind
            await swift.fetch(ONE, txn(0, 1), 0)
        await swift.begin(TWO, 2)
        assert await commit(swift, change(txn(0, 2)), epoch=TWO) == 1


async def _move(cluster: list[RedisServer], keys: Keys) -> None:
    """Shard 0's slot to another node, without its keys: as a careless operator would."""
    slot = key_slot(keys.tag(0).encode())
    ids = []
    for node in cluster:
        async with node.client() as client:
            ids.append(await client.execute_command("CLUSTER", "MYID"))
    for node in cluster:
        async with node.client() as client:
            owned = await client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
            if owned:
                names = await client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, owned)
                await client.delete(*names)
                source = node
    target = next(at for at, node in enumerate(cluster) if node is not source)
    order = [cluster[target], *(node for node in cluster if node is not cluster[target])]
    for node in order:
        async with node.client() as client:
            await client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
