"""`/v1/approvals` on the `tls` listener: approvers who hold a registered key, and nothing else.

Every request but a signature proves that key: `Authorization: Stepwrit-Key STATEMENT.SIGNATURE`, both
base64url, the statement as in `core.statement`. A signature is its own proof.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from stepwrit.digest import DigestError, b64u, body_digest, unb64u
from stepwrit.wire import LEEWAY_S
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.statement import REQUEST, read_statement
from stepwrit_broker.edge.http import Asgi, Receive, Request, Response, Scope, Send, receive_request
from stepwrit_broker.edge.nonces import Nonces
from stepwrit_broker.edge.problems import render
from stepwrit_broker.flows import approving, detached
from stepwrit_broker.flows.house import House
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_approval import Keys

BASE: Final = "/v1/approvals"
SCHEME: Final = "Stepwrit-Key"
NONCE: Final = b"stepwrit-nonce"
MAX_AGE_S: Final = 60
SEEN_MAX: Final = 600  # statements of one key, while they could be repeated: nobody keeps others out
_HEADER_MAX: Final = 8_192
_JTI_MAX: Final = 128
_log = structlog.get_logger("stepwrit.edge")
Handler = Callable[[Request, str], Awaitable[dict[str, object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureBody:
    """One signature. key: its id. attempt: as the approval was shown with. The others are base64url."""

    key: str
    attempt: str
    signature: str = field(repr=False)
    v: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialBody:
    """A no. freeze: and nothing of the transaction goes on."""

    reason: str = ""
    freeze: bool = False
    v: int = 1


class ApproversApp:
    """ASGI: `/v1/approvals`, and `rest` for every other path. base: the issuer's URL, which requests name."""

    def __init__(
        self, *, house: House, keys: Keys, metrics: Metrics, base: str, nonces: Nonces, rest: Asgi
    ) -> None:
        self._house, self._keys, self._metrics = house, keys, metrics
        self._base, self._nonces, self._rest = base, nonces, rest
        self._seen: dict[str, dict[str, float]] = {}  # as many as there are registered keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered whatever happens."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not (path == BASE or path.startswith(BASE + "/")):
            await self._rest(scope, receive, send)
            return
        began, outcome, code = time.perf_counter(), "ok", ""
        verb, call, name = self._route(scope["method"], path)
        try:
            answer = await call(await receive_request(scope, receive), name)
            response = Response(status=200, value=answer)
        except Problem as problem:
            await self._on_record(verb, name, problem, scope)
            outcome = "unavailable" if isinstance(problem, Unavailable) else "refused"
            code, response = problem.code, _rendered(problem)
        except Exception:  # noqa: BLE001  the last line: no detail leaves, the log has it
            outcome, code = "error", "internal"
            _log.error("unexpected", verb=verb, exception=traceback.format_exc())
            response = render(Unavailable("unavailable", "an internal error", retry_after=1.0))
        self._metrics.request(verb, outcome, code, time.perf_counter() - began)
        await replace(response, headers=(*response.headers, *self._fresh_nonce())).send(send)

    async def _on_record(self, verb: str, name: str, problem: Problem, scope: Scope) -> None:
        """What somebody was refused who had proved their key; of strangers there is only a count."""
        person: str | None = scope.get("stepwrit.person")
        if person is not None:
            await self._house.refusals.note_person(problem, person, verb, name)

    def _fresh_nonce(self) -> tuple[tuple[bytes, bytes], ...]:
        """None while the clock is in doubt: the answer goes out nevertheless."""
        with suppress(Unavailable):
            return ((NONCE, self._nonces.fresh(self._house.clock.now()).encode()),)
        return ()

    def _route(self, method: str, path: str) -> tuple[str, Handler, str]:
        name, _, verb = path[len(BASE) + 1 :].partition("/")
        routes: Mapping[tuple[str, bool, str], tuple[str, Handler]] = {
            ("GET", False, ""): ("approvals", self._list),
            ("GET", True, ""): ("approval", self._show),
            ("POST", True, "signatures"): ("approval_sign", self._sign),
            ("POST", True, "denial"): ("approval_deny", self._deny),
        }
        word, handler = routes.get((method, bool(name), verb), ("approvals", _nothing))
        return word, handler, name

    async def _list(self, request: Request, _: str) -> dict[str, object]:
        """What waits for this person, newest first."""
        who = await self._who(request)
        waiting = await approving.waiting(self._house, who)
        return {"waiting": [_brief(self._house, each) for each in waiting]}

    async def _show(self, request: Request, name: str) -> dict[str, object]:
        """The document that is signed, the text, the state; a nonce for one attempt while it waits."""
        who = await self._who(request)
        view = await approving.view(self._house, who, name)
        asked = view.record.asked
        return {
            "id": asked.id,
            "issuer": self._house.issuer,
            "state": view.record.state,
            "document": asked.signed,
            "digest": asked.digest,
            "text": None if view.text is None else list(view.text),
            "missing": view.missing,
            "has_signed": view.has_signed,
            **await self._attempt(who, name),
        }

    async def _attempt(self, who: Identity, name: str) -> dict[str, object]:
        try:
            begun = await approving.begin(self._house, who, name)
        except (Refused, Conflict):
            return {"attempt": None, "attempt_until": None}
        return {"attempt": b64u(begun.nonce), "attempt_until": int(begun.until)}

    async def _sign(self, request: Request, name: str) -> dict[str, object]:
        sent = request.shape(SignatureBody)
        try:
            attempt, signature = unb64u(sent.attempt), unb64u(sent.signature)
        except DigestError as bad:
            raise Malformed("invalid_request", "attempt and signature are base64url") from bad
        shown = detached.KeySignature(key=sent.key, attempt=attempt, signature=signature)
        return _brief(self._house, await detached.sign_by_key(self._house, self._keys, name, shown))

    async def _deny(self, request: Request, name: str) -> dict[str, object]:
        who = await self._who(request)
        sent = request.shape(DenialBody)
        return _brief(
            self._house, await approving.deny(self._house, who, name, sent.reason, freeze=sent.freeze)
        )

    async def _who(self, request: Request) -> Identity:
        """The owner of the key that signed this request. Raises Unproven, Refused(`replay`)."""
        said, signature = _shown(request)
        try:
            claimed = read_statement(REQUEST, said)
        except ValueError as bad:
            raise Unproven("invalid_proof", "not a statement about a request", rule="statement") from bad
        key = await detached.active_key(self._house, str(claimed.get("key")))
        self._keys.check(key.public_key, REQUEST, said, signature)
        self._check_fresh(claimed)
        expected = {
            "method": request.method,
            "url": self._base + request.path,
            "body": body_digest(request.body),
        }
        if any(claimed.get(name) != value for name, value in expected.items()):
            raise Unproven("invalid_proof", "the statement is about another request", rule="request")
        self._once(key.id, str(claimed.get("jti")))
        request.scope["stepwrit.person"] = self._house.opaque(key.owner)
        return key.owner

    def _check_fresh(self, claimed: Mapping[str, object]) -> None:
        now, at, nonce = self._house.clock.now(), claimed.get("at"), claimed.get("nonce")
        if not self._nonces.is_ours(nonce if isinstance(nonce, str) else None, now):
            raise Unproven("invalid_proof", "the statement needs the nonce of this answer", rule="nonce")
        if type(at) is not int or not now - MAX_AGE_S - LEEWAY_S <= at <= now + LEEWAY_S:
            raise Unproven("invalid_proof", "the statement is too old, or from the future", rule="expired")

    def _once(self, key: str, jti: str) -> None:
        """Each statement serves once. The nonces are this process's own, so a restart forgets nothing."""
        now, seen = self._house.clock.now(), self._seen.setdefault(key, {})
        if jti in seen:
            raise Refused("replay", "this statement was used before", rule="proof request")
        if not 16 <= len(jti) <= _JTI_MAX:
            raise Unproven("invalid_proof", f"jti: 16 to {_JTI_MAX} characters", rule="claims")
        if len(seen) >= SEEN_MAX:
            seen = self._seen[key] = {each: until for each, until in seen.items() if until >= now}
        if len(seen) >= SEEN_MAX:
            raise Refused(
                "limit", "too many requests by this key at once", rule="approvers", retry_after=30.0
            )
        seen[jti] = now + MAX_AGE_S + 2 * LEEWAY_S


def _shown(request: Request) -> tuple[bytes, bytes]:
    """Statement and signature of the `Authorization` header."""
    scheme, _, token = (request.header(b"authorization") or "").partition(" ")
    statement, _, signature = token.partition(".")
    if scheme.lower() != SCHEME.lower() or len(token) > _HEADER_MAX:
        raise Unproven("invalid_proof", f"Authorization: {SCHEME} with a signed statement", rule="nonce")
    try:
        return unb64u(statement), unb64u(signature)
    except DigestError as bad:
        raise Unproven("invalid_proof", "a part is not base64url", rule="statement") from bad


def _brief(house: House, record: ApprovalRecord) -> dict[str, object]:
    asked = record.asked
    return {
        "id": asked.id,
        "state": record.state,
        "tool": asked.action.tool,
        "impact": asked.action.impact,
        "initiator": asked.step.initiator,
        "expires_at": asked.expires_at,
        "digest": asked.digest,
        "signatures": len(record.signed),
        "url": house.approval_url(asked.id),
        "ref": asked.step.ref,
    }


async def _nothing(_: Request, __: str) -> dict[str, object]:
    raise Refused("not_found", "there is no such route; see docs/reference/http-api.md")


def _rendered(problem: Problem) -> Response:
    """As everywhere; a 401 names this face's scheme."""
    response = render(problem)
    kept = tuple(each for each in response.headers if each[0] != b"www-authenticate")
    named = ((b"www-authenticate", SCHEME.encode()),) if response.status == 401 else ()
    return replace(response, headers=(*kept, *named))
