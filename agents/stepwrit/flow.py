"""The exchange with the broker without I/O: one generator per verb.

A flow yields `Request` (answer it with a `Response`, or throw `Lost` into it) and `Wait` (sleep, then send
None), and returns the verb's answer. It holds the whole retry policy, so that every driver has the same:
one operation id per try of a verb and a fresh proof per request; what cannot be repeated is not lost.

All flows raise RefusedError for a no, UnavailableError when nobody could say yes within the retry budget.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from stepwrit._reply import Garbled, json_object, local
from stepwrit._reply import refusal as refusal_in
from stepwrit.clock import Clock, Entropy, fraction, random_id
from stepwrit.digest import DigestError, canonical
from stepwrit.dpop import make_proof
from stepwrit.errors import ApprovalPendingError, RefusedError, UnavailableError
from stepwrit.jws import SigningKey
from stepwrit.wire import HEADER_DPOP, HEADER_OPERATION, Refusal

T = TypeVar("T")

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request to the broker. path: absolute path below the base URL.

    hold_s: how long the broker was asked to hold the answer, beyond the usual time for one.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    hold_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One HTTP response. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Sleep this many seconds, then go on."""

    seconds: float


class Lost(Exception):  # noqa: N818  reads as a state
    """No reply. sent: whether the request may have reached the broker."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent: Final = sent


class InDoubtError(UnavailableError):
    """Unavailable, and an earlier try may have been carried out."""


Flow = Generator[Request | Wait, Response | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how long. budget_s: seconds spent waiting between tries, over one verb."""

    tries: int = 4
    first_s: float = 0.1
    most_s: float = 2.0
    budget_s: float = 10.0

    def wait(self, tried: int, spent: float, hint: float | None, jitter: float) -> float | None:
        """Seconds until the next try after `tried` tries, or None to give up. jitter: 0 to 1."""
        backoff = min(self.first_s * 2 ** (tried - 1), self.most_s) * (0.5 + jitter / 2)
        seconds = max(backoff, hint or 0.0)
        return None if tried >= self.tries or spent + seconds > self.budget_s else seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends, and how: what all flows of one client share. base_url: without a slash at the end."""

    base_url: str
    key: SigningKey
    clock: Clock
    entropy: Entropy
    retry: Retry = field(default_factory=Retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One verb's request as often as it is sent, and how its answer is read."""

    method: str
    path: str
    read: Callable[[Mapping[str, object]], T]
    body: bytes = field(repr=False, default=b"")
    content_type: str = JSON
    proven: bool = False
    hold_s: int = 0


def post(
    path: str,
    members: object,
    read: Callable[[Mapping[str, object]], T],
    *,
    proven: bool = False,
    hold_s: int = 0,
) -> Call[T]:
    """A call that sends JSON. hold_s: how long the answer may be held back (RFC 7240 `wait`).

    Raises:
        RefusedError: `invalid_arguments`: what is to be sent is not JSON of one meaning (RFC 8785).
    """
    try:
        body = canonical(members)
    except DigestError as bad:
        raise RefusedError(local("invalid_arguments", str(bad))) from None
    return Call(method="POST", path=path, read=read, body=body, proven=proven, hold_s=hold_s)


def exchange(sender: Sender, call: Call[T]) -> Flow[T]:
    """Send until there is an answer, a no, or the budget is spent.

    Raises:
        RefusedError: a no.
        UnavailableError: nobody answered; InDoubtError if a try may have been carried out all the same.
    """
    operation, nonce = random_id(sender.entropy), None
    tried, spent, doubt = 0, 0.0, False
    while True:
        tried += 1
        try:
            response = yield _request(sender, call, operation, nonce)
            assert response is not None, "a request is answered with a response"  # noqa: S101  driver's fault
            return _read(call, response)
        except _AskedForNonce as asked:
            if nonce is not None:
                raise RefusedError(asked.refusal) from None
            nonce, tried = asked.nonce, tried - 1
            continue
        except _Trouble as trouble:
            refusal, doubt = trouble.refusal, doubt or trouble.doubt
        except Lost as lost:
            refusal, doubt = local("unavailable", f"no reply from the broker: {lost}"), doubt or lost.sent
        seconds = sender.retry.wait(tried, spent, refusal.retry_after, fraction(sender.entropy))
        if seconds is None:
            raise (InDoubtError if doubt else UnavailableError)(refusal)
        spent += seconds
        yield Wait(seconds=seconds)


class _Trouble(Exception):  # noqa: N818
    def __init__(self, refusal: Refusal, *, doubt: bool) -> None:
        self.refusal = refusal
        self.doubt = doubt


class _AskedForNonce(Exception):  # noqa: N818
    def __init__(self, refusal: Refusal, nonce: str) -> None:
        self.refusal = refusal
        self.nonce = nonce


def _request(sender: Sender, call: Call[T], operation: str, nonce: str | None) -> Request:
    headers = {"Accept": JSON}
    if call.method == "POST":
        headers |= {"Content-Type": call.content_type, HEADER_OPERATION: operation}
    if call.hold_s:
        headers["Prefer"] = f"wait={call.hold_s}"
    if call.proven:
        # a fresh one each time: a proof's jti is seen once, also on an honest retry (RFC 9449 section 11.1)
        headers[HEADER_DPOP] = make_proof(
            sender.key,
            call.method,
            sender.base_url + call.path,
            sender.clock.now(),
            random_id(sender.entropy),
            nonce=nonce,
        )
    return Request(method=call.method, path=call.path, headers=headers, body=call.body, hold_s=call.hold_s)


def _read(call: Call[T], response: Response) -> T:
    try:
        if 200 <= response.status < 300:
            return call.read(json_object(response.body))
        refusal = refusal_in(response.body)
    except Garbled as bad:
        reason = f"the broker's reply ({response.status}) makes no sense: {bad}"
        raise _Trouble(local("unavailable", reason), doubt=True) from None
    if refusal.code == "use_dpop_nonce" and (nonce := response.headers.get("dpop-nonce")):
        raise _AskedForNonce(refusal, nonce)
    if refusal.code in ("outcome_unknown", "unavailable") or response.status == 503:
        raise _Trouble(refusal, doubt=refusal.code == "outcome_unknown")
    if refusal.approval is not None:
        raise ApprovalPendingError(refusal, refusal.approval)
    raise RefusedError(refusal)
