"""What Redis refuses, and what it says to nobody: a lost reply, scripts that are gone, no memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contracts.swift_suite import AFTER, NOW, ONE, SHARDS, TWO, change, commit, held, row, txn
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import RedisSwift, scripts
from stepwrit_broker.store.fleet.seams import EpochOver, Once, Stale

pytestmark = pytest.mark.live


def of(url: str, timeout_s: float = 20.0) -> RedisSwift:
    return RedisSwift.of(url, fleet="prod", shards=SHARDS, timeout_s=timeout_s)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    async with redis_server(tmp_path) as started:
        yield started


@pytest.fixture
async def swift(server: RedisServer) -> AsyncGenerator[RedisSwift]:
    swift = of(server.url)
    await swift.begin(ONE, 1)
    yield swift
    await swift.close()


class Relay:
    """Between a client and a server; once told so, it passes no answer on and ends the connection."""

    def __init__(self, port: int) -> None:
        self._port, self.drops, self.connections = port, False, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, away = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.create_task(self._ask(reader, away))
        with contextlib.suppress(OSError):
            while data := await there.read(65536):
                if self.drops:
                    break
                writer.write(data)
        asking.cancel()
        for each in (writer, away):
            each.close()

    async def _ask(self, reader: asyncio.StreamReader, away: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            away.write(data)
        away.close()


@asynccontextmanager
async def relay_to(port: int) -> AsyncGenerator[tuple[Relay, str]]:
    relay = Relay(port)
    listening = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def test_a_lost_reply_runs_nothing_twice(server: RedisServer, swift: RedisSwift) -> None:
    async with relay_to(server.port) as (relay, url):
        far = of(url)
        try:
            assert await commit(far, change(txn(0))) == 1
            relay.drops = True
            with pytest.raises(Unavailable) as lost:
                await commit(far, change(txn(0), 1))
            assert "may have been done" in lost.value.reason
            assert relay.connections == 1
            assert (await held(swift, txn(0))).seq == 2  # it landed, once
            relay.drops = False
            with pytest.raises(Stale):  # whoever repeats it learns that
                await commit(far, change(txn(0), 1))
            proof = Once(b"k" * 16, "me", NOW + 60)
            relay.drops = True
            with pytest.raises(Unavailable):
                await far.claim(ONE, [proof], NOW)
            relay.drops = False
            assert await far.claim(ONE, [proof], NOW) == ["me"]  # a claim's repeat has it
        finally:
            await far.close()
    assert [each.seq for each in await swift.read(ONE, AFTER, 0)] == [1, 2]


async def test_scripts_that_are_gone_are_loaded_again(server: RedisServer, swift: RedisSwift) -> None:
    assert await commit(swift, change(txn(0))) == 1
    async with server.client() as client:
        await client.script_flush()
        assert await asyncio.gather(*(commit(swift, change(txn(0, at + 1))) for at in range(8))) == [
            *range(2, 10)
        ]
        assert await client.script_exists(scripts.COMMIT.sha) == [True]


async def test_without_memory_nothing_is_written_and_room_can_be_made(
    server: RedisServer, swift: RedisSwift
) -> None:
    await commit(swift, change(txn(0), 0, row("a", 0, bytes(100_000))))
    async with server.client() as client:
        await client.config_set("maxmemory", 1)
        with pytest.raises(Unavailable, match="memory"):
            await commit(swift, change(txn(0), 1))
        with pytest.raises(Unavailable, match="memory"):
            await swift.claim(ONE, [Once(b"k" * 16, "me", NOW + 60)], NOW)
        assert (await held(swift, txn(0))).version == 1
        assert [each.seq for each in await swift.read(ONE, AFTER, 0)] == [1]
        await swift.rule(ONE, 1)  # the brake holds
        await swift.trim(ONE, {0: 1})
        assert await swift.evict(ONE, txn(0), 1)
        await client.config_set("maxmemory", 0)
    assert await commit(swift, change(txn(0)), rules=1) == 2


async def test_without_its_replicas_a_primary_takes_nothing(server: RedisServer, swift: RedisSwift) -> None:
    assert await commit(swift, change(txn(0))) == 1
    async with server.client() as client:
        await client.config_set("min-replicas-to-write", 1)
        with pytest.raises(Unavailable):
            await commit(swift, change(txn(0), 1))
        await client.config_set("min-replicas-to-write", 0)
    assert await commit(swift, change(txn(0), 1)) == 2


async def test_a_stream_that_has_a_higher_number_stops_the_commit_whole(
    server: RedisServer, swift: RedisSwift
) -> None:
    await commit(swift, change(txn(0)))
    async with server.client() as client:
        await client.xadd(f"{{prod:00}}:{ONE}:s", {"w": "?"}, id="9-0")
    with pytest.raises(Unavailable):
        await commit(swift, change(txn(0), 1))
    assert (await held(swift, txn(0))).version == 1


async def test_a_layout_of_another_version_is_left_alone(server: RedisServer, swift: RedisSwift) -> None:
    async with server.client() as client:
        await client.hset("{prod:00}:shard", "layout", "2")
        with pytest.raises(Unavailable, match="layout 2"):
            await commit(swift, change(txn(0)))
        with pytest.raises(Unavailable, match="layout 2"):
            await swift.begin(ONE, 1)
        assert await client.xlen(f"{{prod:00}}:{ONE}:s") == 0
    assert await commit(swift, change(txn(1))) == 1


async def test_brokers_with_other_scripts_of_one_layout_work_side_by_side(
    server: RedisServer, swift: RedisSwift, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = scripts.Script("commit", scripts.COMMIT.source + b"-- another\n", "")
    older = scripts.Script("commit", older.source, scripts.digest(older.source))
    assert older.sha != scripts.COMMIT.sha
    assert await commit(swift, change(txn(0))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "COMMIT", older)
        assert await commit(swift, change(txn(0), 1)) == 2
    assert await commit(swift, change(txn(0), 2)) == 3
    async with server.client() as client:
        assert await client.script_exists(scripts.COMMIT.sha, older.sha) == [True, True]


async def test_a_listener_hears_that_its_connection_ended(server: RedisServer, swift: RedisSwift) -> None:
    async with server.client() as client:
        listening = asyncio.create_task(_all(swift))
        while await client.pubsub_numsub("{prod}:told") != [(b"{prod}:told", 1)]:
            await asyncio.sleep(0.01)
        server.kill()
    assert await listening == []


async def _all(swift: RedisSwift) -> list[object]:
    return [each async for each in swift.listen()]


async def test_nothing_is_there(swift: RedisSwift) -> None:
    await swift.begin(ONE, 1)
    nowhere = of("redis://127.0.0.1:1", timeout_s=1)
    for call in (nowhere.begin(ONE, 1), nowhere.read(ONE, AFTER, 0), nowhere.close()):
        with pytest.raises(Unavailable) if call.__name__ != "close" else contextlib.nullcontext():
            await call


async def test_a_closed_engine_connects_no_more(swift: RedisSwift) -> None:
    await swift.begin(ONE, 1)
    await swift.close()
    with pytest.raises(Unavailable):
        await swift.begin(TWO, 2)
    with pytest.raises((EpochOver, Unavailable)):
        await swift.fetch(ONE, txn(0), 0)
