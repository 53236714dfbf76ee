"""`POST /oauth/token`: RFC 8693 token exchange with RFC 9396 details; an intent, one credential, one grant
to another trust domain's broker. Also the JWT bearer grant (RFC 7523): a peer's grant, for a root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from stepwrit.digest import DigestError, parse_json, unb64u
from stepwrit.shape import ShapeError, read, write
from stepwrit.wire import (
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    TOKEN_TYPE_UNSIGNED,
    IntentRequest,
    RequestDetails,
)
from stepwrit.wire_chain import GRANT_JWT_BEARER, TOKEN_TYPE_ID_JAG
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response, shaped
from stepwrit_broker.edge.oauth.asking import check_client
from stepwrit_broker.edge.oauth.chaining import Chaining, is_bearer
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.intent import IntentStarted, start_intent
from stepwrit_broker.flows.issue import Issued, issue
from stepwrit_broker.observe import Metrics, StageTimer

_ACTOR: Final = frozenset({"actor_token", "actor_token_type"})


class TokenEndpoint:
    """All exchanges share the endpoint; what is requested tells them apart."""

    def __init__(self, house: House, callers: Callers, metrics: Metrics, chaining: Chaining) -> None:
        self._house, self._callers, self._metrics = house, callers, metrics
        self._chaining = chaining

    async def __call__(self, request: Request) -> Response:
        """Raises Malformed, Unproven, Refused, Conflict, Unavailable."""
        stages = self._metrics.stages()
        caller = await self._callers.of(request, proof=True)
        form, operation = request.form(), request.operation_or(self._house.operation_name)
        _check_form(form, caller)
        if is_bearer(form):
            started = await self._chaining.start(caller, form, operation, request.digest)
            self._metrics.opened(started.record.step.origin)
            return Response(status=200, value=_started(started))
        wanted = form.get("requested_token_type", TOKEN_TYPE_ACCESS)
        if wanted == TOKEN_TYPE_TXN:
            return await self._intent(request, caller, form, operation)
        if wanted == TOKEN_TYPE_ID_JAG:
            return await self._chaining.export(caller, form, operation, request.digest)
        if wanted != TOKEN_TYPE_ACCESS:
            raise Malformed("invalid_request", "requested_token_type: txn_token, access_token or id-jag")
        return await self._credential(request, caller, form, operation, stages)

    async def _credential(
        self, request: Request, caller: Caller, form: Mapping[str, str], operation: str, stages: StageTimer
    ) -> Response:
        subject, target = _subject(form), _target(form)
        details = _details(form.get("authorization_details", ""))
        try:
            issued = await issue(
                self._house, caller, subject, target, details, operation, request.digest, stages
            )
        except Problem as problem:
            self._metrics.stage_refused(stages.running, problem.code)
            raise
        grant, action = issued.record.grant, issued.step.action
        self._metrics.issued("" if action is None else action.tool, issued.step.origin, grant.audience)
        answer = Response(status=200, value=_issued(issued))
        stages.mark("deliver")
        return answer

    async def _intent(
        self, request: Request, caller: Caller, form: Mapping[str, str], operation: str
    ) -> Response:
        if form.get("audience") != self._house.trust_domain or "resource" in form:
            raise Malformed("invalid_target", "audience must be the trust domain, and there is no resource")
        if form.get("scope", "intent") != "intent":
            raise Malformed("invalid_scope", "scope: intent, or absent; request_details says the rest")
        id_token = _person(form, caller)
        asked = shaped(IntentRequest, form.get("request_details", ""))
        started = await start_intent(self._house, caller, asked, id_token, operation, request.digest)
        self._metrics.opened(started.record.step.origin)
        if started.record.step.intent.cause is not None:
            self._metrics.caused(caller.entry.name)
        return Response(status=200, value=_started(started))


def _issued(issued: Issued) -> dict[str, object]:
    """RFC 8693 section 2.2.1, with the details as they were granted (RFC 9396 section 7)."""
    grant = issued.record.grant
    return {
        "access_token": issued.credential,
        "issued_token_type": TOKEN_TYPE_ACCESS,
        "token_type": "DPoP",
        "expires_in": issued.expires_in,
        "authorization_details": json.loads(grant.claims)["authorization_details"],
        "grant": grant.id,
        "ref": grant.ref,
    }


def _started(started: IntentStarted) -> dict[str, object]:
    """The same for a token that is no access token: `N_A`."""
    step = started.record.step
    return {
        "access_token": started.token,
        "issued_token_type": TOKEN_TYPE_TXN,
        "token_type": "N_A",
        "expires_in": started.expires_in,
        "scope": "intent",
        "step": step.id,
        "txn": step.txn,
        "ref": step.ref,
        "origin": step.origin,
        "proof": step.intent.proof,
        "tool": step.intent.without_step,
        "ceiling": write(step.ceiling.spec()),
        "ends_at": step.expires_at,
    }


def _person(form: Mapping[str, str], caller: Caller) -> str | None:
    """The ID token; None when a trigger names itself."""
    kind, subject = form.get("subject_token_type"), form.get("subject_token", "")
    if kind not in (TOKEN_TYPE_ID, TOKEN_TYPE_UNSIGNED) or not subject:
        raise Malformed("invalid_request", "subject_token: an ID token, or a trigger's own name")
    if kind == TOKEN_TYPE_UNSIGNED:
        _check_self(subject, caller)
        return None
    return subject


def _check_form(form: Mapping[str, str], caller: Caller) -> None:
    """What is unknown is ignored (RFC 6749 section 3.2); what would change the meaning is refused."""
    check_client(form, caller)
    if "grant_type" not in form:
        raise Malformed("invalid_request", "grant_type is missing")
    if form["grant_type"] not in (GRANT_TOKEN_EXCHANGE, GRANT_JWT_BEARER):
        raise Malformed(
            "unsupported_grant_type", "grant_type: token exchange (RFC 8693) or jwt-bearer (RFC 7523)"
        )
    if not _ACTOR.isdisjoint(form):
        raise Malformed("invalid_request", "no actor_token: the actor is the client that was proved")


def _check_self(subject: str, caller: Caller) -> None:
    try:
        claimed = json.loads(subject)
    except ValueError as bad:
        raise Malformed("invalid_request", "subject_token is not JSON") from bad
    if claimed != {"sub": caller.workload.id}:
        raise Malformed("invalid_request", "subject_token must name the caller's own SPIFFE ID")


def _subject(form: Mapping[str, str]) -> str:
    if form.get("subject_token_type") not in (TOKEN_TYPE_STEP, TOKEN_TYPE_TXN) or not form.get(
        "subject_token"
    ):
        raise Malformed("invalid_request", "subject_token: a step's id or token")
    return form["subject_token"]


def _target(form: Mapping[str, str]) -> str:
    """The one resource, by `resource` (RFC 8707), by `audience` (RFC 8693), or by both if they agree."""
    if "scope" in form:
        raise Malformed(
            "invalid_scope", "a credential has no scope: authorization_details says what it opens"
        )
    named = {form[name] for name in ("resource", "audience") if name in form}
    if len(named) != 1:
        raise Malformed("invalid_target", "resource: exactly one registered audience")
    return named.pop()


def _details(raw: str) -> RequestDetails:
    """RFC 9396 section 5: unknown types, members and wrong values are refused."""
    try:
        value = parse_json(raw)
        if not isinstance(value, list) or len(value) != 1:
            raise ShapeError("authorization_details: exactly one object")
        details = read(RequestDetails, value[0], "authorization_details[0]")
        if len(unb64u(details.body)) != 32:
            raise ShapeError("authorization_details[0].body: base64url SHA-256 of the body")
    except (DigestError, ShapeError) as bad:
        raise Malformed("invalid_authorization_details", str(bad)) from bad
    return details
