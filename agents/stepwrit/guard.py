"""The resource's door: no request reaches the application without a redeemed credential.

    app.add_middleware(StepwritGuard, audience="https://bank.example")

    @app.post("/v1/transfers")
    async def create(body: Transfer, step: Annotated[Step, Depends(current_step)]):
        db.insert(body, idempotency_key=step.grant_id)

Plain ASGI, for any framework. Each request needs its own credential (RFC 9449 `DPoP` scheme) for exactly its
method, URL and body bytes; the guard checks it offline and then redeems it online, once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final, cast
from urllib.parse import urlsplit

from opentelemetry import metrics

from stepwrit import _guard_answer as answer
from stepwrit import _guard_asgi as asgi
from stepwrit._guard_answer import Denied, denied
from stepwrit._guard_check import Checks
from stepwrit._guard_redeem import Redeemer, redeem, report
from stepwrit._guard_streams import Follows, Streams, targets_of
from stepwrit.client import Broker
from stepwrit.clock import Clock, SystemClock
from stepwrit.digest import DigestError, body_digest, normalise_url
from stepwrit.errors import ConfigurationError
from stepwrit.spiffe_id import check_trust_domain
from stepwrit.wire import GUARD_BODY_MAX_BYTES, HopSpec, Origin, Redeemed, RedeemRequest

STATE_KEY: Final = "stepwrit.step"
BUDGET_S: Final = 8.0  # under the 10 s in which the broker repeats its first answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """On whose behalf the application runs: the step whose credential opened this request.

    grant_id: unique to this one go-ahead; use it as the idempotency key of what you write. requester: the
    broker's opaque id of the person, None below a trigger. chain: every hop, oldest first. performer: the
    SPIFFE ID that presented the credential. ref: what `stepwrit explain` takes.
    """

    requester: str | None
    origin: Origin
    chain: tuple[HopSpec, ...]
    grant_id: str
    tool: str
    txn: str
    step_id: str
    performer: str
    ref: str

    @staticmethod
    def of(redeemed: Redeemed) -> Step:
        """From the broker's go-ahead."""
        return Step(
            requester=redeemed.requester,
            origin=redeemed.origin,
            chain=redeemed.chain,
            grant_id=redeemed.grant,
            tool=redeemed.tool,
            txn=redeemed.txn,
            step_id=redeemed.step,
            performer=redeemed.performer,
            ref=redeemed.ref,
        )


_CURRENT: Final[ContextVar[Step | None]] = ContextVar("stepwrit.guard.step", default=None)


def current_step() -> Step:
    """The step of the request being served; also a FastAPI dependency: `Depends(current_step)`.

    Raises:
        ConfigurationError: no guarded request is being served (no StepwritGuard, or the path is exempt).
    """
    step = _CURRENT.get()
    if step is None:
        raise ConfigurationError("no step here: add StepwritGuard, and do not exempt this path")
    return step


_refusals = metrics.get_meter("stepwrit").create_counter(
    "stepwrit.guard.refusals", unit="{request}", description="requests refused, by code and whose signature"
)


def count_refusal(code: str, signed: bool) -> None:
    """Count a refusal in `stepwrit.guard.refusals`: foreign and unsigned input is counted nowhere else."""
    _refusals.add(1, {"code": code, "signed": signed})


class StepwritGuard:
    """ASGI middleware: verify, bind to the request, redeem once, and only then run the application.

    app: the application. audience: the resource's name in the registry, an absolute URL. broker: None
    makes one from `STEPWRIT_BROKER` and `SPIFFE_ENDPOINT_SOCKET`, closed with the application. base_url: the
    URL under which the application's root is reached, `audience` unless given; `Host` and forwarding headers
    are never read. exempt: exact paths that need no credential. trust_domains: those, beside the broker's,
    whose workloads are let in (the broker's policy must let them too). body_max: bytes, 413 above. budget_s:
    seconds for a redeem. follow_revocations: cut a response that still streams when its step is revoked,
    frozen or ended, or when nothing could be heard of that for two heartbeats. on_refusal: told the code and
    whether the credential was signed by us, once per refusal. Raises ConfigurationError for a URL or a
    setting that cannot be.

    Refusals are problem details (RFC 9457) with a `refusal` member and a `Stepwrit-Ref` header. Websockets
    are refused. `/.well-known/oauth-protected-resource` is answered (RFC 9728).
    """

    def __init__(
        self,
        app: asgi.ASGIApp,
        *,
        audience: str,
        broker: Redeemer | None = None,
        base_url: str | None = None,
        exempt: Collection[str] = (),
        trust_domains: Collection[str] = (),
        body_max: int = GUARD_BODY_MAX_BYTES,
        budget_s: float = BUDGET_S,
        follow_revocations: bool = False,
        on_refusal: Callable[[str, bool], None] = count_refusal,
        clock: Clock | None = None,
    ) -> None:
        self._app: Final = app
        self._face: Final = answer.Face(audience=_absolute(audience, "audience"))
        self._base: Final = _absolute(base_url or audience, "base_url").rstrip("/")
        self._exempt: Final = frozenset((exempt,) if isinstance(exempt, str) else exempt)
        self._body_max: Final = body_max
        self._budget_s: Final = budget_s
        self._on_refusal: Final = on_refusal
        self._now: Final = (clock or SystemClock()).now
        self._own: Final = Broker.from_env() if broker is None else None
        self._broker: Final[Redeemer] = broker or cast("Broker", self._own)
        self._checks: Final = Checks(
            audience=audience, broker=self._broker, now=self._now, foreign=_domains(trust_domains)
        )
        self._streams: Final = self._followed() if follow_revocations else None

    def _followed(self) -> Streams:
        if not isinstance(self._broker, Follows):
            raise ConfigurationError("follow_revocations: this broker client has no feed of revocations")
        return Streams(self._broker, self._now)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in self._exempt:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            self._on_refusal("not_yet_supported", False)
            await answer.send_websocket_refusal(send)

    async def _live(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if self._own is not None:
                await self._own.aclose()

    async def _http(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            if scope["path"] == self._face.metadata_path:
                await answer.send_metadata(scope, send, self._face, await self._checks.issuer())
                return
            redeemed, body = await self._admit(scope, receive)
        except Denied as no:
            self._on_refusal(no.refusal.code, no.signed)
            await answer.send_refusal(send, self._face, no)
            return
        except asgi.Disconnected:
            return
        again = asgi.replay(body, receive)
        if self._streams is None:
            await self._run(scope, again, send, Step.of(redeemed))
            return

        async def run(sending: asgi.Send) -> None:
            await self._run(scope, again, sending, Step.of(redeemed))

        await self._streams.beside(targets_of(redeemed, self._face.audience), run, send)

    async def _run(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, step: Step) -> None:
        inner = {**scope, "state": {**scope.get("state", {}), STATE_KEY: step}}
        token = _CURRENT.set(step)
        try:
            await self._app(inner, receive, send)
        finally:
            _CURRENT.reset(token)

    async def _admit(self, scope: asgi.Scope, receive: asgi.Receive) -> tuple[Redeemed, bytes]:
        """The go-ahead and the body of a request that has one. Raises Denied, Disconnected."""
        try:
            shown = asgi.presented(scope)
        except asgi.BadRequest as bad:
            raise denied("invalid_request", str(bad)) from None
        if shown is None:
            raise denied("no_step", "a request needs a credential of its own")
        seen = RedeemRequest(token=shown.token, proof="", method=scope["method"], url=self._base, body="")
        attempt = _Attempt(seen=seen)
        try:
            return await self._judged(scope, receive, shown, attempt)
        except Denied as no:
            if no.signed and not no.reported:
                raise await report(self._broker, no, attempt.seen) from None
            raise

    async def _judged(
        self, scope: asgi.Scope, receive: asgi.Receive, shown: asgi.Presented, attempt: _Attempt
    ) -> tuple[Redeemed, bytes]:
        """Every check, cheapest first; `attempt` learns what was seen, for the report of a refusal."""
        method: str = scope["method"]
        claims = await self._checks.credential(shown)
        url = attempt.saw_url(scope, self._base)
        shown_proof = attempt.saw_proof(scope)
        proof = self._checks.proof(shown_proof, shown.token, claims=claims, method=method, url=url)
        body = await attempt.saw_body(scope, receive, self._body_max)
        self._checks.request(claims, method, url, attempt.seen.body)
        self._checks.first(proof)
        redeemed = await redeem(self._broker, attempt.seen, claims, self._budget_s)
        return redeemed, body


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """What has been seen of one request so far. All raise Denied, signed: the credential is ours."""

    seen: RedeemRequest

    def saw_url(self, scope: asgi.Scope, base: str) -> str:
        try:
            self.seen = replace(self.seen, url=asgi.target(scope, base))
        except asgi.BadRequest as bad:
            raise denied("invalid_request", str(bad), signed=True) from None
        return self.seen.url

    def saw_proof(self, scope: asgi.Scope) -> str:
        try:
            proof = asgi.only(scope, b"dpop")
        except asgi.BadRequest as bad:
            raise denied("invalid_proof", str(bad), signed=True) from None
        if proof is None:
            raise denied("invalid_proof", "there is no DPoP header", signed=True)
        self.seen = replace(self.seen, proof=proof)
        return proof

    async def saw_body(self, scope: asgi.Scope, receive: asgi.Receive, cap: int) -> bytes:
        try:
            body = await asgi.read_body(scope, receive, cap)
        except asgi.TooLarge as large:
            raise denied("invalid_request", str(large), status=413, signed=True) from None
        except asgi.BadRequest as bad:
            raise denied("invalid_request", str(bad), signed=True) from None
        self.seen = replace(self.seen, body=body_digest(body))
        return body


def _domains(named: Collection[str]) -> frozenset[str]:
    """A name alone is one name, not its letters."""
    try:
        return frozenset(check_trust_domain(each) for each in ((named,) if isinstance(named, str) else named))
    except ValueError as bad:
        raise ConfigurationError(f"trust_domains: {bad}") from None


def _absolute(url: str, name: str) -> str:
    try:
        normalise_url(url)
    except DigestError as bad:
        raise ConfigurationError(f"{name}: {bad}") from None
    if urlsplit(url).query:
        raise ConfigurationError(f"{name} has a query")
    return url
