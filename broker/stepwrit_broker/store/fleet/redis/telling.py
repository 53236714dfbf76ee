"""What brokers tell each other, by pub/sub: at most once, lost where nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Final, cast

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError, ResponseError

from stepwrit_broker.store.fleet.redis.keys import Keys
from stepwrit_broker.store.fleet.redis.nodes import Nodes
from stepwrit_broker.store.fleet.redis.trouble import doubtful, refused
from stepwrit_broker.store.fleet.seams import Told

_PING_S: Final = 5.0  # a silent connection is asked whether it still is one


async def tell(nodes: Nodes, keys: Keys, message: Told) -> None:
    """As `Swift.tell`. Raises Unavailable(rule="store")."""
    wire = await nodes.wire(keys.tag(0))
    try:
        await wire.call("PUBLISH", keys.channel, message.kind.encode() + b"\0" + message.body)
    except ResponseError as reply:
        raise refused(reply) from None


async def listen(nodes: Nodes, keys: Keys) -> AsyncIterator[Told]:
    """As `Swift.listen`. Raises Unavailable(rule="store") where it cannot begin."""
    connection = nodes.login.connection(await nodes.where(keys.tag(0)))
    try:
        try:
            await cast("Awaitable[None]", connection.connect())  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", keys.channel, check_health=False)
            await connection.read_response()
        except (OSError, RedisError) as error:
            raise doubtful(error) from None
        async for message in _heard(connection):
            yield message
    finally:
        await connection.disconnect(nowait=True)


async def _heard(connection: Connection) -> AsyncIterator[Told]:
    """Until it is lost, or has not answered a PING."""
    is_asked = False
    with contextlib.suppress(OSError, RedisError):
        while True:
            _heed_cancel()
            said = cast("list[bytes] | None", await connection.read_response(timeout=_PING_S))
            if said is None and is_asked:
                return
            is_asked = said is None
            if said is None:
                await connection.send_command("PING", check_health=False)
            elif said[0] == b"message":
                kind, _, body = said[2].partition(b"\0")
                yield Told(kind.decode(), body)


def _heed_cancel() -> None:
    """redis-py can swallow a cancel while it connects or reads: it is not lost on us."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
