"""This broker's clock against the true engine's, for as long as it serves.

Expiry and limits go by the brokers' clocks, and the latest of them drives the high-water time of all. A clock
that is off is found here, and its broker grants nothing; the brake works on.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.store.fleet.seams import Truth

EVERY_S: Final = 1.0
APART_S: Final = 1.0  # more than may pass at start: a clock that is slewed back must not stop a fleet


class ClockWatch:
    """`run` until cancelled. offset_s: the true engine's clock minus ours, as it was found last."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.offset_s = 0.0
        self._is_off = False

    async def run(self) -> None:
        """Look every second."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Find the offset. What the way there may have added is taken off; who cannot ask knows no better."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.offset_s = await self._truth.clock_offset()
        except Problem as doubt:
            self._is_off = self._is_off or doubt.rule == "clock"
            return
        self._is_off = abs(self.offset_s) - (loop.time() - began) / 2 > APART_S

    def doubt(self) -> str | None:
        """Why nothing is granted; None where the clock is right."""
        if not self._is_off:
            return None
        return f"this broker's clock is not the database's: {-self.offset_s:+.1f} s"

    def check(self) -> None:
        """Raises Unavailable(rule="clock")."""
        reason = self.doubt()
        if reason is not None:
            raise Unavailable(
                "unavailable",
                reason,
                rule="clock",
                retry_after=EVERY_S,
                who_can_change_it="the operator of this broker's machine",
            )
