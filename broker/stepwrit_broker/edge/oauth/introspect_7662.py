"""`POST /oauth/introspect`: RFC 7662. Whoever may not know, and whatever is dead, gets the same one word."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response
from stepwrit_broker.edge.oauth.asking import check_client, token_of
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.tokens import introspect

INACTIVE: Final = {"active": False}


class IntrospectionEndpoint:
    """Tells what a credential says, while it would open its door, to whom it concerns."""

    def __init__(self, house: House, callers: Callers) -> None:
        self._house, self._callers = house, callers

    async def __call__(self, request: Request) -> Response:
        """Section 2.2; section 2.3 for a caller that is not authenticated.

        Raises Malformed, Unproven, Refused (the caller itself is stopped), Unavailable.
        """
        caller = await self._callers.of(request, proof=False)
        form = request.form()
        check_client(form, caller)
        claims = await introspect(self._house, caller, token_of(form))
        if claims is None:
            return Response(status=200, value=INACTIVE)
        return Response(status=200, value={**claims, "active": True, "token_type": "DPoP"})
