"""Another reign: whatever Redis lost, or whoever became the primary, nothing of the old epoch goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.contracts.swift_suite import (
    AFTER,
    NOW,
    ONE,
    SHARDS,
    THREE,
    TWO,
    change,
    commit,
    held,
    is_over,
    txn,
)
from tests.rigs.redis import in_sync, redis_replica, redis_sentinels, redis_server, until

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.seams import EpochOver, Once

pytestmark = pytest.mark.live
Opener = Callable[[str], RedisSwift]


@pytest.fixture
async def opener() -> AsyncGenerator[Opener]:
    opened: list[RedisSwift] = []

    def of(url: str) -> RedisSwift:
        opened.append(RedisSwift.of(url, fleet="prod", shards=SHARDS, timeout_s=5))
        return opened[-1]

    yield of
    for swift in opened:
        await swift.close()


async def reached(swift: RedisSwift, epoch: str) -> None:
    """Once the server answers again, whatever it says."""

    async def answers() -> bool:
        try:
            await swift.fetch(epoch, txn(0), 0)
        except Unavailable:
            return False
        except EpochOver:
            return True
        return True

    await until(answers, "the engine answers")


async def test_a_restarted_server_has_the_data_and_not_the_epoch(tmp_path: Path, opener: Opener) -> None:
    async with redis_server(tmp_path, appendfsync="always") as server:
        swift = opener(server.url)
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1
        server.kill()
        with pytest.raises(Unavailable) as silent:
            await commit(swift, change(txn(0), 1))
        assert silent.value.rule == "store"
        await server.start()
        async with server.client() as client:
            before = await client.hgetall(f"{{prod:00}}:{ONE}:t:{txn(0)}")
            assert before[b"v"] == b"1"
            await reached(swift, ONE)
            with pytest.raises(EpochOver):
                await commit(swift, change(txn(0), 1))
            with pytest.raises(EpochOver):
                await swift.claim(ONE, [Once(b"k" * 16, "me", NOW + 60)], NOW)
            with pytest.raises(EpochOver):
                await swift.begin(ONE, 1)
            assert await client.hgetall(f"{{prod:00}}:{ONE}:t:{txn(0)}") == before
            assert await client.xlen(f"{{prod:00}}:{ONE}:s") == 1
        await swift.begin(TWO, 2)
        assert await commit(swift, change(txn(0)), epoch=TWO) == 1


async def test_a_promoted_replica_that_lost_writes_takes_nothing_of_the_epoch(
    tmp_path: Path, opener: Opener
) -> None:
    async with redis_server(tmp_path) as primary, redis_replica(tmp_path, primary) as replica:
        old, new = opener(primary.url), opener(replica.url)
        await old.begin(ONE, 1)
        await commit(old, change(txn(0)))
        await until(lambda: _has(replica.client, txn(0), b"1"), "the replica has it")
        with pytest.raises(Unavailable):  # a replica is no primary
            await new.fetch(ONE, txn(0), 0)
        async with replica.client() as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # cut off, with what it has
            assert await commit(old, change(txn(0), 1)) == 2  # never replicated
            primary.kill()
            await client.execute_command("REPLICAOF", "NO", "ONE")
        with pytest.raises(EpochOver):
            await commit(new, change(txn(0), 1))
        with pytest.raises(EpochOver):
            await new.begin(ONE, 1)
        assert await _has(replica.client, txn(0), b"1")
        await new.begin(TWO, 2)
        assert await new.read(TWO, AFTER, 0) == []


async def _has(client: Callable[[], object], name: str, version: bytes) -> bool:
    async with client() as opened:  # type: ignore[attr-defined]
        return bool(await opened.hget(f"{{prod:00}}:{ONE}:t:{name}", "v") == version)


async def test_a_to_b_to_a_under_a_living_connection(tmp_path: Path, opener: Opener) -> None:
    """A was cut off, B took over, A came back as B's replica and is promoted: same process, same run id."""
    async with redis_server(tmp_path) as a, redis_replica(tmp_path, a) as b:
        swift = opener(a.url)
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1
        await until(lambda: _has(b.client, txn(0), b"1"), "B has it")
        async with a.client() as at_a, b.client() as at_b:
            connection = await at_a.client_list()
            await at_b.execute_command("REPLICAOF", "NO", "ONE")
            assert await commit(swift, change(txn(0), 1)) == 2  # A does not know, and B will not
            await at_a.execute_command("REPLICAOF", "127.0.0.1", b.port)
            await until(lambda: in_sync(a), "A follows B")
            run_id = (await at_a.info("server"))["run_id"]
            await at_a.execute_command("REPLICAOF", "NO", "ONE")
            assert (await at_a.info("server"))["run_id"] == run_id
            same = {each["id"] for each in await at_a.client_list()} & {each["id"] for each in connection}
            assert len(same) == 2  # ours and this test's: nobody was told
        assert await _has(a.client, txn(0), b"1")
        with pytest.raises(EpochOver):
            await commit(swift, change(txn(0), 1))
        assert await _has(a.client, txn(0), b"1")
        await swift.begin(TWO, 2)
        assert await commit(swift, change(txn(0)), epoch=TWO) == 1


async def test_a_primary_that_became_a_replica_refuses(tmp_path: Path, opener: Opener) -> None:
    async with redis_server(tmp_path) as a, redis_replica(tmp_path, a) as b:
        swift = opener(a.url)
        await swift.begin(ONE, 1)
        await commit(swift, change(txn(0)))
        async with a.client() as at_a, b.client() as at_b:
            await at_b.execute_command("REPLICAOF", "NO", "ONE")
            await at_a.execute_command("REPLICAOF", "127.0.0.1", b.port)
        with pytest.raises((EpochOver, Unavailable)):
            await commit(swift, change(txn(0), 1))
        with pytest.raises((EpochOver, Unavailable)):
            await swift.fetch(ONE, txn(0), 0)


async def test_sentinel_names_the_next_primary(tmp_path: Path, opener: Opener) -> None:
    async with (
        redis_server(tmp_path) as primary,
        redis_replica(tmp_path, primary) as replica,
        redis_sentinels(tmp_path, primary) as sentinels,
    ):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        swift = opener(f"redis+sentinel://{hosts}/stepwrit")
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1
        assert (await held(swift, txn(0))).version == 1
        primary.kill()
        await until(lambda: is_over(swift), "fail-over")
        await swift.begin(TWO, 2)
        assert await commit(swift, change(txn(0)), epoch=TWO) == 1
        async with replica.client() as client:
            assert (await client.info("replication"))["role"] == "master"


async def test_a_wiped_server_knows_no_epoch(tmp_path: Path, opener: Opener) -> None:
    async with redis_server(tmp_path) as server:
        swift = opener(server.url)
        await swift.begin(ONE, 1)
        await commit(swift, change(txn(0)))
        async with server.client() as client:
            await client.flushall()
        with pytest.raises(EpochOver):
            await commit(swift, change(txn(0), 1))


async def test_many_callers_of_a_dead_server_wait_together(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server:
        swift = RedisSwift.of(server.url, fleet="prod", shards=SHARDS, timeout_s=2)
        await until(lambda: _begins(swift), "begin")
        server.pause()  # it listens, and answers nobody
        ends = await asyncio.gather(*(swift.fetch(ONE, txn(0), 0) for _ in range(64)), return_exceptions=True)
        assert all(isinstance(end, Unavailable) for end in ends)
        waiting = [asyncio.create_task(swift.fetch(ONE, txn(at % SHARDS), 0)) for at in range(64)]
        await asyncio.sleep(0)
        assert len(swift.nodes._opening) <= 1
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, Unavailable) for end in ends)
        server.resume()
        await reached(swift, ONE)
        await swift.close()


async def test_a_silent_server_is_not_waited_for_and_asked_anew(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server:
        swift = RedisSwift.of(server.url, fleet="prod", shards=SHARDS, timeout_s=0.2)
        try:
            await until(lambda: _begins(swift), "begin")
            server.pause()
            with pytest.raises(Unavailable):
                await commit(swift, change(txn(0)))
            server.process.send_signal(signal.SIGCONT)
            await reached(swift, ONE)
            ended = await asyncio.gather(commit(swift, change(txn(0))), return_exceptions=True)
            assert ended[0] == 1 or getattr(ended[0], "what", "") == "version"  # it may have landed
        finally:
            await swift.close()


async def _begins(swift: RedisSwift) -> bool:
    try:
        await swift.begin(ONE, 1)
    except Unavailable:
        return False
    return True


async def test_keys_of_an_epoch_that_is_over_are_swept(tmp_path: Path, opener: Opener) -> None:
    async with redis_server(tmp_path) as server:
        swift = opener(server.url)
        await swift.begin(ONE, 1)
        for at in range(50):
            await commit(swift, change(txn(at % SHARDS, at)))
        await swift.claim(ONE, [Once(b"k" * 16, "me", NOW + 60)], NOW)
        async with server.client() as client:
            await client.set("{other:00}:x:y", "stays")
            await client.set("{prod:ff}:x:y", "of no shard of ours")
            await client.set("{prod:zz}:x:y", "nobody's")
            assert await client.keys(f"*{ONE}*")
            await swift.begin(TWO, 2)
            await commit(swift, change(txn(0)), epoch=TWO)
            assert swift.sweeping is not None
            assert await swift.sweeping > 50
            assert await client.keys(f"*{ONE}*") == []
            assert await client.get("{other:00}:x:y") == b"stays"
        assert (await held(swift, txn(0), TWO)).version == 1
        with pytest.raises(EpochOver):
            await swift.begin(ONE, 1)
        await swift.begin(THREE, 3)
