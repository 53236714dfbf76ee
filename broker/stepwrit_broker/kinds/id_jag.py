"""A grant to another trust domain's broker (ID-JAG, `typ oauth-id-jag+jwt`), used there once.

Death: self-expiring within a minute, and its `jti` is used up at the other broker. Enforced there: audience,
client, key, action and life. What it started there ends by the other side's own marks.
"""

from __future__ import annotations

from typing import Protocol

from stepwrit.digest import unb64u
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.grant import Grant


class Signer(Protocol):
    """Signs a stored plan."""

    def sign(self, plan: str, now: float) -> str:
        """A compact JWS over it, byte for byte."""
        ...


class IdJag:
    """The `id_jag` kind. It touches no target: ending it is the grant's own state."""

    name = "id_jag"
    use = "once"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def mint(self, grant: Grant, now: float) -> str:
        """The stored plan, signed; a repeat mints the same claims again."""
        return self._signer.sign(grant.claims, now)

    def check(self, grant: Grant, made: str, now: float) -> None:  # noqa: ARG002  the port's shape
        """What leaves says exactly what was planned and recorded."""
        said = unb64u(made.split(".")[1]).decode()
        if said != grant.claims or grant.id not in said:
            raise Unavailable(
                "unavailable", "the grant is not what was planned; it was not delivered", rule="check"
            )

    async def revoke(self, grant: Grant) -> None:
        """Nothing to remove anywhere: the other broker's marks end what it started there."""
