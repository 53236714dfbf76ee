"""`POST /oauth/revoke`: RFC 7009. The client ends what was issued to it; of others it learns nothing."""

from __future__ import annotations

from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response
from stepwrit_broker.edge.oauth.asking import check_client, token_of
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.tokens import revoke_token
from stepwrit_broker.observe import Metrics


class RevocationEndpoint:
    """Ends a credential or a step by its token, in force when it answers."""

    def __init__(self, house: House, callers: Callers, metrics: Metrics) -> None:
        self._house, self._callers, self._metrics = house, callers, metrics

    async def __call__(self, request: Request) -> Response:
        """Section 2.2. A stopped caller may still end what it has.

        Raises Malformed (`unsupported_token_type` among them), Unproven, Unavailable.
        """
        caller = await self._callers.of(request, proof=False, stopped_too=True)
        form = request.form()
        check_client(form, caller)
        operation = request.operation_or(self._house.operation_name)
        mark = await revoke_token(self._house, caller, token_of(form), operation, request.digest)
        if mark is not None:
            self._metrics.marked("revoke")
        return Response(status=200, value={})
