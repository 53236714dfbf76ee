"""A fleet's buckets of rate limits in memory: what the swift engine does, without an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stepwrit_broker.core.slices import Ask, Taken, give_back, take
from stepwrit_broker.store.fleet.seams import EpochOver


async def _nothing() -> None:
    return


class MemoryBuckets:
    """Before and after each question: `before`, `after`, which may wait or raise; by default nothing."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.tats: dict[str, float] = {}
        self.asked: list[Ask] = []
        self.before: Callable[[], Awaitable[None]] = _nothing
        self.after: Callable[[], Awaitable[None]] = _nothing

    def begin(self, epoch: str) -> None:
        self.epoch, self.tats = epoch, {}

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        await self.before()
        self._check(epoch)
        self.asked.append(ask)
        taken = take(self.tats.get(key), ask)
        if taken.cells:
            self.tats[key] = taken.tat
        await self.after()
        return taken

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        await self.before()
        self._check(epoch)
        tat = give_back(self.tats.get(key), known, cells, interval)
        if tat is not None:
            self.tats[key] = tat
        await self.after()

    def _check(self, epoch: str) -> None:
        if epoch != self.epoch:
            raise EpochOver
