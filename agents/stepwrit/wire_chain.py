"""What crosses from one trust domain's broker to another's: shapes and constants; standard library only.

draft-ietf-oauth-identity-chaining and draft-ietf-oauth-identity-assertion-authz-grant (ID-JAG).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GRANT_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 section 2.1
TOKEN_TYPE_ID_JAG: Final = "urn:ietf:params:oauth:token-type:id-jag"  # noqa: S105
PROFILE_ID_JAG: Final = "urn:ietf:params:oauth:grant-profile:id-jag"
TYP_ID_JAG: Final = "oauth-id-jag+jwt"
GRANT_S: Final = 60
GRANT_MAX_S: Final = 300  # of a peer's grant, from `iat` to `exp`


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBroker:
    """The broker of another trust domain, as our own registry names it.

    issuer: as it names itself. url: its listener for certificates. broker_id: its SPIFFE ID.
    """

    issuer: str
    url: str
    broker_id: str


def actors(chain: Sequence[str]) -> dict[str, object]:
    """The `act` claim of a chain of workloads, the current one first and outermost (RFC 8693 section 4.1)."""
    actor: dict[str, object] = {}
    for workload in reversed(chain):
        actor = {"sub": workload, "act": actor} if actor else {"sub": workload}
    return actor
