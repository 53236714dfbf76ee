"""The only places where the broker reads the clock and draws randomness."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from stepwrit_broker.core.errors import Unavailable

JUMP_S = 5.0  # a wall clock that moved this much against elapsed time is in doubt
DOUBT_S = 10.0  # for so long; then the new time is believed (the store's high-water time bounds it below)


def elapsed_s() -> float:
    """Seconds that passed, also while the machine was suspended."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class SystemClock:
    """The Clock port over the system's wall clock. A jump is doubt: Unavailable(rule="clock") for DOUBT_S."""

    def __init__(
        self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed_s
    ) -> None:
        self._wall, self._elapsed = wall, elapsed
        self._offset = wall() - elapsed()
        self._doubt_until: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        wall, elapsed = self._wall(), self._elapsed()
        if self._doubt_until is None and abs(wall - elapsed - self._offset) <= JUMP_S:
            return wall
        return self._in_doubt(wall, elapsed)

    def _in_doubt(self, wall: float, elapsed: float) -> float:
        if self._doubt_until is None or abs(wall - elapsed - self._offset) > JUMP_S:
            self._offset, self._doubt_until = wall - elapsed, elapsed + DOUBT_S
        if elapsed < self._doubt_until:
            raise Unavailable(
                "unavailable",
                "the broker's clock jumped; nothing is granted until it has been steady",
                rule="clock",
                retry_after=round(self._doubt_until - elapsed, 1),
            )
        self._doubt_until = None
        return wall


class SystemEntropy:
    """The Entropy port over the operating system."""

    def bytes(self, count: int) -> bytes:
        """`count` fresh random bytes."""
        return os.urandom(count)
