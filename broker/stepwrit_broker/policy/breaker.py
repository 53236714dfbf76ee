"""A circuit breaker, pure: after some failures in a row nothing is tried for a while, then one try is."""

from __future__ import annotations


class Breaker:
    """Closed until `failures` in a row; then open for `open_s` seconds. Times are of any monotonic clock.

    While open one try is let through every `open_s`: its success closes the breaker. Nothing waits for a try
    to come back, so that one that was abandoned cannot keep it open.
    """

    __slots__ = ("_failed", "_limit", "_open_s", "_until")

    def __init__(self, failures: int, open_s: float) -> None:
        self._limit, self._open_s = failures, open_s
        self._failed, self._until = 0, 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last `failures` tries failed."""
        return self._failed >= self._limit

    def wait_s(self, now: float) -> float:
        """How long until a try is let through; 0 is this one, and while open the next is `open_s` later."""
        if not self.is_open:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self._open_s
        return 0.0

    def succeeded(self) -> None:
        """An answer came."""
        self._failed = 0

    def failed(self, now: float) -> None:
        """None came, or one that cannot be believed."""
        self._failed += 1
        if self.is_open:
            self._until = now + self._open_s
