"""Two exchanges between trust domains: a step for a grant here, a peer's grant for a root there.

RFC 8693 with `requested_token_type` id-jag (draft-ietf-oauth-identity-assertion-authz-grant section 4.3), and
the JWT bearer grant (RFC 7523 section 2.1; section 4.4 of that draft).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from stepwrit.wire import TOKEN_TYPE_STEP
from stepwrit.wire_chain import GRANT_JWT_BEARER, TOKEN_TYPE_ID_JAG
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.edge.http import Response
from stepwrit_broker.flows.exporting import Exported, export
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.importing import start_granted
from stepwrit_broker.flows.intent import IntentStarted
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_peer import PeerGrants


class Chaining:
    """What the token endpoint does for chains that cross. grants: judges what peers made."""

    def __init__(self, house: House, metrics: Metrics, grants: PeerGrants) -> None:
        self._house, self._metrics, self._grants = house, metrics, grants

    async def export(self, caller: Caller, form: Mapping[str, str], operation: str, digest: str) -> Response:
        """One of the caller's own steps, for a grant to the broker that `audience` names."""
        if form.get("subject_token_type") != TOKEN_TYPE_STEP or not form.get("subject_token"):
            raise Malformed("invalid_request", "subject_token: the id of the step that is to cross")
        if "scope" in form or "authorization_details" in form:
            raise Malformed("invalid_scope", "a grant is for the step's own action, and nothing is asked for")
        if "audience" not in form or "resource" in form:
            raise Malformed("invalid_target", "audience: the issuer of the other broker, and no resource")
        step, audience = form["subject_token"], form["audience"]
        made = await export(self._house, caller, step, audience, operation, digest)
        self._metrics.crossed("out", made.peer.name, made.step.origin)
        return Response(status=200, value=_exported(made))

    async def start(
        self, caller: Caller, form: Mapping[str, str], operation: str, digest: str
    ) -> IntentStarted:
        """A root, for a peer's grant."""
        if not form.get("assertion"):
            raise Malformed("invalid_request", "assertion is missing")
        if "scope" in form or "authorization_details" in form:
            raise Malformed("invalid_scope", "a grant says itself what it is for")
        began = await start_granted(self._house, self._grants, caller, form["assertion"], operation, digest)
        upstream = began.record.step.intent.upstream
        peer = (
            None if upstream is None else self._house.settings.now_in_force().registry.peer(upstream.issuer)
        )
        self._metrics.crossed("in", "" if peer is None else peer.name, began.record.step.origin)
        return began


def is_bearer(form: Mapping[str, str]) -> bool:
    """Whether the form brings a JWT authorization grant."""
    return form.get("grant_type") == GRANT_JWT_BEARER


def _exported(made: Exported) -> dict[str, object]:
    """RFC 8693 section 2.2.1; the grant is no access token, so it is of type `N_A`."""
    return {
        "access_token": made.made,
        "issued_token_type": TOKEN_TYPE_ID_JAG,
        "token_type": "N_A",
        "expires_in": made.expires_in,
        "authorization_details": json.loads(made.record.grant.claims)["authorization_details"],
        "grant": made.record.grant.id,
        "ref": made.record.grant.ref,
    }
