"""Who waits for an approval in this process, and who is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import traceback
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import structlog

from stepwrit_broker.flows import approving
from stepwrit_broker.flows.house import House
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_approval import Notice, Sought

DECISIONS: Final = frozenset({"given", "denied", "cancelled", "expired"})
WATCHED_MAX: Final = 10_000

_log = structlog.get_logger("stepwrit.broker")


class Bells:
    """The `Bell` port on asyncio events; what nobody waits for is not kept."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    def ring(self, approval: str) -> None:
        """Wake everybody who waits for it."""
        for each in self._waiting.get(approval, ()):
            each.set()

    def close(self) -> None:
        """Let go of all who wait: they are answered as things stand, and ask again."""
        self._closed = True
        for each in [event for events in self._waiting.values() for event in events]:
            each.set()

    async def wait(self, approval: str, seconds: float) -> None:
        """Until it is rung, or the time is over."""
        event = asyncio.Event()
        self._waiting[approval].add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self._closed else seconds):
                    await event.wait()
        finally:
            self._waiting[approval].discard(event)
            if not self._waiting[approval]:
                del self._waiting[approval]


class Told:
    """The `Notices` port: counted, logged, and handed on to each channel there is."""

    def __init__(self, count: Callable[[str], None], channels: list[Callable[[Notice], None]]) -> None:
        self._count, self._channels = count, channels

    def tell(self, notice: Notice) -> None:
        """Never raises: a channel queues, and counts what it could not do."""
        self._count(notice.event)
        _log.info(f"approval {notice.event}", approval=notice.approval, tool=notice.tool, ref=notice.ref)
        for channel in self._channels:
            try:
                channel(notice)
            except Exception:  # noqa: BLE001  what is told must not undo what happened
                _log.error("notice", approval=notice.approval, exception=traceback.format_exc())


class Decisions:
    """A channel of `Told` that measures how long persons take."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics, self._clock = metrics, clock

    def __call__(self, notice: Notice) -> None:
        """Note an end."""
        if notice.event in DECISIONS:
            self._metrics.decided(notice.event, self._clock.now() - notice.asked_at)


class Expiries:
    """A channel of `Told` that remembers when approvals run out: the sweep itself tells nobody."""

    def __init__(self) -> None:
        self._due: list[tuple[float, str]] = []

    def __call__(self, notice: Notice) -> None:
        """Remember one that is asked for; beyond WATCHED_MAX its end is not told."""
        if notice.event == "asked" and len(self._due) < WATCHED_MAX:
            heapq.heappush(self._due, (notice.expires_at, notice.approval))

    async def load(self, house: House) -> None:
        """Those of before this start."""
        for each in await house.approvals.approvals(Sought(state="asked", most=WATCHED_MAX)):
            heapq.heappush(self._due, (float(each.asked.expires_at), each.asked.id))

    async def tell(self, house: House) -> None:
        """Tell of all that ran out; call it after a sweep."""
        now = house.clock.now()
        due: list[tuple[float, str]] = []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due))
        for at, name in due:
            if not await approving.tell_expired(house, name):
                heapq.heappush(self._due, (at, name))
