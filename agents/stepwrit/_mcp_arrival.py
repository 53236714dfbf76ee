"""A tool call arrives: is this step ours, meant for this very call, and sent by its initiator?

What a valid signature of our broker names is reported there even when it is refused here, so that the refusal
is on record and has a `ref`. What nobody of ours signed is refused and counted here only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from stepwrit import lineage
from stepwrit._mcp_stepless import NO_STEP, Stepless
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.digest import DigestError, args_digest, parse_json
from stepwrit.dpop import verify_step_proof
from stepwrit.errors import RefusedError, StepwritError
from stepwrit.jws import TokenRefused, split
from stepwrit.lineage import Carried, Step
from stepwrit.tokens import ClaimError, StepToken
from stepwrit.wire import LEEWAY_S, AcceptRequest, Refusal

MAX_ROUND: Final = 1_000
_SIGNED: Final = frozenset({"version", "issuer", "audience", "life", "expired", "not_yet_valid"})
_NO_ARGS: Final = args_digest(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A `tools/call` as it came. arguments: as sent, before any coercion. headers: every `Txn-Token`.

    state: the digest of its `requestState`. schema: that of the tool's input schema as it is served here.
    """

    tool: str
    arguments: dict[str, object] | None = field(repr=False)
    meta: Mapping[str, object] | None = field(repr=False)
    headers: Sequence[str] = field(repr=False, default=())
    state: str | None = None
    schema: str | None = None


async def accept(broker: Broker, arrival: Arrival, server: str | None, stepless: Stepless) -> Step:
    """The accepted step. server: our registry name, None to leave that to the performer's SPIFFE ID.

    stepless: asked for a call that carries no step at all; one that carries a bad one is refused.

    Raises:
        RefusedError: why not, with the `ref` of its record where there is one.
    """
    carried = lineage.from_meta(arrival.meta)
    if carried is None and not arrival.headers:
        return await stepless.accept(broker, arrival.tool, arrival.arguments, arrival.schema)
    if carried is None:
        raise RefusedError(local("no_step", NO_STEP))
    return await accept_carried(broker, arrival, carried, server)


async def checked(
    broker: Broker,
    arrival: Arrival,
    carried: Carried,
    server: str | None,
    *,
    below: Collection[str] | None = None,
) -> StepToken:
    """What the step token of this message says, once all holds that can be seen without the broker's state.

    Raises as `accept`.
    """
    try:
        claims = await broker.step_claims(carried.token)
    except TokenRefused as bad:
        raise await _bad_token(broker, carried, bad) from None
    finding = _finding(arrival, carried, claims, server, broker)
    if finding is None and below is not None and claims.parent not in below:
        finding = local("invalid_token", "the step is no part of the call that it came with")
    if finding is not None:
        raise await _reported(broker, claims.step, carried, finding)
    return claims


async def accept_carried(
    broker: Broker,
    arrival: Arrival,
    carried: Carried,
    server: str | None,
    *,
    below: Collection[str] | None = None,
) -> Step:
    """The accepted step of what carries one. below: the steps one of which must be its parent; None for any.

    Raises as `accept`.
    """
    claims = await checked(broker, arrival, carried, server, below=below)
    request = AcceptRequest(
        token=carried.token,
        proof=carried.proof,
        args=args_digest(arrival.arguments),
        round=round_of(carried.proof),
        state=arrival.state,
        schema=arrival.schema,
    )
    accepted = await broker.accept(claims.step, request)
    if (accepted.step, accepted.round) != (claims.step, request.round):
        raise RefusedError(local("unavailable", "the broker answered for another step"))
    return Step(broker, accepted)


def _finding(
    arrival: Arrival, carried: Carried, claims: StepToken, server: str | None, broker: Broker
) -> Refusal | None:
    if lineage.contradicts(arrival.headers, carried.token):
        return local("invalid_request", "the Txn-Token header names another token than _meta")
    if not covers(claims.performer, broker.spiffe_id):
        return local("wrong_workload", "the step is for another workload")
    if not same_tool(claims.tool, server, arrival.tool):
        return local("arguments_changed", "the step is for another tool")
    try:
        digest = args_digest(arrival.arguments)
    except DigestError as bad:
        return local("invalid_arguments", str(bad))
    if digest != claims.args:
        return local("arguments_changed", "the arguments are not those of the step")
    return _bad_proof(carried, claims, digest, broker.now())


def _bad_proof(carried: Carried, claims: StepToken, digest: str, now: float) -> Refusal | None:
    try:
        verify_step_proof(
            carried.proof,
            token=carried.token,
            args=digest,
            round=round_of(carried.proof),  # which round is due, the broker knows
            jkt=claims.initiator_jkt,
            now=now,
            leeway=LEEWAY_S,
        )
    except TokenRefused as bad:
        return local("invalid_proof", f"the initiator's proof does not hold: {bad}")
    return None


async def _bad_token(broker: Broker, carried: Carried, bad: TokenRefused) -> RefusedError:
    code = "expired" if bad.reason == "expired" else "invalid_token"
    refusal = local(code, f"the step token does not hold: {bad}")
    step = _step_in(carried.token) if bad.reason in _SIGNED else None
    return RefusedError(refusal) if step is None else await _reported(broker, step, carried, refusal)


async def _reported(broker: Broker, step: str, carried: Carried, refusal: Refusal) -> RefusedError:
    request = AcceptRequest(
        token=carried.token,
        proof=carried.proof,
        args=_NO_ARGS,
        round=round_of(carried.proof),
        finding=refusal.code,
    )
    try:
        await broker.accept(step, request)
    except RefusedError as told:
        return RefusedError(replace(refusal, ref=told.ref))
    except StepwritError:
        pass
    return RefusedError(refusal)


def covers(performer: str, spiffe_id: str) -> bool:
    """Whether a performer (a SPIFFE ID, or a pattern that ends in `/*`) is or covers this workload."""
    return performer == spiffe_id or (performer.endswith("/*") and spiffe_id.startswith(performer[:-1]))


def same_tool(named: str | None, server: str | None, tool: str) -> bool:
    """Whether `named` (`server/tool`) is this tool of ours."""
    theirs, slash, called = (named or "").partition("/")
    return bool(slash) and called == tool and server in (None, theirs)


def round_of(proof: str) -> int:
    """The round that a proof claims; 1 if it claims none."""
    claimed = _unverified(proof).get("round")
    return claimed if type(claimed) is int and 1 <= claimed <= MAX_ROUND else 1


def _step_in(token: str) -> str | None:
    try:
        return StepToken.of(_unverified(token)).step
    except ClaimError:
        return None


def _unverified(token: str) -> Mapping[str, object]:
    try:
        claims = parse_json(split(token).claims_bytes)
    except (TokenRefused, DigestError):
        return {}
    return cast("Mapping[str, object]", claims) if isinstance(claims, dict) else {}


def initiated_by(meta: Mapping[str, object] | None) -> str | None:
    """Who says they send it, for which step, as the token that it carries names them; None without a token.

    Nothing of it is verified. Raises RefusedError for what is no step, ClaimError for no step token.
    """
    carried = lineage.from_meta(meta)
    if carried is None:
        return None
    claims = StepToken.of(_unverified(carried.token))
    return "\n".join((claims.txn, claims.step, claims.initiator, claims.initiator_jkt))
