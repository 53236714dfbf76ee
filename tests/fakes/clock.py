"""A clock that stands still until told."""

from __future__ import annotations

from stepwrit_broker.core.errors import Unavailable

START = 1_790_000_000.0


class FakeClock:
    """The Clock port. `doubt` makes it refuse, as the real one does after a jump."""

    def __init__(self, start: float = START) -> None:
        self.time = start
        self.doubt = False

    def now(self) -> float:
        if self.doubt:
            raise Unavailable("unavailable", "the clock jumped", rule="clock")
        return self.time

    def advance(self, seconds: float) -> float:
        self.time += seconds
        return self.time
