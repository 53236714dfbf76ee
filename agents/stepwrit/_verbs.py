"""The broker's verbs as flows: what is sent where, and what comes back.

Each docstring names only what is special; `stepwrit.flow.exchange` says what all may raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast
from urllib.parse import quote, urlencode

from stepwrit import shape
from stepwrit._reply import Garbled, answer
from stepwrit.digest import canonical
from stepwrit.errors import OutcomeUnknownError
from stepwrit.flow import FORM, Call, Flow, InDoubtError, Sender, exchange, post
from stepwrit.jws import TokenRefused, VerifyKey
from stepwrit.wire import (
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    AcceptRequest,
    CloseRequest,
    IntentRequest,
    MarkRequest,
    MarkSet,
    OpenStepRequest,
    Origin,
    Outcome,
    Proof,
    Redeemed,
    RedeemRequest,
    RequestDetails,
    StepAccepted,
    StepOpened,
    StepStatus,
    WaitRequest,
)
from stepwrit.wire_chain import GRANT_JWT_BEARER, TOKEN_TYPE_ID_JAG
from stepwrit.wire_deferred import ResumeRequest, StepResumed
from stepwrit.wire_ended import EndedRequest, EndedSteps
from stepwrit.wire_tasks import AttendRequest

T = TypeVar("T")

TOKEN_PATH = "/oauth/token"  # noqa: S105  a path
STEPS_PATH = "/v1/steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose intent: an ID token of a person, or the word of a trigger. kind: its RFC 8693 token type."""

    token: str = field(repr=False)
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentGranted:
    """The answer to an intent. expires_in: seconds that the root's token lives. tool: `server/tool` of the
    call without a step that it was started for.
    """

    step: str
    txn: str
    ref: str
    origin: Origin
    access_token: str = field(repr=False)
    expires_in: int
    proof: Proof | None = None
    scope: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialGranted:
    """A credential, seen once. expires_in: seconds. grant: safe to show; the resource's idempotency key."""

    access_token: str = field(repr=False)
    expires_in: int
    grant: str
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantMade:
    """A grant of one of our steps for another trust domain's broker, seen once. expires_in: seconds."""

    access_token: str = field(repr=False)
    expires_in: int
    grant: str
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the broker says of itself (RFC 8414)."""

    issuer: str
    stepwrit_trust_domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The broker's public keys by `kid`: of step tokens (`st-`), of credentials (`at-`)."""

    step: Mapping[str, VerifyKey]
    credential: Mapping[str, VerifyKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the broker published. at: when we read it, seconds since the epoch."""

    metadata: Metadata
    keys: KeySet
    at: float


def intent(sender: Sender, subject: Subject, request: IntentRequest) -> Flow[IntentGranted]:
    """Exchange a person's ID token, or a trigger's word, for the root of a transaction (RFC 8693)."""
    trust_domain = (yield from metadata(sender)).stepwrit_trust_domain
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": subject.token,
        "subject_token_type": subject.kind,
        "requested_token_type": TOKEN_TYPE_TXN,
        "audience": trust_domain,
        "scope": "intent",
        "request_details": canonical(shape.write(request)).decode(),
    }
    return (yield from exchange(sender, _token_call(form, partial(answer, IntentGranted))))


def credential(
    sender: Sender, *, step: str, resource: str, details: RequestDetails
) -> Flow[CredentialGranted]:
    """A credential for one request of an accepted step's plan (RFC 8693 with RFC 9396 details)."""
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": step,
        "subject_token_type": TOKEN_TYPE_STEP,
        "requested_token_type": TOKEN_TYPE_ACCESS,
        "resource": resource,
        "authorization_details": canonical([shape.write(details)]).decode(),
    }
    return exchange(sender, _token_call(form, partial(answer, CredentialGranted)))


def grant(sender: Sender, *, step: str, issuer: str) -> Flow[GrantMade]:
    """A grant of a step that we opened, for the broker that its tool belongs to (ID-JAG)."""
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": step,
        "subject_token_type": TOKEN_TYPE_STEP,
        "requested_token_type": TOKEN_TYPE_ID_JAG,
        "audience": issuer,
    }
    return exchange(sender, _token_call(form, partial(answer, GrantMade)))


def granted(sender: Sender, assertion: str) -> Flow[IntentGranted]:
    """A root, for another broker's grant (RFC 7523)."""
    form = {"grant_type": GRANT_JWT_BEARER, "assertion": assertion}
    return exchange(sender, _token_call(form, partial(answer, IntentGranted)))


def open_step(sender: Sender, request: OpenStepRequest) -> Flow[StepOpened]:
    """Open a child of a step that we perform, or of our intent."""
    return exchange(sender, post(STEPS_PATH, shape.write(request), partial(answer, StepOpened), proven=True))


def step_token(sender: Sender, step: str, hold_s: int = 0) -> Flow[StepOpened]:
    """A fresh step token for the next round of a step that we opened.

    hold_s: seconds that the broker may hold the answer while the step waits for its approval.
    """
    call = post(_of(step, "token"), {"v": 1}, partial(answer, StepOpened), proven=True, hold_s=hold_s)
    return exchange(sender, call)


def accept(sender: Sender, step: str, request: AcceptRequest) -> Flow[StepAccepted]:
    """Accept a round of a step, or report why it is refused here (`finding`)."""
    return exchange(sender, post(_of(step, "accept"), shape.write(request), partial(answer, StepAccepted)))


def resume(sender: Sender, step: str) -> Flow[StepResumed]:
    """The next run of a deferred step."""
    members = shape.write(ResumeRequest())
    return exchange(sender, post(_of(step, "resume"), members, partial(answer, StepResumed), proven=True))


def wait(sender: Sender, step: str, round: int, state: str | None = None) -> Flow[StepStatus]:  # noqa: A002
    """The call answered "input required"; the step waits for round + 1, which must bring this state."""
    members = shape.write(WaitRequest(round=round, state=state))
    return exchange(sender, post(_of(step, "wait"), members, partial(answer, StepStatus)))


def heartbeat(sender: Sender, step: str) -> Flow[StepStatus]:
    """The step is still running."""
    return exchange(sender, post(_of(step, "heartbeat"), {"v": 1}, partial(answer, StepStatus)))


def attend(sender: Sender, step: str, request: AttendRequest) -> Flow[StepStatus]:
    """Whether the step's initiator may ask this of the task that the step became."""
    return exchange(sender, post(_of(step, "attend"), shape.write(request), partial(answer, StepStatus)))


def close(sender: Sender, step: str, outcome: Outcome) -> Flow[StepStatus]:
    """The step has ended; what it holds ends with it."""
    members = shape.write(CloseRequest(outcome=outcome))
    return exchange(sender, post(_of(step, "close"), members, partial(answer, StepStatus)))


def ended(sender: Sender, after: str | None, hold_s: int = 0) -> Flow[EndedSteps]:
    """Which of the steps that we run were ended by others. hold_s: seconds to wait until there are some."""
    members = shape.write(EndedRequest(after=after))
    return exchange(sender, post(f"{STEPS_PATH}/ended", members, partial(answer, EndedSteps), hold_s=hold_s))


def redeem(sender: Sender, request: RedeemRequest, *, grant: str) -> Flow[Redeemed]:
    """Exchange a credential for the go-ahead, once. grant: the credential's `jti`.

    Raises:
        OutcomeUnknownError: a reply was lost and no later one came: the use may be on record.
    """
    try:
        return (
            yield from exchange(sender, post("/v1/redeem", shape.write(request), partial(answer, Redeemed)))
        )
    except InDoubtError:
        raise OutcomeUnknownError(grant) from None


def mark(sender: Sender, request: MarkRequest) -> Flow[MarkSet]:
    """Revoke, freeze or unfreeze."""
    return exchange(sender, post("/v1/revocations", shape.write(request), partial(answer, MarkSet)))


def metadata(sender: Sender) -> Flow[Metadata]:
    """The broker's metadata."""
    path = "/.well-known/oauth-authorization-server"
    return exchange(sender, Call(method="GET", path=path, read=partial(answer, Metadata)))


def published(sender: Sender) -> Flow[Published]:
    """Metadata and keys, both asked for now."""
    said, keys = (yield from metadata(sender)), (yield from jwks(sender))
    return Published(metadata=said, keys=keys, at=sender.clock.now())


def jwks(sender: Sender) -> Flow[KeySet]:
    """The broker's public keys. A key of no use to us is skipped, not an error (RFC 7517 section 5)."""
    return exchange(sender, Call(method="GET", path="/oauth/jwks", read=_key_set))


def _token_call(form: Mapping[str, str], read: Callable[[Mapping[str, object]], T]) -> Call[T]:
    body = urlencode(form).encode()
    return Call(method="POST", path=TOKEN_PATH, read=read, body=body, content_type=FORM, proven=True)


def _of(step: str, verb: str) -> str:
    return f"{STEPS_PATH}/{quote(step, safe='')}/{verb}"


def _key_set(members: Mapping[str, object]) -> KeySet:
    listed = members.get("keys")
    if not isinstance(listed, list):
        raise Garbled("keys: missing or not an array")
    step: dict[str, VerifyKey] = {}
    credential: dict[str, VerifyKey] = {}
    for each in cast("list[object]", listed):
        kid, key = _key(each)
        if key is not None:
            (step if kid.startswith("st-") else credential if kid.startswith("at-") else {})[kid] = key
    return KeySet(step=step, credential=credential)


def _key(jwk: object) -> tuple[str, VerifyKey | None]:
    if not isinstance(jwk, Mapping):
        return "", None
    members = cast("Mapping[str, object]", jwk)
    kid = members.get("kid")
    try:
        return (kid, VerifyKey.from_jwk(members)) if isinstance(kid, str) else ("", None)
    except TokenRefused:
        return "", None
