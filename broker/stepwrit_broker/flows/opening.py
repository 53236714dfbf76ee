"""Open a child step: stages 1 to 5, then a token that names it. Its refusal goes to the initiator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stepwrit.wire import OpenStepRequest
from stepwrit_broker.core import acts, lineage, marks
from stepwrit_broker.core.approval import Ask
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.clocks import ends_at
from stepwrit_broker.core.document import step_question
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.ids import is_id, shard_of
from stepwrit_broker.core.limits import Charge, Lives
from stepwrit_broker.core.obligations import handed_down, redacted
from stepwrit_broker.core.peers import check_granted
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.step import Step, StepRecord, move
from stepwrit_broker.core.verdict import NeedsApproval, Permit
from stepwrit_broker.flows import asking, knowing, targets
from stepwrit_broker.flows.house import (
    House,
    caller_subjects,
    decided_afresh,
    decision,
    first_token,
    operation,
    proof_uses,
    same_tenant,
    step_subjects,
    step_token,
    weigh,
)
from stepwrit_broker.flows.keeping import sealed
from stepwrit_broker.flows.obliged import obliged
from stepwrit_broker.ports import Evidence, InForce, OpenCommand

OPENED_S = 300.0  # how long a step waits to be accepted; its tokens live less


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReady:
    """A step and a token for its performer."""

    record: StepRecord
    token: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Stage 2's answer: the child, its tool, and the entry of its performer (None: the client itself)."""

    step: Step
    tool: Tool
    performer: Entry | None


async def open_step(
    house: House, caller: Caller, request: OpenStepRequest, op_id: str, digest: str
) -> StepReady:
    """Raises: Malformed, Refused(`ceiling`, `origin_claimed`, `policy`, …), Conflict, Unavailable."""
    about = {"parent": request.parent[:64], "tool": f"{request.server}/{request.tool}"[:300]}
    try:
        return await decided_afresh(lambda: _attempt(house, caller, request, op_id, digest))
    except Problem as problem:
        if not asking.is_news(problem):
            await house.refusals.note(problem, caller, "open", await _about(house, caller, about))
        raise


async def _about(house: House, caller: Caller, about: dict[str, str]) -> dict[str, object]:
    """A refusal is a hop of the transaction it was tried in, if the caller may know of that."""
    try:
        parent = await house.store.step(about["parent"]) if is_id("stp", about["parent"]) else None
    except Unavailable:  # the refusal that is being told matters more
        return dict(about)
    if parent is None or parent.step.tenant != caller.entry.tenant:
        return dict(about)
    return {**about, "txn": parent.step.txn}


async def _attempt(
    house: House, caller: Caller, request: OpenStepRequest, op_id: str, digest: str
) -> StepReady:
    now, force = house.clock.now(), house.settings.now_in_force()
    if request.origin is not None:
        raise Refused("origin_claimed", "an origin is derived from who calls; it cannot be sent")
    if not is_id("stp", request.parent):
        raise Malformed("invalid_request", "parent is not a step id")
    parent = same_tenant(await house.store.step(request.parent), caller)
    placed = place(house, caller, request, parent, force, now)  # 2
    known = await knowing.before(house, caller, placed.step, request.influence, force)
    question = step_question(
        caller=caller,
        step=known.step,
        performer=placed.performer,
        home=house.trust_domain,
        now=now,
        influence=known.influence,
        workflow=known.workflow,
    )
    verdict = await weigh(force, question)  # 3
    placed = replace(placed, step=obliged(known.step, verdict))
    step, ask = _asked(house, placed, parent, verdict, request, force, now)  # 4
    record = await house.store.open(  # 5
        OpenCommand(
            op=operation(caller, "open", op_id, digest),
            step=step,
            proofs=proof_uses(caller),
            subjects=caller_subjects(caller),
            charge=charge_of(step, caller),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial}, decision=decision(question, verdict, force)
            ),
            now=now,
            ask=ask,
            times=known.times,
            sealed=sealed(house, step, request.args),
        )
    )
    if ask is not None and record.step.id == step.id:
        house.notices.tell(asking.notice(house, "asked", ask.asked, step.ref))
    record = await asking.approved(house, record)
    token, life = first_token(house, record.step, caller.jkt or "", now, force.limits.lives.step_token_s)  # 6
    return StepReady(record=record, token=token, expires_in=life)


def _asked(
    house: House,
    placed: Placed,
    parent: StepRecord,
    verdict: Permit | NeedsApproval,
    request: OpenStepRequest,
    force: InForce,
    now: float,
) -> tuple[Step, Ask | None]:
    """The step with its approval's clock, and what persons are asked; the step alone where nobody must be."""
    step = placed.step
    if isinstance(verdict, Permit):
        return step, None
    until = now + force.limits.approvals.life_s
    ends = max(step.expires_at, until + OPENED_S)
    if parent.step.action is None:  # of a root the end is known; the store holds the rest to it
        ends = min(ends, parent.step.expires_at)
    step = replace(step, approve_by=min(until, ends), expires_at=ends)
    hidden = asking.hidden_places(placed.tool, redacted(step.obligations))
    looked_at = [pointer for _, pointer in placed.tool.facts]
    return step, asking.ask_for(house, step, verdict, request.args, force, hidden, looked_at)


def charge_of(step: Step, caller: Caller) -> Charge:
    """What opening a step, or taking a run of it, counts against."""
    tool = step.action.tool if step.action is not None else ""
    requester = step.intent.requester.opaque if step.intent.requester is not None else ""
    return Charge(
        on="steps",
        values={
            "workload": caller.workload.id,
            "tool": tool,
            "requester": requester,
            "origin": step.origin,
            "tenant": step.tenant,
        },
    )


def place(
    house: House, caller: Caller, request: OpenStepRequest, parent: StepRecord, force: InForce, now: float
) -> Placed:
    """Stage 2: the child as it would be, its origin, chain and ceiling from the broker's own records.

    Raises Malformed, Refused(`ceiling`, `origin_claimed`, `not_found`, `not_registered`).
    """
    lineage.check_opener(parent, caller.workload.id, caller.entry.role)
    performer, tool, entry = targets.target(force, caller, request, parent)
    action = targets.action(request, performer, tool)
    is_own = lineage.is_own_call(parent.step, tool.name, may_be_root=tool.may_be_root)
    check_granted(parent.step, action)
    if entry is None:
        acts.check(request, tool, parent.step, caller.entry)
    else:
        registered = None if is_own else caller.entry.may_start or acts.NOTHING
        lineage.check_action(parent.step, action, registered)
    child = house.id("stp", shard_of(parent.step.id))
    origin = lineage.derive_origin(parent.step.origin, caller.entry.role)
    step = Step(
        id=child,
        txn=parent.step.txn,
        intent=parent.step.intent,
        parent=parent.step.id,
        ancestors=(*parent.step.ancestors, parent.step.id),
        chain=lineage.extend(
            parent.step,
            child=child,
            initiator=caller.workload.id,
            performer=performer,
            origin=origin,
            tool=tool.name,
        ),
        initiator=caller.workload.id,
        initiator_jkt=caller.jkt or "",
        keys_above=_keys(parent.step),
        obligations=handed_down(parent.step.obligations),
        performer=performer,
        origin=origin,
        action=action,
        ceiling=_ceiling(force, caller, request, parent.step, entry),
        tenant=parent.step.tenant,
        deferred=request.deferred,
        opened_at=now,
        expires_at=_ends(parent, request, force.limits.lives, now),
        ref=house.ref(),
    )
    return Placed(step=step, tool=tool, performer=entry)


def _keys(parent: Step) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*parent.keys_above, parent.initiator_jkt)))


def _ceiling(
    force: InForce, caller: Caller, request: OpenStepRequest, parent: Step, performer: Entry | None
) -> Ceiling:
    if performer is None:
        return acts.ceiling(request, parent, caller.entry, force.registry)
    asked = None if request.ceiling is None else Ceiling.of(request.ceiling)
    return lineage.narrow(parent.ceiling, asked, performer.may_start or acts.NOTHING)


def _ends(parent: StepRecord, request: OpenStepRequest, lives: Lives, now: float) -> float:
    """When an unaccepted child is over. Only a root's end is known here; the store holds the rest to it."""
    end = now + (lives.deferred_s if request.deferred else OPENED_S)
    return min(end, parent.step.expires_at) if parent.step.action is None else end


async def renew_token(house: House, caller: Caller, step_id: str, wait_s: float = 0.0) -> StepReady:
    """A fresh token of a step that lives, for its initiator: each round of a call carries one.

    Bound to the key that opened the step. For a step that waits for its approval this is the poll; wait_s:
    how long the answer may be held (RFC 7240 `wait`). Raises Unproven, Refused, Conflict, Unavailable.
    """
    try:
        now, force = house.clock.now(), house.settings.now_in_force()
        record = same_tenant(await house.store.step(step_id) if is_id("stp", step_id) else None, caller)
        if record.step.initiator != caller.workload.id or record.step.action is None:
            raise Refused("not_found", "no such step")
        if record.step.initiator_jkt != caller.jkt:
            raise Unproven("invalid_proof", "the step was opened with another key", rule="cnf")
        marks.test(house.store.marks(), step_subjects(record.step, caller))
        record = await asking.approved(house, record, wait_s)
        now = house.clock.now()
        token, life = _fresh(house, record, caller, now, force.limits.lives)
        return StepReady(record=record, token=token, expires_in=life)
    except Problem as problem:
        if not asking.is_news(problem):
            await house.refusals.note(problem, caller, "token", {"step": step_id[:64]})
        raise


def _fresh(house: House, record: StepRecord, caller: Caller, now: float, lives: Lives) -> tuple[str, int]:
    if record.life.state not in ("opened", "waiting"):
        move(record.life.state, "resume")  # raises for every other state, with the word for it
    until = ends_at(lives, record)
    if now >= until:
        raise Refused("expired", f"the step was {record.life.state} for too long", rule="limits life")
    return step_token(house, record.step, caller.jkt or "", now, min(lives.step_token_s, until - now))
