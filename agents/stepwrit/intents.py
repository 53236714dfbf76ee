"""What binds a person's sign-in to one intent: the same rule for who asks and for who judges."""

from __future__ import annotations

from stepwrit.digest import body_digest, canonical
from stepwrit.shape import write
from stepwrit.wire import CeilingSpec, V


def bound_nonce(agent: str, ceiling: CeilingSpec, purpose: str, exp: int, *, v: int = V) -> str:
    """The `nonce` for the person's login that binds the ID token to exactly this intent.

    agent: our SPIFFE ID. exp: seconds since the epoch, the same as given to `Broker.intent`. Base64url
    SHA-256 of the RFC 8785 form of `{v, agent, ceiling, purpose, exp}`.
    """
    bound = {"v": v, "agent": agent, "ceiling": write(ceiling), "purpose": purpose, "exp": exp}
    return body_digest(canonical(bound))
