"""Sentinels that do not agree, name a server that is no primary, or do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.contracts.swift_suite import ONE, SHARDS, change, commit, is_over, txn
from tests.rigs.redis import RedisServer, redis_replica, redis_server, until

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import RedisSwift

pytestmark = pytest.mark.live


class Sentinel:
    """Speaks as one: names whom it was told to; None: it takes connections, and says nothing."""

    def __init__(self, names: RedisServer | None) -> None:
        self.names = names
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await _words(reader):
            if self.names is None:
                continue
            port = str(self.names.port)
            is_asked = words[0].upper() == b"SENTINEL"
            writer.write(
                f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}\r\n".encode() if is_asked else b"+OK\r\n"
            )
            await writer.drain()
        writer.close()


async def _words(reader: asyncio.StreamReader) -> list[bytes]:
    """One command; empty at the end."""
    try:
        count = int((await reader.readuntil(b"\r\n"))[1:])
        words = list[bytes]()
        for _ in range(count):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
    except (asyncio.IncompleteReadError, ConnectionError):
        return []
    return words


@asynccontextmanager
async def watched(*sentinels: Sentinel, timeout_s: float = 5.0) -> AsyncGenerator[RedisSwift]:
    """An engine that asks these."""
    async with AsyncExitStack() as stack:
        for each in sentinels:
            server = await asyncio.start_server(each.serve, "127.0.0.1", 0)
            each.port = server.sockets[0].getsockname()[1]
            stack.callback(server.close)
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        swift = RedisSwift.of(
            f"redis+sentinel://{hosts}/stepwrit", fleet="prod", shards=SHARDS, timeout_s=timeout_s
        )
        stack.push_async_callback(swift.close)
        yield swift


@pytest.fixture
async def two(tmp_path: Path) -> AsyncGenerator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica."""
    async with redis_server(tmp_path) as primary, redis_replica(tmp_path, primary) as replica:
        yield primary, replica


async def test_one_that_still_names_the_primary_of_before_is_outvoted(two) -> None:
    primary, replica = two
    for stale in range(3):
        sentinels = [Sentinel(replica if at == stale else primary) for at in range(3)]
        async with watched(*sentinels) as swift:
            assert await swift.nodes.where("") == ("127.0.0.1", primary.port)


async def test_work_goes_on_with_one_that_is_stale_and_one_that_is_gone(two) -> None:
    primary, replica = two
    sentinels = [Sentinel(replica), Sentinel(primary), Sentinel(primary)]
    async with watched(*sentinels) as swift:
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1


async def test_nobody_waits_for_one_that_does_not_answer_where_the_others_agree(two) -> None:
    primary, _ = two
    async with watched(Sentinel(None), Sentinel(primary), Sentinel(primary), timeout_s=3600) as swift:
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1


async def test_the_only_one_that_answers_is_believed(two) -> None:
    primary, _ = two
    async with watched(Sentinel(None), Sentinel(primary), Sentinel(None), timeout_s=0.5) as swift:
        assert await swift.nodes.where("") == ("127.0.0.1", primary.port)


async def test_none_that_answers(two) -> None:
    del two
    async with watched(Sentinel(None), Sentinel(None), timeout_s=0.2) as swift:
        with pytest.raises(Unavailable, match="no Sentinel names its primary"):
            await swift.nodes.where("")


@pytest.mark.parametrize("is_dead", [False, True])
async def test_all_that_name_a_replica_or_nobody_are_asked_until_they_agree(two, is_dead: bool) -> None:
    """What was connected before the fail-over, and what connects during it, goes on once it is over."""
    primary, replica = two
    sentinels = [Sentinel(primary) for _ in range(3)]
    async with watched(*sentinels) as before, watched(*sentinels) as during:
        await before.begin(ONE, 1)
        await commit(before, change(txn(0)))
        if is_dead:
            primary.kill()
        async with replica.client() as client:
            if not is_dead:
                for each in sentinels:
                    each.names = replica
                await before.nodes.follow()  # as a broker does whose epoch is over
            for swift in (before, during):
                with pytest.raises(Unavailable) as doubt:
                    await commit(swift, change(txn(0), 1))
                assert doubt.value.retry_after is not None
            await client.execute_command("REPLICAOF", "NO", "ONE")
        for each in sentinels:
            each.names = replica
        for swift in (before, during):
            await until(lambda s=swift: is_over(s), "it has found the primary")
