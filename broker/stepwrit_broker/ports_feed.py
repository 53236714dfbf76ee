"""The seam by which those who hold streams open hear of every "no": speed; a redeem is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stepwrit_broker.core.workload import SpiffeId

Heard = Literal["revoke", "freeze", "unfreeze", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A mark that was set or lifted, or a step that ended. at: seconds since the epoch; 0 of an end. detail:
    the ref of a mark, the state of an end.
    """

    what: Heard
    target: str
    at: float
    detail: str


class Following(Protocol):
    """One follower's place in the feed."""

    async def next(self, seconds: float) -> Sequence[News] | None:
        """What came since; empty after `seconds` of nothing; None at the end: of this process, because the
        follower is too far behind, or because it cannot be told whether anything happened.
        """
        ...

    def close(self) -> None:
        """Follow no more."""
        ...


class Feed(Protocol):
    """The news of this process, kept for a while."""

    def follow(self, who: SpiffeId, since: float | None) -> Following:
        """From now on; first, where `since` (seconds since the epoch) is given, the standing marks that were
        set from then on. MUST miss nothing in between. Raises Refused(`slow_down`) where too many follow,
        Unavailable where it cannot be told which stand.
        """
        ...
