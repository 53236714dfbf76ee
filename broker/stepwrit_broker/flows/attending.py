"""Attend: a task's request arrived at the step's performer; did the step's initiator send it, and may it?

A task id that leaked, another caller, another key or another transaction have no proof by the initiator's key
over this very step and request. What is refused here is on record: its caller is attested.
"""

from __future__ import annotations

from stepwrit.wire_tasks import ROUND, AttendRequest
from stepwrit_broker.core import marks
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.flows.house import House, operation, same_tenant
from stepwrit_broker.ports import AttendCommand


async def attend(
    house: House, caller: Caller, step_id: str, request: AttendRequest, op_id: str, digest: str
) -> StepRecord:
    """The step as it is, if its initiator may ask; each proof is good once.

    Raises: Unproven(`invalid_proof`), Refused(`not_found`, `replay`, `already_done`, `closed`, `expired`,
    `revoked`, `frozen`), Conflict, Unavailable.
    """
    try:
        return await _attempt(house, caller, step_id, request, op_id, digest)
    except Problem as problem:
        await house.refusals.note(problem, caller, "attend", {"step": step_id[:64]})
        raise


async def _attempt(
    house: House, caller: Caller, step_id: str, request: AttendRequest, op_id: str, digest: str
) -> StepRecord:
    now = house.clock.now()
    record = same_tenant(await house.store.step(step_id) if is_id("stp", step_id) else None, caller)
    if record.step.action is None or not matches(record.step.performer, caller.workload.id):
        raise Refused("not_found", "no such step")
    proof = house.step_tokens.initiated(
        request.proof,
        token=step_id,
        args=request.args,
        round_=ROUND,
        jkt=record.step.initiator_jkt,
        now=now,
    )
    return await house.store.attend(
        AttendCommand(
            op=operation(caller, "attend", op_id, digest),
            step=step_id,
            caller=caller.workload.id,
            changes=request.changes,
            subjects=marks.subjects_of_caller(caller),
            proofs=(proof,),
            now=now,
        )
    )
