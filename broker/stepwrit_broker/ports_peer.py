"""The seam to brokers of other trust domains. Docstrings state MUSTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from stepwrit_broker.core.jag import GrantClaims
from stepwrit_broker.core.peers import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedGrant:
    """A peer's grant whose signature, type and life hold. text: its claims as they were sent, byte for byte;
    digest: `core.jag.grant_digest` of them.
    """

    peer: Peer
    claims: GrantClaims
    digest: str
    text: str


class PeerGrants(Protocol):
    """Judges the grants of registered peers."""

    async def judge(self, unverified: str, peers: Mapping[str, Peer], now: float) -> VerifiedGrant:
        """The verified grant of one of `peers` (by issuer).

        MUST take the key from what the registry says of that peer, and never from what the token says; MUST
        refuse every other `typ`. Raises Unproven(`invalid_grant`), Unavailable when keys cannot be had.
        """
        ...
