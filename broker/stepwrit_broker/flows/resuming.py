"""Resume: the next run of a deferred step, decided as if it were opened now. Its refusal goes to the worker.

A job in a queue holds the step's id, which opens nothing: the worker proves who it is and holds a key, and
everything that was true when the step was opened is asked again: that it still lives, who wanted it, who may
start it, the tool, policy and what persons signed; marks, limits and versions inside the atomic call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwrit_broker.core import deferred
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.clocks import runs_until
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.limits import Lives
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import Action, StepRecord
from stepwrit_broker.flows import later
from stepwrit_broker.flows.asking import check_not_pending, is_news
from stepwrit_broker.flows.house import (
    House,
    caller_subjects,
    decided_afresh,
    decision,
    operation,
    proof_uses,
    same_tenant,
)
from stepwrit_broker.flows.opening import charge_of
from stepwrit_broker.flows.performing import decided_now, self_grant_of
from stepwrit_broker.ports import Evidence, ResumeCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The step as its worker got it, and its arguments. ends_at: seconds, when this run is over at last."""

    record: StepRecord
    self_grant: Grant | None
    lives: Lives
    ends_at: float
    args: dict[str, object] = field(repr=False)


async def resume(house: House, caller: Caller, step_id: str, op_id: str, digest: str) -> Resumed:
    """The step's performer takes its next run.

    Raises: Unproven, Refused(`replay` while another run lives; `already_done`, `expired`, `closed`,
    `revoked`, `frozen`, `not_registered`, `ceiling`, `policy`, `approval_required`, `limit`, …), Conflict,
    Unavailable.
    """
    about: dict[str, object] = {"step": step_id[:64]}
    try:
        return await decided_afresh(lambda: _attempt(house, caller, step_id, op_id, digest, about))
    except Problem as problem:
        if not is_news(problem):
            await house.refusals.note(problem, caller, "resume", about)
        raise


async def _attempt(
    house: House, caller: Caller, step_id: str, op_id: str, digest: str, about: dict[str, object]
) -> Resumed:
    now, force = house.clock.now(), house.settings.now_in_force()
    record, action = await _placed(house, caller, step_id)
    step = record.step
    about.update(txn=step.txn, tool=action.tool)
    check_not_pending(record)
    deferred.check_resumable(record)
    args = await later.still(house, force, caller, step, action)
    question, verdict = await decided_now(house, force, caller, step, now)
    taken, own = await house.store.resume(
        ResumeCommand(
            op=operation(caller, "resume", op_id, digest),
            step=step.id,
            caller=caller.workload.id,
            subjects=caller_subjects(caller),
            proofs=proof_uses(caller),
            charge=charge_of(step, caller),
            self_grant=self_grant_of(house, caller, step, now),
            versions=force.versions,
            evidence=Evidence(
                facts={"svid": caller.workload.serial, "key": caller.jkt},
                decision=decision(question, verdict, force),
            ),
            now=now,
        )
    )
    lives = force.limits.lives
    return Resumed(record=taken, self_grant=own, lives=lives, ends_at=runs_until(lives, taken), args=args)


async def _placed(house: House, caller: Caller, step_id: str) -> tuple[StepRecord, Action]:
    """To whoever may not perform it, it looks like none."""
    record = same_tenant(await house.store.step(step_id) if is_id("stp", step_id) else None, caller)
    if record.step.action is None or not matches(record.step.performer, caller.workload.id):
        raise Refused("not_found", "no such step")
    return record, record.step.action
