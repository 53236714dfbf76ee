"""A trigger's root that another step caused: what it takes over from that step. Pure.

An event begins a transaction of its own, but not a new life: it ends with what made it, and it has no more
left to do than that had. Naming a cause only ever takes away.
"""

from __future__ import annotations

from dataclasses import replace

from stepwrit_broker.core import step
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.marks import subjects_of_step, subjects_of_workload
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.core.workload import SpiffeId


def performer_of(cause: StepRecord | None, tenant: str) -> SpiffeId:
    """Who performed the step that made the event.

    Raises Refused(`not_found`) for a step that is not known, of another tenant, or that nobody performed;
    unknown and not-yours look alike.
    """
    performer = None if cause is None else cause.life.performer
    if cause is None or performer is None or cause.step.tenant != tenant:
        raise Refused("not_found", "cause: no such step that somebody performed", rule="cause")
    return performer


def inherit(root: Step, cause: StepRecord, *, steps: int, server_steps: int) -> Step:
    """The root as its cause lets it be; `steps` and `server_steps`: how many the cause's transaction had.

    What stops the cause stops the root; depth and budget go on where the cause's transaction stands.
    Raises Refused(`not_found`, `revoked`, `limit`).
    """
    performer = performer_of(cause, root.tenant)
    if cause.life.state == "revoked":
        step.move(cause.life.state, "accept")
    above, own = cause.step.intent, root.intent
    left = {
        "depth": above.depth_max - cause.step.depth - 1,  # as if the root were the cause's child
        "steps": above.steps_max - steps,
        "server_steps": above.server_steps_max - server_steps,
    }
    for name, count in left.items():
        if count < 1:
            raise Refused("limit", f"{name}: nothing is left in the cause's transaction", rule="cause")
    return replace(
        root,
        intent=replace(
            own,
            cause_txn=cause.step.txn,
            outside=(*own.outside, *subjects_of_step(cause.step), *subjects_of_workload(performer)),
            steps_max=min(own.steps_max, left["steps"]),
            server_steps_max=min(own.server_steps_max, left["server_steps"]),
            depth_max=min(own.depth_max, left["depth"]),
        ),
    )
