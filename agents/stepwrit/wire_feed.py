"""How those who hold streams open hear of every "no" at once: `GET /v1/revocations/feed`, an event stream.

Its events (`event:` and `data:`, JSON) are `hello`, `mark`, `ended`, `beat` and `bye`. What is named is named
by a digest: whoever knows the name recognises it, nobody else learns it. `?since=SECONDS` (since the epoch)
has the marks told first that were set from then on and stand: so whoever lost a connection, or a broker,
misses none. The feed is speed, never the truth: a redeem asks the broker itself.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from stepwrit.wire import V

FEED_PATH: Final = "/v1/revocations/feed"
FEED_BEAT_S: Final = 5.0
MISSED_BEATS: Final = 2  # after which a stream is not kept open


def target_digest(target: str) -> str:
    """base64url SHA-256 of `kind:name`, without padding."""
    digest = hashlib.sha256(target.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedHello:
    """The first event. heartbeat_s: how often there is an event at least."""

    heartbeat_s: float
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMark:
    """A mark was set or lifted. n: counts the events of this connection, from 1, without a hole. target, ref:
    in plain where they are the reader's own tenant's.
    """

    n: int
    verb: Literal["revoke", "freeze", "unfreeze"]
    digest: str
    at: float
    target: str | None = None
    ref: str | None = None
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEnded:
    """A step that ran has ended. n: as of a mark. digest: of `step:ID`. state: how it ended."""

    n: int
    digest: str
    state: str
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedBeat:
    """Nothing happened. n: of the last event before."""

    n: int
    v: int = V
