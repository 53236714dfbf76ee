"""How a performer hears, at once, that a step it runs was ended by somebody else: `POST /v1/steps/ended`.

The answer may be held (RFC 7240 `Prefer: wait=25`) until there is something to tell. It speaks of the
caller's own steps and authorises nothing; whoever misses it hears the same by the next heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwrit.wire import V


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """after: the `after` of the last answer, unread; None at first."""

    v: int = V
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedStep:
    """One step that runs no more. state: how it ended. ref: of what ended it."""

    step: str
    state: str
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSteps:
    """What ended since. complete: False where something may be missing: then each step's heartbeat tells."""

    after: str
    steps: tuple[EndedStep, ...]
    complete: bool
    v: int = V
