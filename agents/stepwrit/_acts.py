"""What a server makes its client do, on both sides; it knows no MCP library.

The server opens a step for it before it asks (`Step.start`). The client verifies the proof that comes with
the question, accepts the step, does what is asked as that step, and ends it. What it starts meanwhile hangs
below the act, so that a server cannot have an agent's model start anything that would count as the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

import anyio

from stepwrit import lineage, telemetry
from stepwrit._alive import StoppedError
from stepwrit._mcp_arrival import Arrival, accept_carried, checked
from stepwrit._outgoing import OutgoingStep
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import IdentityUnavailable, RefusedError, StepwritError
from stepwrit.lineage import Carried, Step
from stepwrit.tokens import StepToken
from stepwrit.wire import META_STEP, MarkRequest, Outcome, Refusal
from stepwrit.wire_acts import CLIENT, META_STEPS

T = TypeVar("T")
_log = logging.getLogger("stepwrit")
LAST_S: Final = 5.0
DISHONEST: Final = frozenset(
    {
        *("no_step", "invalid_request", "invalid_arguments", "arguments_changed"),
        *("invalid_token", "invalid_proof", "wrong_workload", "not_found", "not_yet_supported"),
    }
)
"""Refusals of an act that an honest server never earns: its call is revoked for them. It can earn a `replay`:
a transport may deliver a question twice.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for: one of `stepwrit.wire_acts.ACTS`, and its arguments: digests and plain facts."""

    act: str
    args: dict[str, object] = field(repr=False)


# --- the server's side


async def open_act(step: Step, ask: Ask) -> dict[str, object]:
    """`{token, proof}` of a new step for this, below the running one.

    Raises:
        ApprovalPendingError: a person must sign first. RefusedError: the broker's no.
    """
    opened: OutgoingStep = await step.start(CLIENT, ask.act, ask.args)
    return cast("dict[str, object]", (await opened.meta())[META_STEP])


# --- the client's side


def proofs_in(meta: Mapping[str, object] | None) -> Mapping[str, object]:
    """The proofs of a result that asks for something, by input key.

    Raises:
        RefusedError: `invalid_request`: there is something else under our name.
    """
    said = (meta or {}).get(META_STEPS)
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise RefusedError(local("invalid_request", f"_meta[{META_STEPS!r}] is no object"))
    return cast("Mapping[str, object]", said)


async def take(broker: Broker, ask: Ask, proof: object, below: Collection[str]) -> Step:
    """The accepted step of what a server asks for. proof: `{token, proof}` as it came, None if none did.

    below: the steps of which it may be a part: those of our calls that are under way at this server.

    Raises:
        RefusedError: why nothing is done, with the `ref` of its record where there is one.
    """
    arrival, carried = _arrived(ask, proof)
    with _told():
        return await accept_carried(broker, arrival, carried, CLIENT, below=below)


async def look_at(broker: Broker, ask: Ask, proof: object, below: Collection[str]) -> StepToken:
    """The step of what a server tells and nobody answers, verified without the broker's state.

    It may have ended with its call by the time that it arrives, so it is not accepted. Raises as `take`.
    """
    arrival, carried = _arrived(ask, proof)
    with _told():
        return await checked(broker, arrival, carried, CLIENT, below=below)


def _arrived(ask: Ask, proof: object) -> tuple[Arrival, Carried]:
    if proof is None:
        reason = f"the server asks for {ask.act} without the proof of a step of its own"
        raise RefusedError(local("no_step", reason))
    meta: dict[str, object] = {META_STEP: proof}
    carried = cast("Carried", lineage.from_meta(meta))
    return Arrival(tool=ask.act, arguments=ask.args, meta=meta), carried


@contextmanager
def _told() -> Generator[None]:
    """Doubt is a refusal too: nothing is done."""
    try:
        yield
    except RefusedError:
        raise
    except StepwritError as doubt:
        raise RefusedError(local("unavailable", str(doubt))) from None


async def take_all(
    broker: Broker, asked: Mapping[str, Ask], proofs: Mapping[str, object], below: Collection[str]
) -> dict[str, Step]:
    """The accepted steps of all that one result asks for, by its key: all, or none. Raises as `take`."""
    taken: dict[str, Step] = {}
    try:
        for key, ask in asked.items():
            taken[key] = await take(broker, ask, proofs.get(key), below)
    except BaseException:
        for each in taken.values():
            await end(broker, each, "cancelled")
        raise
    return taken


async def perform(
    broker: Broker, act: Step, body: Callable[[], Awaitable[T]], failed: Callable[[T], bool]
) -> T:
    """Do it as that step, and say how it ended. failed: whether the body's answer is that it could not.

    Raises:
        RefusedError: the step was ended under it: the body is stopped, and what it answers is not sent.
    """
    outcome: Outcome = "failed"
    try:
        with lineage.entered(act):
            answer = await broker.alive.beside(act, body)
        await confirm(broker, act)
        outcome = "failed" if failed(answer) else "done"
        return answer
    except StoppedError as stopped:
        raise RefusedError(_over(act, stopped.how)) from None
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        await end(broker, act, outcome)


async def confirm(broker: Broker, act: Step) -> None:
    """Pass if nobody has ended the act. Raises RefusedError."""
    try:
        status = await broker.heartbeat(act.id)
    except IdentityUnavailable as missing:
        raise RefusedError(local("unavailable", str(missing), ref=act.ref)) from None
    if status.state != "accepted":
        raise RefusedError(_over(act, status.state))


def _over(act: Step, how: str) -> Refusal:
    code = how if how in ("revoked", "expired") else "closed"
    return local(code, "what the server asked for was ended meanwhile: nothing is answered", ref=act.ref)


async def end(broker: Broker, act: Step, outcome: Outcome) -> None:
    """Nothing more is done for this act. Also while being cancelled; what others ended needs no close."""
    by_others = act.ended is not None
    act.end(outcome)
    if by_others:
        return
    with anyio.move_on_after(LAST_S, shield=True):
        try:
            await broker.close_step(act.id, outcome)
        except StepwritError as not_closed:
            _log.warning("step %s was not closed: %s", act.ref, not_closed)


async def refused(broker: Broker, refusal: Refusal, act: str, calls: Collection[str]) -> None:
    """Count a refused act; the calls of a server that is not honest are revoked, so that it is on record."""
    telemetry.act_refused(act, refusal.code)
    if refusal.code not in DISHONEST:
        return
    for call in calls:
        await _revoke(broker, call, f"its server asked for {act}: {refusal.code}")


async def _revoke(broker: Broker, call: str, reason: str) -> None:
    with anyio.move_on_after(LAST_S, shield=True):
        try:
            await broker.mark(MarkRequest(verb="revoke", target=f"step:{call}", reason=reason))
        except StepwritError as failed:
            _log.warning("step %s was not revoked: %s", call, failed)
