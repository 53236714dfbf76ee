"""A step's clocks by the limits in force. Pure; all times are seconds since the epoch."""

from __future__ import annotations

from stepwrit_broker.core import step
from stepwrit_broker.core.limits import Lives
from stepwrit_broker.core.step import StepRecord


def ends_at(lives: Lives, record: StepRecord) -> float:
    """When the clock that runs now runs out."""
    return step.deadline(
        record,
        accepted_s=lives.accepted_s,
        waiting_s=lives.waiting_s,
        lost_s=lives.lost_s,
        run_s=lives.run_s,
    )


def runs_until(lives: Lives, record: StepRecord) -> float:
    """When an accepted step is over, however alive its performer is."""
    return step.runs_until(record, accepted_s=lives.accepted_s, run_s=lives.run_s)
