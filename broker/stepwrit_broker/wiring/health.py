"""How the broker's own identity is: for `/healthz?verbose=true` and for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol, get_args

from stepwrit._supervise import Health, State

STATES: Final[tuple[State, ...]] = get_args(State)


class Watched(Protocol):
    """A stream of the Workload API that tells how it is."""

    def health(self) -> Health:
        """How it is now."""
        ...


def told(streams: Mapping[str, Watched]) -> dict[str, object]:
    """Stream -> state, since when (RFC 3339), why, and how many tries failed since it was last well."""
    return {name: _told(stream.health()) for name, stream in streams.items()}


def states(streams: Mapping[str, Watched]) -> dict[tuple[str, State], bool]:
    """(stream, state) -> whether it is in that state; every state is there, so a gauge can be set to 0."""
    return {
        (name, state): stream.health().state == state for name, stream in streams.items() for state in STATES
    }


def _told(health: Health) -> dict[str, object]:
    since = datetime.fromtimestamp(health.since, UTC).isoformat(timespec="seconds")
    return {"state": health.state, "since": since, "why": health.why, "tries": health.tries}
