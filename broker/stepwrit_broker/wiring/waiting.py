"""Who waits for an approval in this process, and who is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable

import structlog

from stepwrit_broker.ports_approval import Notice

_log = structlog.get_logger("stepwrit.broker")


class Bells:
    """The `Bell` port on asyncio events; what nobody waits for is not kept."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    def ring(self, approval: str) -> None:
        """Wake everybody who waits for it."""
        for each in self._waiting.get(approval, ()):
            each.set()

    async def wait(self, approval: str, seconds: float) -> None:
        """Until it is rung, or the time is over."""
        event = asyncio.Event()
        self._waiting[approval].add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
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
            channel(notice)
