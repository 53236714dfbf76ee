"""The performer's verbs: accept a round, wait for a person, say it is alive, close."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepwrit.digest import DigestError, unb64u
from stepwrit.tokens import StepToken
from stepwrit.wire import AcceptRequest, Outcome, WaitRequest
from stepwrit_broker.core import marks
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.clocks import runs_until
from stepwrit_broker.core.document import Party, credential_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.ids import is_id, shard_of
from stepwrit_broker.core.limits import Lives
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import FINAL, Step, StepRecord
from stepwrit_broker.core.verdict import Permit, Question
from stepwrit_broker.flows import later
from stepwrit_broker.flows.asking import check_not_pending, decide_again, is_news
from stepwrit_broker.flows.house import (
    House,
    check_performer,
    decided_afresh,
    decision,
    operation,
    same_tenant,
)
from stepwrit_broker.flows.knowing import within
from stepwrit_broker.ports import AcceptCommand, Evidence, InForce, MoveCommand, Moved, ProofUse

DIGEST_BYTES = 32
FINDINGS = frozenset(
    {
        "invalid_proof",
        "invalid_token",
        "invalid_arguments",
        "arguments_changed",
        "request_changed",
        "expired",
        "replay",
        "wrong_workload",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The step as its performer got it; `ends_at`: seconds, when its clock runs out without a heartbeat."""

    record: StepRecord
    self_grant: Grant | None
    lives: Lives
    ends_at: float


async def accept(
    house: House, caller: Caller, step_id: str, request: AcceptRequest, op_id: str, digest: str
) -> Accepted:
    """The step's performer takes one round of it; a second accept of a round is a replay.

    Raises: Unproven, Refused(`wrong_workload`, `arguments_changed`, `replay`, …), Conflict, Unavailable.
    """
    about: dict[str, object] = {"step": step_id[:64], "round": request.round}
    try:
        return await decided_afresh(lambda: _attempt(house, caller, step_id, request, op_id, digest, about))
    except Problem as problem:
        if not is_news(problem):
            await house.refusals.note(problem, caller, "accept", about)
        raise


async def _attempt(
    house: House,
    caller: Caller,
    step_id: str,
    request: AcceptRequest,
    op_id: str,
    digest: str,
    about: dict[str, object],
) -> Accepted:
    now, force = house.clock.now(), house.settings.now_in_force()
    token = house.step_tokens.read(request.token, now)
    about["txn"], about["tool"] = token.txn, token.tool
    record = same_tenant(await house.store.step(step_id) if is_id("stp", step_id) else None, caller)
    _check(caller, record.step, token, request)
    check_not_pending(record)
    decided = await decided_at_accept(house, force, caller, record, now)
    proof = house.step_tokens.initiated(
        request.proof,
        token=request.token,
        args=request.args,
        round_=request.round,
        jkt=record.step.initiator_jkt,
        now=now,
    )
    command = _command(house, caller, record.step, request, proof, op_id, digest, decided, now)
    command = command if decided is None else replace(command, versions=force.versions)
    own, done = await house.store.accept(command)
    lives = force.limits.lives
    return Accepted(record=own, self_grant=done, lives=lives, ends_at=runs_until(lives, own))


def _check(caller: Caller, step: Step, token: StepToken, request: AcceptRequest) -> None:
    if token.step != step.id or step.action is None:
        raise Malformed("invalid_request", "the token names another step")
    if not matches(step.performer, caller.workload.id):
        raise Refused("wrong_workload", "this step has another performer")
    if caller.entry.issuer is not None:
        raise Refused("wrong_workload", "this step is granted to its performer's own broker")
    if request.finding is not None:
        code = request.finding if request.finding in FINDINGS else "invalid_request"
        raise Refused(code, "the performer's SDK refused the call", rule="sdk")
    if not request.args == step.action.args == token.args:
        raise Refused(
            "arguments_changed", "the arguments that arrived are not those the step was opened with"
        )
    _check_schema(step, request.schema)


def _check_schema(step: Step, served: str | None) -> None:
    """A tool with a pinned schema is performed as it was registered, decided on and signed, or not at all."""
    pinned = None if step.action is None else step.action.schema
    if pinned is None or served == pinned:
        return
    what = "says none" if served is None else "serves another"
    raise Refused(
        "schema_changed",
        f"the registry pins this tool's schema, and its server {what}",
        rule="registry schema",
        who_can_change_it="the operator (registry.yaml), after a look at the tool",
    )


async def decided_at_accept(
    house: House, force: InForce, caller: Caller, record: StepRecord, now: float
) -> Mapping[str, object] | None:
    """Policy could not know, when the step was opened, that its performer would only show a bearer; what
    persons signed is held against what is demanded now; and a deferred step may have been opened long ago.

    A credential is decided again anyway; a tool that is its own resource, or has no plan, has none. The
    decision, None where there was none to make. Raises Refused.
    """
    step, action = record.step, record.step.action
    is_later = step.deferred and record.life.state not in FINAL
    if is_later and action is not None:
        await later.still(house, force, caller, step, action)
    has_credential = action is not None and not action.is_self and bool(action.plan)
    is_last = step.approve_by is not None and not has_credential
    if caller.workload.attested_by != "jwt" and not is_last and not is_later:
        return None
    return decision(*await decided_now(house, force, caller, step, now), force)


async def decided_now(
    house: House, force: InForce, caller: Caller, step: Step, now: float
) -> tuple[Question, Permit]:
    """What policy, and the step's approval if it has one, say of this performer and this step at this moment.

    Raises Refused(`policy`, `approval_required`, `not_registered`).
    """
    initiator = force.registry.entry_for(step.initiator)
    known = await within(house, step, force)

    def question_with(approval: Party | None) -> Question:
        return credential_question(
            caller=caller,
            step=step,
            initiator=initiator,
            redeemer=None,
            home=house.trust_domain,
            now=now,
            influence=known.influence,
            workflow=known.workflow,
            approval=approval,
        )

    return await decide_again(house, force, step, question_with)


def _command(
    house: House,
    caller: Caller,
    step: Step,
    request: AcceptRequest,
    proof: ProofUse,
    op_id: str,
    digest: str,
    decided: Mapping[str, object] | None,
    now: float,
) -> AcceptCommand:
    state = _state(request.state)
    stops = marks.subjects_of_caller(caller)
    return AcceptCommand(
        op=operation(caller, "accept", op_id, digest),
        step=step.id,
        caller=caller.workload.id,
        round=request.round,
        state=state,
        subjects=stops,
        proofs=(proof,),
        self_grant=self_grant_of(house, caller, step, now),
        evidence=Evidence(
            facts={"svid": caller.workload.serial, "performer": caller.workload.id}, decision=decided
        ),
        now=now,
    )


def _state(digest: str | None) -> str:
    """Of a requestState. Raises Malformed for what is no digest."""
    try:
        if digest is not None and len(unb64u(digest)) != DIGEST_BYTES:
            raise DigestError("state")
    except DigestError as bad:
        raise Malformed("invalid_request", "state: base64url SHA-256 of the requestState") from bad
    return digest or ""


def self_grant_of(house: House, caller: Caller, step: Step, now: float) -> Grant | None:
    """A tool that is its own resource accepts and redeems in one write: bookkeeping, not enforcement."""
    if step.action is None or not step.action.is_self:
        return None
    return Grant(
        id=house.id("grt", shard_of(step.id)),
        step=step.id,
        txn=step.txn,
        kind="self",
        tenant=step.tenant,
        audience=caller.workload.id,
        performer=caller.workload.id,
        jkt="",
        request=step.action.args,
        method="",
        url="",
        plan_line=0,
        is_self=True,
        issued_at=now,
        expires_at=now,
        epoch=house.store.epoch,
        ref=step.ref,
        claims="",
    )


async def wait(
    house: House, caller: Caller, step_id: str, request: WaitRequest, op_id: str, digest: str
) -> Moved:
    """The call answered "input required": the step waits, no heartbeat needed."""
    return await _move(house, caller, step_id, "wait", None, request, op_id, digest)


async def heartbeat(house: House, caller: Caller, step_id: str, op_id: str, digest: str) -> Moved:
    """The performer is alive. Refused once the step has ended: the performer then stops."""
    return await _move(house, caller, step_id, "heartbeat", None, None, op_id, digest)


async def close(
    house: House, caller: Caller, step_id: str, outcome: Outcome, op_id: str, digest: str
) -> Moved:
    """The step's normal end: its credentials and its non-deferred children end with it."""
    return await _move(house, caller, step_id, "close", outcome, None, op_id, digest)


async def _move(
    house: House,
    caller: Caller,
    step_id: str,
    verb: str,
    outcome: Outcome | None,
    waits: WaitRequest | None,
    op_id: str,
    digest: str,
) -> Moved:
    try:
        state = _state(None if waits is None else waits.state)
        record = same_tenant(await house.store.step(step_id) if is_id("stp", step_id) else None, caller)
        check_performer(record, caller)
        return await house.store.move(
            MoveCommand(
                op=operation(caller, verb, op_id, digest),
                step=step_id,
                caller=caller.workload.id,
                verb=verb,
                outcome=outcome,
                round=0 if waits is None else waits.round,
                state=state,
                ref=house.ref(),
                evidence=Evidence(facts={"reported_by": caller.workload.id}),
                now=house.clock.now(),
            )
        )
    except Problem as problem:
        await house.refusals.note(problem, caller, verb, {"step": step_id[:64]})
        raise
