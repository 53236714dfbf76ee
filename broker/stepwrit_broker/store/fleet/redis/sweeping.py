"""Keys of epochs that are over take memory and nothing else: they are taken away beside the work."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis import scripts
from stepwrit_broker.store.fleet.redis.running import Runner
from stepwrit_broker.store.fleet.redis.url import Address
from stepwrit_broker.store.fleet.redis.wire import Wire
from stepwrit_broker.store.fleet.seams import EpochOver

_BATCH: Final = 500
_SHARD: Final = re.compile(r"[0-9a-f]{2}\Z")


async def sweep(runner: Runner, epoch: str) -> int:
    """Forget all keys of the fleet that are of another epoch than this one, where this one stands; how many.

    Ends early where the epoch is over or a server is not there: the next epoch's sweep does the rest.
    """
    swept = 0
    try:
        for address in await runner.nodes.primaries():
            swept += await _sweep(runner, epoch, address)
    except (EpochOver, Unavailable, ResponseError):
        return swept
    return swept


async def _sweep(runner: Runner, epoch: str, address: Address) -> int:
    wire, cursor, swept = await runner.nodes.open(address), b"0", 0
    try:
        while True:
            cursor, names = await _scanned(wire, cursor, runner.keys.fleet)
            for shard, old in _by_shard(names, runner.keys.shards, epoch).items():
                begins = runner.keys.of(shard, epoch, "")
                swept += (await runner.run(scripts.SWEEP, shard, epoch, old, begins))[0]
            if cursor == b"0":
                return swept
    finally:
        await wire.close()


async def _scanned(wire: Wire, cursor: bytes, fleet: str) -> tuple[bytes, list[bytes]]:
    said = await wire.call("SCAN", cursor, "MATCH", f"{{{fleet}:??}}:*:*", "COUNT", _BATCH)
    return cast("tuple[bytes, list[bytes]]", tuple(cast("list[Any]", said)))


def _by_shard(names: list[bytes], shards: int, epoch: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in (raw.decode(errors="replace") for raw in names):
        tag, _, rest = name[1:].partition("}:")
        shard = int(tag[-2:], 16) if _SHARD.match(tag[-2:]) else shards
        if shard < shards and rest.partition(":")[0] != epoch:
            found.setdefault(shard, []).append(name)
    return found
