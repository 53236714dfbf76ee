"""The first kind: an action token (RFC 9068 `at+jwt`), redeemed once at a resource that runs the guard.

Death: self-expiring, and spent at redeem. Enforced by the resource's guard and by the broker at redeem:
audience, key, method, URL, body and life.
"""

from __future__ import annotations

import base64

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.ports import Credentials


class ActionToken:
    """The `action_token` kind. It touches no target: ending it is the grant's own state."""

    name = "action_token"
    use = "once"

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def mint(self, grant: Grant, now: float) -> str:
        """The stored plan, signed; a repeat mints the same claims again."""
        return self._credentials.sign(grant.claims, now)

    def check(self, grant: Grant, made: str, now: float) -> None:  # noqa: ARG002  the port's shape
        """What leaves says exactly what was planned and recorded."""
        payload = made.split(".")[1]
        said = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
        if said != grant.claims or grant.id not in said:
            raise Unavailable(
                "unavailable", "the credential is not what was planned; it was not delivered", rule="check"
            )

    async def revoke(self, grant: Grant) -> None:
        """Nothing to remove anywhere: a grant that is not live does not redeem."""
