"""Who waits until the truth has what they did."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.seams import EpochOver

WAIT_S: Final = 10.0


def unknown(reason: str) -> Unavailable:
    """The error for a write of which nobody knows whether it landed."""
    return Unavailable("unavailable", f"{reason}; repeat the same operation", rule="store", retry_after=1.0)


class _Line:
    """Who waits for which number of a shard. A number that nobody waits for any more is still under way."""

    def __init__(self) -> None:
        self._order: list[int] = []
        self.at: dict[int, list[asyncio.Future[None]]] = {}

    def join(self, seq: int, future: asyncio.Future[None]) -> None:
        if seq not in self.at:
            heapq.heappush(self._order, seq)
        self.at.setdefault(seq, []).append(future)

    def leave(self, seq: int, future: asyncio.Future[None]) -> None:
        """Callers repeat what they are not answered: they must take no room for each time."""
        if future in self.at.get(seq, ()):
            self.at[seq].remove(future)

    def upto(self, seq: int) -> Iterator[asyncio.Future[None]]:
        """Whoever waits for these; they leave."""
        while self._order and self._order[0] <= seq:
            yield from self.at.pop(heapq.heappop(self._order))


class Durable:
    """How far each shard's stream is committed in the epoch under way, and the waiters beyond."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        self._epoch = ""
        self._at: dict[int, int] = {}
        self._lines: dict[int, _Line] = {}
        self._moved = asyncio.Event()
        self.waited: Callable[[float], None] = lambda _: None  # seconds, of each that became durable

    def begin(self, epoch: str, positions: Mapping[int, int]) -> None:
        """Another epoch: what was not committed in the one before never will be."""
        lines, self._lines = self._lines, {}
        for future in (each for line in lines.values() for waits in line.at.values() for each in waits):
            if not future.done():
                future.set_exception(unknown("the fleet's epoch ended before this was durable"))
        self._epoch, self._at = epoch, dict(positions)
        self._stir()

    def advance(self, epoch: str, positions: Mapping[int, int]) -> None:
        """The truth has these; an older word changes nothing."""
        if epoch != self._epoch:
            return
        for shard, seq in positions.items():
            if seq > self._at.get(shard, 0):
                self._at[shard] = seq
                self._wake(shard, seq)
        self._stir()

    @property
    def waiting(self) -> int:
        """How many works are waited for, or were in vain so far."""
        return sum(len(line.at) for line in self._lines.values())

    def has(self, epoch: str, shard: int, seq: int) -> bool:
        """Whether the truth has it, as far as is known here."""
        return epoch == self._epoch and seq <= self._at.get(shard, 0)

    async def wait(self, epoch: str, shard: int, seq: int) -> None:
        """Returns once the truth has it. Raises Unavailable when nobody can tell whether it ever will."""
        if epoch != self._epoch:
            raise unknown("the fleet's epoch ended before this was durable")
        if seq <= self._at.get(shard, 0):
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        began = loop.time()
        line = self._lines.setdefault(shard, _Line())
        line.join(seq, future)
        try:
            async with asyncio.timeout(self.wait_s):
                await future
        except TimeoutError:
            raise unknown("this is not durable yet") from None
        finally:
            line.leave(seq, future)
        self.waited(loop.time() - began)

    async def reached(self, epoch: str, upto: Mapping[int, int], within_s: float) -> bool:
        """Whether the truth has all of these, as far as is known here by then. Raises EpochOver."""
        try:
            async with asyncio.timeout(within_s):
                while epoch == self._epoch and not self._has(upto):
                    await self._moved.wait()
        except TimeoutError:
            return False
        if epoch != self._epoch:
            raise EpochOver
        return True

    def _has(self, upto: Mapping[int, int]) -> bool:
        return all(seq <= self._at.get(shard, 0) for shard, seq in upto.items())

    def _stir(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _wake(self, shard: int, seq: int) -> None:
        line = self._lines.get(shard, _Line())
        for future in line.upto(seq):
            if not future.done():
                future.set_result(None)
