"""The seam to transmitters of security events. Docstrings state MUSTs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One verified event. event: the last part of its type. subject: of `issuer`; None for a verification.

    acts: whether the operator lets this event stop somebody. at: when it was issued, seconds since the epoch.
    """

    issuer: str
    jti: str
    event: str
    subject: str | None
    acts: bool
    at: float


class Signals(Protocol):
    """Judges Security Event Tokens (RFC 8417) of registered transmitters."""

    async def judge(self, unverified: str, authorization: str | None, now: float) -> Signal:
        """The verified event.

        MUST refuse every `typ` but `secevent+jwt`, what has `sub` or `exp`, and a subject of another issuer.
        Raises Unproven whose `rule` is the error code of RFC 8935 section 2.4; Unavailable when keys cannot
        be had.
        """
        ...
