"""What is to be delivered, and is not yet: a bounded queue with one worker that tries again, and counts.

In memory: a notice is best effort by nature, and a restart forgets what was not delivered. Nothing waits for
it, and the approval itself is where it always was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ports import Clock

T = TypeVar("T")
QUEUE_MAX: Final = 200
WAITS_S: Final = (1.0, 4.0, 16.0, 64.0)  # between the tries
AFTER_MAX_S: Final = 300.0
WHY_MAX: Final = 200

Counted = Callable[[str, str], None]  # channel, outcome: sent, failed, dropped or late
Sleep = Callable[[float], Awaitable[None]]


class NotDelivered(Exception):  # noqa: N818  reads as a state
    """This try failed. again: whether another may succeed. after: seconds that the receiver asked for.

    `why` names no address, no secret and nothing that the receiver said.
    """

    def __init__(self, why: str, *, again: bool, after: float | None = None) -> None:
        super().__init__(why)
        self.why: Final = why[:WHY_MAX]
        self.again: Final = again
        self.after: Final = after


def _unexpected(lost: Exception) -> NotDelivered:
    """An error of ours, or a receiver that makes one: its words may be the receiver's. Doubt passes."""
    return NotDelivered(f"unexpected: {type(lost).__name__}", again=isinstance(lost, Unavailable))


class LastGood:
    """A clock's last good word: while it refuses for doubt, people are told nevertheless.

    A late notice opens nothing; before the first word it is 0, and so nothing is late.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._seen = clock, 0.0

    def now(self) -> float:
        """Seconds since the epoch. Never raises."""
        with contextlib.suppress(Unavailable):
            self._seen = self._clock.now()
        return self._seen


class Outbox(Generic[T]):
    """One channel's queue. name: the operator's, in metrics and health."""

    def __init__(
        self,
        name: str,
        deliver: Callable[[T], Awaitable[None]],
        *,
        clock: Clock,
        count: Counted,
        sleep: Sleep = asyncio.sleep,
        size: int = QUEUE_MAX,
    ) -> None:
        self.name: Final = name
        self._deliver, self._count, self._sleep = deliver, count, sleep
        self._clock: Final = LastGood(clock)
        self._queue: Final[asyncio.Queue[tuple[T, float]]] = asyncio.Queue(size)
        self._counts: Final[dict[str, int]] = {"sent": 0, "failed": 0, "dropped": 0, "late": 0}
        self._last_error: dict[str, object] | None = None

    def put(self, item: T, until: float) -> None:
        """Queue it, or count it as dropped. until: seconds since the epoch after which nobody needs it."""
        try:
            self._queue.put_nowait((item, until))
        except asyncio.QueueFull:
            self._note("dropped")

    async def run(self) -> None:
        """Deliver, one after the other, until cancelled."""
        while True:
            item, until = await self._queue.get()
            await self._one(item, until)

    async def _one(self, item: T, until: float) -> None:
        for wait in (*WAITS_S, None):
            if self._clock.now() >= until:
                self._note("late")
                return
            try:
                await self._deliver(item)
            except Exception as lost:  # noqa: BLE001  one notice may fail; the worker goes on, whatever it was
                failed = lost if isinstance(lost, NotDelivered) else _unexpected(lost)
                self._last_error = {"at": self._clock.now(), "why": failed.why}
                if wait is None or not failed.again:
                    break
                await self._sleep(min(max(wait, failed.after or 0.0), AFTER_MAX_S))
            else:
                self._note("sent")
                return
        self._note("failed")

    def _note(self, outcome: str) -> None:
        self._counts[outcome] += 1
        self._count(self.name, outcome)

    def health(self) -> dict[str, object]:
        """Counts since the start, how many wait, and the last failure."""
        return {**self._counts, "waiting": self._queue.qsize(), "last_error": self._last_error}
