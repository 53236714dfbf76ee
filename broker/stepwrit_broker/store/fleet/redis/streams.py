"""The shards' streams, read by whoever is the sequencer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from stepwrit_broker.store.fleet.redis import scripts
from stepwrit_broker.store.fleet.redis.running import Runner, together
from stepwrit_broker.store.fleet.redis.trouble import refused
from stepwrit_broker.store.fleet.redis.wire import Wire, Word
from stepwrit_broker.store.fleet.seams import EpochOver, Numbered

MOST: Final = 256  # works of one shard in one answer
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02


class Streams:
    """Where the server waits, on a connection of its own: an answer that waits holds up all others."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._keys = runner, runner.keys
        self._reader: Wire | None = None

    async def read(self, epoch: str, after: Mapping[int, int], wait_s: float) -> Sequence[Numbered]:
        """As `Swift.read`; a shard that is not named is read from its first work.

        Raises EpochOver where nothing comes and the epoch does not stand.
        """
        after = {shard: after.get(shard, 0) for shard in range(self._keys.shards)}
        if self._runner.nodes.mode == "cluster":
            found = await self._poll(epoch, after, wait_s)
        else:
            found = await self._block(epoch, after, wait_s)
        if not found:
            await self._check(epoch, after)
        return found

    async def _check(self, epoch: str, after: Mapping[int, int]) -> None:
        try:
            await together(self._stands(epoch, shard) for shard in after)
        except EpochOver:
            if self._reader is not None:
                self._reader.retire()  # the server that it waits on may be the primary no more
            raise

    async def _stands(self, epoch: str, shard: int) -> None:
        await self._runner.run(scripts.STANDING, shard, epoch, [])

    async def _block(self, epoch: str, after: Mapping[int, int], wait_s: float) -> list[Numbered]:
        self._reader = wire = await self._runner.nodes.wire("", "read")
        block = ("BLOCK", max(1, round(wait_s * 1000))) if wait_s > 0 else ()
        return await self._asked(wire, epoch, after, block, wait_s)

    async def _poll(self, epoch: str, after: Mapping[int, int], wait_s: float) -> list[Numbered]:
        """In a cluster the streams of two slots cannot be waited for on one connection."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + wait_s, _FIRST_PAUSE_S
        while True:
            found = await together(self._one(epoch, shard, seq) for shard, seq in after.items())
            works = [work for each in found for work in each]
            if works or loop.time() >= until:
                return works
            await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _one(self, epoch: str, shard: int, seq: int) -> list[Numbered]:
        wire = await self._runner.nodes.wire(self._keys.tag(shard))
        return await self._asked(wire, epoch, {shard: seq}, (), 0.0)

    async def _asked(
        self, wire: Wire, epoch: str, after: Mapping[int, int], block: tuple[Word, ...], wait_s: float
    ) -> list[Numbered]:
        names = {self._keys.of(shard, epoch, "s"): shard for shard in after}
        ids = [f"{seq}-0" for seq in after.values()]
        words: list[Word] = ["XREAD", "COUNT", MOST, *block, "STREAMS", *names, *ids]
        try:
            said = await wire.call(*words, wait_s=wait_s)
        except ResponseError as reply:
            wire.retire()
            raise refused(reply) from None
        return [work for name, entries in said or () for work in _numbered(names[name.decode()], entries)]


def _numbered(shard: int, entries: Sequence[Any]) -> list[Numbered]:
    return [Numbered(shard, int(number.partition(b"-")[0]), fields[1]) for number, fields in entries]
