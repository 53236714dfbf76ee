"""Who waits until the truth has what they did: this very work, not only its number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.seams import Carried, EpochOver

WAIT_S: Final = 10.0
KNOWN_MAX: Final = 2048  # works of each shard, whose digests are kept


def unknown(reason: str) -> Unavailable:
    """The error for a write of which nobody knows whether it landed."""
    return Unavailable("unavailable", f"{reason}; repeat the same operation", rule="store", retry_after=1.0)


class _Waits(NamedTuple):
    work: bytes
    future: asyncio.Future[None]


class Durable:
    """How far each shard's stream is committed in the epoch under way, and the waiters beyond."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        self._epoch = ""
        self._at: dict[int, int] = {}
        self._works: dict[int, dict[int, bytes]] = {}
        self._waiting: dict[int, dict[int, list[_Waits]]] = {}
        self._since: dict[asyncio.Future[None], float] = {}  # in the order of their times
        self._moved = asyncio.Event()
        self.waited: Callable[[float], None] = lambda _: None  # seconds, of each that became durable

    def begin(self, epoch: str, positions: Mapping[int, int]) -> None:
        """Another epoch: what was not committed in the one before never will be."""
        waiting, self._waiting = self._waiting, {}
        for each in (each for shard in waiting.values() for waits in shard.values() for each in waits):
            if not each.future.done():
                each.future.set_exception(unknown("the fleet's epoch ended before this was durable"))
        self._epoch, self._at, self._works = epoch, dict(positions), {}
        self._stir()

    def advance(
        self, epoch: str, positions: Mapping[int, int], carried: Mapping[int, Carried] | None = None
    ) -> None:
        """The truth has these numbers, and these works; an older word changes nothing."""
        if epoch != self._epoch:
            return
        known = carried or {}
        for shard, each in known.items():
            self._note(shard, each)
        last = {shard: each.last for shard, each in known.items()}
        for shard, seq in [*positions.items(), *last.items()]:
            self._at[shard] = max(seq, self._at.get(shard, 0))
            self._wake(shard)
        self._stir()

    def _note(self, shard: int, carried: Carried) -> None:
        works = self._works.setdefault(shard, {})
        for seq, work in carried.works():
            works[seq] = work
        while len(works) > KNOWN_MAX:
            del works[next(iter(works))]

    @property
    def waiting(self) -> int:
        """How many works are waited for, or were in vain so far: those are still under way."""
        return sum(len(each) for each in self._waiting.values())

    def asks(self) -> dict[int, int]:
        """Of each shard the first number that is in the truth, where nobody told us which work has it."""
        found = dict[int, int]()
        for shard, waiting in self._waiting.items():
            passed = [seq for seq, waits in waiting.items() if waits and self.is_past(shard, seq)]
            if passed:
                found[shard] = min(passed)
        return found

    @property
    def oldest_s(self) -> float:
        """For how long the longest of those who wait has; 0 where nobody does."""
        began = next(iter(self._since.values()), None)
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    def has(self, epoch: str, shard: int, seq: int) -> bool:
        """Whether the truth has that number, as far as is known here."""
        return epoch == self._epoch and self.is_past(shard, seq)

    def is_past(self, shard: int, seq: int) -> bool:
        """Whether the truth has that number of the shard."""
        return seq <= self._at.get(shard, 0)

    def work(self, shard: int, seq: int) -> bytes | None:
        """The digest of the work that the truth has under a number, if it is known here."""
        return self._works.get(shard, {}).get(seq)

    async def wait(self, epoch: str, shard: int, seq: int, work: bytes) -> None:
        """Returns once the truth has this work. work: its digest. Raises Unavailable when nobody can tell
        whether it ever will, EpochOver where another work has its number: the stream was written by others.
        """
        if epoch != self._epoch:
            raise unknown("the fleet's epoch ended before this was durable")
        loop = asyncio.get_running_loop()
        waits, began = _Waits(work, loop.create_future()), loop.time()
        beside = self._waiting.setdefault(shard, {}).setdefault(seq, [])
        beside.append(waits)
        self._since[waits.future] = began
        if self.is_past(shard, seq):
            self._answer(shard, seq)
        try:
            async with asyncio.timeout(self.wait_s):
                await waits.future
        except TimeoutError:
            raise unknown("this is not durable yet") from None
        finally:
            del self._since[waits.future]
            beside.remove(waits)  # callers repeat what they are not answered: no room for each time
        self.waited(loop.time() - began)

    def _wake(self, shard: int) -> None:
        for seq in [each for each in self._waiting.get(shard, {}) if self.is_past(shard, each)]:
            self._answer(shard, seq)

    def _answer(self, shard: int, seq: int) -> None:
        """The truth has this number. It leaves with the last who waits for it."""
        waiting, known = self._waiting[shard], self.work(shard, seq)
        if known is None and waiting[seq]:
            return
        for each in waiting.pop(seq):
            if not each.future.done():
                _tell(each, known)

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
        return all(self.is_past(shard, seq) for shard, seq in upto.items())

    def _stir(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def _tell(waits: _Waits, known: bytes | None) -> None:
    if known == waits.work:
        waits.future.set_result(None)
    else:
        waits.future.set_exception(EpochOver())
