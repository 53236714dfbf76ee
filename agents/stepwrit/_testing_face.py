"""The in-memory broker's HTTP face: who calls, what exactly, was it asked before, how the answer looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from stepwrit import _testing_approving as approving
from stepwrit import shape
from stepwrit._base import IN_PROCESS_URL
from stepwrit._testing_books import STATUS, Entry, No
from stepwrit._testing_callers import Caller
from stepwrit._testing_doors import Door, SyncDoor
from stepwrit._testing_opening import TRUST_DOMAIN, TYP_ID_TOKEN
from stepwrit._testing_parse import (
    header,
    json_response,
    only_v,
    read_details,
    read_form,
    read_members,
    read_shape,
)
from stepwrit._testing_using import Using
from stepwrit.clock import Clock, Entropy, SystemClock, SystemEntropy
from stepwrit.digest import body_digest
from stepwrit.dpop import verify_proof
from stepwrit.flow import Request, Response
from stepwrit.jws import TokenRefused
from stepwrit.wire import (
    DOC_BASE,
    GRANT_TOKEN_EXCHANGE,
    HEADER_DPOP,
    HEADER_OPERATION,
    LEEWAY_S,
    REDEEM_REPEAT_S,
    STEP_TOKEN_S,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    TOKEN_TYPE_UNSIGNED,
    AcceptRequest,
    CloseRequest,
    IntentRequest,
    MarkRequest,
    OpenStepRequest,
    RedeemRequest,
    Refusal,
    StepOpened,
    WaitRequest,
)
from stepwrit.wire_ended import EndedRequest
from stepwrit.wire_tasks import AttendRequest

_OAUTH: Final = {  # RFC 6749 section 5.2, RFC 8693 section 2.2.2, RFC 9396 section 5, RFC 9449 section 5
    "invalid_proof": "invalid_dpop_proof",
    "invalid_target": "invalid_target",
    "invalid_scope": "invalid_scope",
    "unsupported_grant_type": "unsupported_grant_type",
    "invalid_authorization_details": "invalid_authorization_details",
    "unavailable": "temporarily_unavailable",
    "unattested": "invalid_client",
    "limit": "slow_down",
    "human_proof": "invalid_request",
    **dict.fromkeys(("expired", "closed", "already_done", "revoked"), "invalid_request"),
}
_OAUTH_STATUS: Final = {
    "unattested": 401,
    **dict.fromkeys(("human_proof", "expired", "closed", "already_done", "revoked"), 400),
}  # elsewhere only a 401 speaks of the client


class FakeBroker(Using):
    """A broker in memory that answers the same HTTP contract as the real one.

    url: its base URL and the issuer of its tokens. `handle` takes one request of an attested workload;
    `transport` and `sync_transport` give a client that door. Tokens, proofs, single use and step states are
    real; policy, limits and durability are not.
    """

    def __init__(
        self, *, url: str = IN_PROCESS_URL, clock: Clock | None = None, entropy: Entropy | None = None
    ) -> None:
        super().__init__(issuer=url, clock=clock or SystemClock(), entropy=entropy or SystemEntropy())
        self._answered: Final[dict[tuple[str, str, str], tuple[str, float, Response]]] = {}
        self._proofs: Final[set[tuple[str, str]]] = set()
        self._asked: Final[dict[tuple[str, str, str], str]] = {}  # opened by it, and waits for a signature

    def id_token(self, subject: str = "alice", *, agent: str) -> str:
        """A person's ID token for this agent, good for one intent."""
        now = int(self.clock.now())
        claims = {"iss": "https://idp.test", "sub": subject, "aud": agent, "jti": self.ref()}
        return self.keys.persons.sign(
            TYP_ID_TOKEN, {**claims, "iat": now, "auth_time": now, "exp": now + 300}
        )

    def transport(self, caller: str) -> Door:
        """The way to this broker of the workload `caller`; give it to `stepwrit.client.Broker`."""
        return Door(self, caller)

    def sync_transport(self, caller: str) -> SyncDoor:
        """The same for `stepwrit.client.SyncBroker`."""
        return SyncDoor(self, caller)

    def is_held(self, request: Request, caller: str) -> bool:
        """Whether it asks for a step that waits for a signature, or for ends of which there are none."""
        if request.path == "/v1/steps/ended":
            told = self.endings.since(caller, read_shape(EndedRequest, read_members(request.body)).after)
            return told.complete and not told.steps
        row = self._steps.get(request.path.removeprefix("/v1/steps/").removesuffix("/token"))
        return row is not None and approving.waits(row)

    def handle(self, request: Request, caller: str) -> Response:
        """The answer to one request of the workload `caller`."""
        who = Caller(spiffe_id=caller)
        try:
            if request.method == "GET":
                return json_response(200, self._published(request.path))
            if not self.registry.attested(caller):
                raise No("unattested", "this workload is not registered")
            who = Caller(spiffe_id=caller, jkt=self._proven(request))
            return self._once(who, request)
        except No as no:
            return self._refused(no.refusal, who, request)

    # --- who and whether

    def _proven(self, request: Request) -> str | None:
        shown = header(request, HEADER_DPOP)
        if shown is None:
            return None
        try:
            proof = verify_proof(
                shown,
                htm=request.method,
                htu=self.issuer + request.path,
                now=self.clock.now(),
                leeway=LEEWAY_S,
            )
        except TokenRefused as bad:
            raise No("invalid_proof", str(bad)) from None
        if (proof.jkt, proof.jti) in self._proofs:
            raise No("invalid_proof", "this proof was used before")
        self._proofs.add((proof.jkt, proof.jti))
        return proof.jkt

    def _once(self, who: Caller, request: Request) -> Response:
        """The first answer for the same operation; a no is not kept, since it changed nothing."""
        operation = header(request, HEADER_OPERATION)
        if not operation or len(operation) > 128:
            raise No("invalid_request", f"{HEADER_OPERATION} is missing or too long")
        verb = request.path.rpartition("/")[2]
        name, content = (who.spiffe_id, verb, operation), body_digest(request.path.encode() + request.body)
        if name in self._answered:
            digest, at, response = self._answered[name]
            if digest != content:
                raise No("operation_reused", "this operation id was used for something else")
            if verb == "redeem" and self.clock.now() >= at + REDEEM_REPEAT_S:
                raise No("replay", "the go-ahead was given, and is no longer repeated")
            return response
        if name in self._asked:
            return json_response(201, self.token(who, self._asked[name]))
        try:
            answer = self._answer(who, request)
        except No as no:
            if verb == "steps" and no.refusal.approval is not None:
                self._asked[name] = no.refusal.approval.step
            raise
        response = json_response(201 if isinstance(answer, StepOpened) else 200, answer)
        self._answered[name] = content, self.clock.now(), response
        return response

    # --- what

    def _answer(self, who: Caller, request: Request) -> object:
        parts = request.path.strip("/").split("/")
        if parts == ["oauth", "token"]:
            return self._exchange(who, read_form(request.body))
        body = read_members(request.body)
        match parts:
            case ["v1", "steps"]:
                return self.open(who, read_shape(OpenStepRequest, body))
            case ["v1", "steps", "ended"]:
                return self.endings.since(who.spiffe_id, read_shape(EndedRequest, body).after)
            case ["v1", "steps", step, verb]:
                return self._step_verb(who, step, verb, body, request.hold_s)
            case ["v1", "redeem"]:
                return self.redeem(who, read_shape(RedeemRequest, body))
            case ["v1", "revocations"]:
                return self.mark(who, read_shape(MarkRequest, body))
            case _:
                raise No("not_found", "no such route")

    def _step_verb(self, who: Caller, step: str, verb: str, body: dict[str, object], hold_s: int) -> object:
        verbs: dict[str, Callable[[], object]] = {
            "token": lambda: self.token(who, only_v(body, step), hold_s),
            "accept": lambda: self.accept(who, step, read_shape(AcceptRequest, body)),
            "resume": lambda: self.resume(who, only_v(body, step)),
            "wait": lambda: self.wait(who, step, read_shape(WaitRequest, body)),
            "heartbeat": lambda: self.heartbeat(who, only_v(body, step)),
            "attend": lambda: self.attend(who, step, read_shape(AttendRequest, body)),
            "close": lambda: self.close(who, step, read_shape(CloseRequest, body).outcome),
        }
        if verb not in verbs:
            raise No("not_found", "no such route")
        return verbs[verb]()

    def _exchange(self, who: Caller, form: Mapping[str, str]) -> object:
        """RFC 8693 section 2.1."""
        if form.get("grant_type") != GRANT_TOKEN_EXCHANGE:
            raise No("unsupported_grant_type", "grant_type is not token exchange")
        wanted = form.get("requested_token_type"), form.get("subject_token_type")
        if wanted in ((TOKEN_TYPE_TXN, TOKEN_TYPE_ID), (TOKEN_TYPE_TXN, TOKEN_TYPE_UNSIGNED)):
            return self._intent_answer(who, form)
        if wanted == (TOKEN_TYPE_ACCESS, TOKEN_TYPE_STEP):
            return self._credential_answer(who, form)
        raise No("not_yet_supported", "the in-memory broker does not exchange these token types")

    def _intent_answer(self, who: Caller, form: Mapping[str, str]) -> object:
        if form.get("audience", TRUST_DOMAIN) != TRUST_DOMAIN:
            raise No("invalid_target", "audience is not the trust domain")
        details = read_members(form.get("request_details", "").encode())
        subject, asked = form.get("subject_token", ""), read_shape(IntentRequest, details)
        if form.get("subject_token_type") == TOKEN_TYPE_ID:
            row, token = self.intent(who, subject, asked)
        else:
            row, token = self.stepless(who, asked)
        return {
            "access_token": token,
            "issued_token_type": TOKEN_TYPE_TXN,
            "token_type": "N_A",
            "expires_in": STEP_TOKEN_S,
            "scope": "intent",
            "step": row.id,
            "txn": row.txn.id,
            "ref": row.ref,
            "origin": row.origin,
            "proof": row.txn.proof,
            "tool": row.txn.without_step,
        }

    def _credential_answer(self, who: Caller, form: Mapping[str, str]) -> object:
        details = read_details(form.get("authorization_details", ""))
        resource = form.get("resource", "")
        grant, token = self.credential(who, form.get("subject_token", ""), resource, details)
        return {
            "access_token": token,
            "issued_token_type": TOKEN_TYPE_ACCESS,
            "token_type": "DPoP",
            "expires_in": int(grant.expires_at - self.clock.now()),
            "authorization_details": self._claims(grant).claims()["authorization_details"],
            "grant": grant.id,
            "ref": grant.ref,
        }

    def _published(self, path: str) -> object:
        if path == "/oauth/jwks":
            return {"keys": [self.keys.step.published_jwk, self.keys.credential.published_jwk]}
        if path == "/.well-known/oauth-authorization-server":
            return {
                "issuer": self.issuer,
                "token_endpoint": f"{self.issuer}/oauth/token",
                "jwks_uri": f"{self.issuer}/oauth/jwks",
                "stepwrit_trust_domain": TRUST_DOMAIN,
            }
        raise No("not_found", "no such route")

    def _refused(self, refusal: Refusal, who: Caller, request: Request) -> Response:
        full = replace(refusal, ref=self._ref_of(refusal), doc=f"{DOC_BASE}{refusal.code}")
        if refusal.approval is None:  # else it is no refusal, and told in the ledger as what it is
            entry = Entry(kind="refused", ref=full.ref or "", caller=who.spiffe_id, code=refusal.code)
            self.ledger.entries.append(entry)
        body: dict[str, object] = {"refusal": shape.write(full), "detail": full.reason}
        status = STATUS.get(refusal.code, 403)
        if request.path.startswith("/oauth/"):
            error = _OAUTH.get(refusal.code, "access_denied" if status == 403 else "invalid_request")
            body |= {"error": error, "error_description": full.reason}
            status = _OAUTH_STATUS.get(refusal.code, {401: 400, 404: 400, 409: 400}.get(status, status))
        return json_response(status, body)

    def _ref_of(self, refusal: Refusal) -> str:
        row = None if refusal.approval is None else self._steps.get(refusal.approval.step)
        return self.ref() if row is None else row.ref
