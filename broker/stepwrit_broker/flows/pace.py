"""How often one thing is asked about: RFC 8628 section 3.5. In memory: forgetting costs one answer more."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from stepwrit.wire import ApprovalAsked
from stepwrit_broker.core.errors import Refused

INTERVAL_S: Final = 5.0
KEPT_MAX: Final = 10_000
HELD_MAX: Final = 2  # long polls for one thing: the one that is under way, and its retry
_SLACK_S: Final = 0.5  # clocks and networks; the interval is for our sake alone


@dataclass(slots=True)
class Pace:
    """The last poll of each name and its interval, which grows by five seconds whenever it is not kept."""

    _seen: OrderedDict[str, tuple[float, float]] = field(
        default_factory=OrderedDict[str, "tuple[float, float]"]
    )
    _held: Counter[str] = field(default_factory=Counter[str])

    @contextmanager
    def held(self, name: str, ref: str, approval: ApprovalAsked | None = None) -> Generator[None]:
        """While a poll is held. Raises Refused(`slow_down`) where HELD_MAX of them are."""
        if self._held[name] >= HELD_MAX:
            raise _slow_down("others wait for the same already", INTERVAL_S, ref, approval)
        self._held[name] += 1
        try:
            yield
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def check(
        self,
        name: str,
        now: float,
        ref: str,
        *,
        waits: bool = False,
        approval: ApprovalAsked | None = None,
    ) -> None:
        """Note a poll at `now` (seconds). ref, approval: what is asked about.
        Raises Refused(`slow_down`) for one that came too early.

        waits: a long poll, which is held rather than answered, and so may follow the last at once.
        """
        last, interval = self._seen.pop(name, (float("-inf"), INTERVAL_S))
        early = not waits and now - last < interval - _SLACK_S
        interval = interval + INTERVAL_S if early else interval
        self._seen[name] = (now, interval)
        if len(self._seen) > KEPT_MAX:
            self._seen.popitem(last=False)
        if early:
            raise _slow_down(f"ask every {interval:g} seconds at most", interval, ref, approval)


def _slow_down(reason: str, retry_after: float, ref: str, approval: ApprovalAsked | None) -> Refused:
    return Refused("slow_down", reason, rule="interval", retry_after=retry_after, ref=ref, approval=approval)
