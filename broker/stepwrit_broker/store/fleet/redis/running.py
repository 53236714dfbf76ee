"""One script in one shard, and what its answer means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from stepwrit_broker.store.fleet.redis.keys import Keys
from stepwrit_broker.store.fleet.redis.nodes import Nodes
from stepwrit_broker.store.fleet.redis.scripts import Script
from stepwrit_broker.store.fleet.redis.trouble import other_layout
from stepwrit_broker.store.fleet.redis.wire import Wire, Word
from stepwrit_broker.store.fleet.seams import EpochOver, Stale

T = TypeVar("T")


async def together(runs: Iterable[Awaitable[T]]) -> list[T]:
    """Their answers, in order, once all have ended: what one of them raises leaves none of them running.

    Raises EpochOver where any did, else what the first one raised.
    """
    ends = await asyncio.gather(*runs, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    for end in sorted(failed, key=lambda end: not isinstance(end, EpochOver)):
        raise end
    return [end for end in ends if not isinstance(end, BaseException)]


class Runner:
    """Runs scripts where their shard is."""

    def __init__(self, nodes: Nodes, keys: Keys) -> None:
        self.nodes, self.keys = nodes, keys

    async def run(self, script: Script, shard: int, epoch: str, what: list[str], *words: Word) -> list[Any]:
        """The script's answer after its first word. what: its keys beside the shard's own.

        Raises EpochOver, Stale and Unavailable(rule="store").
        """
        if not 0 <= shard < self.keys.shards:
            raise ValueError(f"no shard {shard} in a fleet of {self.keys.shards}")
        wire = await self.nodes.wire(self.keys.tag(shard))
        said = await wire.run(script, [self.keys.shard(shard), *what], [epoch, wire.run_id, *words])
        return _meant(wire, said)


def _meant(wire: Wire, said: list[Any]) -> list[Any]:
    word, rest = said[0], said[1:]
    if word == b"EPOCH":
        wire.retire()
        raise EpochOver
    if word == b"LAYOUT":
        raise other_layout(rest[0].decode())
    if word == b"STALE":
        raise Stale(rest[0].decode(), float(rest[1]) if len(rest) > 1 else 0.0)
    return said if word in {b"ABSENT", b"SAME", b"ROWS"} else rest
