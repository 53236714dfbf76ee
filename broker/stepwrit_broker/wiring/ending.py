"""Ends of steps, kept in this process for those who run them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports_ended import Ended, Heard

KEPT_MAX: Final = 65_536  # ends, of all performers together
PERFORMERS_MAX: Final = 10_000
HELD_MAX: Final = 1_024  # polls under way, each a connection
HELD_EACH_MAX: Final = 256  # of one workload, however many processes it has
BUSY_S: Final = 20.0  # who cannot be held hears by heartbeat


@dataclass(slots=True)
class _Own:
    """One performer's ends. lost: the number of the last one that was forgotten."""

    ends: deque[tuple[int, Ended]] = field(default_factory=deque[tuple[int, Ended]])
    lost: int = 0
    waiting: set[asyncio.Event] = field(default_factory=set[asyncio.Event])


class Endings:
    """The `Ends` port in memory. epoch: names this process in its cursors."""

    def __init__(self, epoch: str) -> None:
        self._epoch: Final = epoch
        self._count = 0
        self._forgotten = 0
        self._held = 0
        self._closed = False
        self._own: OrderedDict[SpiffeId, _Own] = OrderedDict()
        self._order: deque[SpiffeId] = deque()  # whose the ends are, oldest first

    def tell(self, ended: Sequence[Ended]) -> None:
        """Keep them, and wake who waits for them."""
        for each in ended:
            self._count += 1
            self._of(each.performer).ends.append((self._count, each))
            self._order.append(each.performer)
        while len(self._order) > KEPT_MAX:
            self._forget_oldest()
        for performer in {each.performer for each in ended}:
            self._wake(self._of(performer))

    async def since(self, performer: SpiffeId, cursor: str | None, seconds: float) -> Heard:
        """As the port has it."""
        seen = self._number(cursor)
        if seen is None:  # it has never asked here: it may have missed anything
            return Heard(after=self._cursor(), ended=(), complete=False)
        found = self._since(performer, seen)
        if found.ended or not found.complete or seconds <= 0:
            return found
        await self._hold(performer, seconds)
        return self._since(performer, seen)

    def close(self) -> None:
        """Let go of all who wait: their connections are to end."""
        self._closed = True
        for own in self._own.values():
            self._wake(own)

    async def _hold(self, performer: SpiffeId, seconds: float) -> None:
        own = self._own.get(performer)
        if self._held >= HELD_MAX or (own is not None and len(own.waiting) >= HELD_EACH_MAX):
            raise Refused("slow_down", "too many wait already", rule="interval", retry_after=BUSY_S)
        event, own = asyncio.Event(), self._of(performer)
        own.waiting.add(event)
        self._held += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self._closed else seconds):
                    await event.wait()
        finally:
            self._held -= 1
            own.waiting.discard(event)

    def _since(self, performer: SpiffeId, seen: int) -> Heard:
        own = self._own.get(performer)
        if own is None:
            return Heard(after=self._cursor(), ended=(), complete=seen >= self._forgotten)
        ended = tuple(each for number, each in own.ends if number > seen)
        return Heard(after=self._cursor(), ended=ended, complete=seen >= own.lost)

    def _forget_oldest(self) -> None:
        own = self._own.get(self._order.popleft())
        if own is not None and own.ends:
            own.lost = own.ends.popleft()[0]

    def _of(self, performer: SpiffeId) -> _Own:
        own = self._own.get(performer)
        if own is None:
            own = self._own[performer] = _Own(lost=self._forgotten)
        self._own.move_to_end(performer)
        while len(self._own) > PERFORMERS_MAX:
            _, gone = self._own.popitem(last=False)
            self._wake(gone)  # it asks again
            self._forgotten = self._count
        return own

    def _cursor(self) -> str:
        return f"{self._epoch}.{self._count}"

    def _number(self, cursor: str | None) -> int | None:
        """How far the asker is; None where the cursor is not one of this process."""
        epoch, _, number = (cursor or "").rpartition(".")
        if epoch != self._epoch or not number.isascii() or not number.isdigit():
            return None
        seen = int(number)
        return seen if seen <= self._count else None

    @staticmethod
    def _wake(own: _Own) -> None:
        for event in own.waiting:
            event.set()
