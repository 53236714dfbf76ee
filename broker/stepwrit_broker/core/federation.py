"""When a foreign bundle replaces the one we hold, for how long it counts, and when to ask again. Pure.

Sources: SPIFFE_Trust_Domain_and_Bundle.md section 4 (sequence, refresh hint), SPIFFE_Federation.md section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

REFRESH_MIN_S: Final = 5.0
REFRESH_MAX_S: Final = 3_600.0
TRIES_BEFORE_STALE: Final = 3
JITTER: Final = 0.2
CLOCK_BACK_S: Final = 60.0

Refusal = Literal["sequence_back", "sequence_reused", "sequence_missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Which bundle of a trust domain. sequence: its publisher's number, or None. digest: of its keys."""

    sequence: int | None
    digest: str


def refusal(held: Revision | None, offered: Revision) -> Refusal | None:
    """Why `offered` may not replace `held`; None: it may, or is the same.

    A publisher that numbers its bundles cannot go back, cannot give one number to two bundles, and cannot
    stop to number them: each would let an old, perhaps stolen, key return.
    """
    if held is None or held.sequence is None:
        return None
    if offered.sequence is None:
        return "sequence_missing"
    if offered.sequence < held.sequence:
        return "sequence_back"
    if offered.sequence == held.sequence and offered.digest != held.digest:
        return "sequence_reused"
    return None


def is_stale(confirmed_at: float, now: float, max_age: float) -> bool:
    """Whether a bundle that its endpoint last confirmed at `confirmed_at` counts no longer (seconds).

    A confirmation from the future (the clock was set back) confirms nothing.
    """
    return not -CLOCK_BACK_S <= now - confirmed_at <= max_age


def refresh_s(hint: float, max_age: float) -> float:
    """Seconds between two polls: the publisher's hint within our bounds, and often enough for `max_age`."""
    return max(REFRESH_MIN_S, min(hint, REFRESH_MAX_S, max_age / TRIES_BEFORE_STALE))


def wait_s(refresh: float, failures: int, luck: float) -> float:
    """Seconds until the next poll. failures: in a row, up to now. luck: 0..1, so that brokers spread.

    After a failure the wait starts at REFRESH_MIN_S and doubles, up to `refresh`.
    """
    base = refresh if failures == 0 else min(refresh, REFRESH_MIN_S * 2.0 ** min(failures - 1, 20))
    return base * (1.0 - JITTER / 2 + JITTER * luck)
