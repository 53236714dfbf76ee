"""The seam by which running performers hear that their steps have ended: speed; a heartbeat is the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepwrit_broker.core.step import State
from stepwrit_broker.core.workload import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A step that ran, and was ended by somebody else than its performer. ref: of what ended it."""

    step: str
    performer: SpiffeId
    state: State
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What ended since a cursor. complete: nothing since then is missing; else ask about each step."""

    after: str
    ended: tuple[Ended, ...]
    complete: bool


Tell = Callable[[Sequence[Ended]], None]
"""Called by the store after the commit, and never before: an end that is told is durable. Never raises."""


class Ends(Protocol):
    """Ends of steps, in this process, kept for a while: what is forgotten shows as incomplete."""

    async def since(self, performer: SpiffeId, cursor: str | None, seconds: float) -> Heard:
        """What ended under this performer since `cursor` (opaque; of an earlier answer, None for the first).

        Held for `seconds` at most while there is nothing to tell. MUST NOT call an answer complete when the
        cursor is none of this process, or older than what is kept. Raises Refused(`slow_down`) where too many
        are held.
        """
        ...
