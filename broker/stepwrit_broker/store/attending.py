"""Attend: the initiator's proof over a request about its step's task is spent, and the step looked at."""

from __future__ import annotations

from stepwrit_broker.core import attending
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports import AttendCommand
from stepwrit_broker.store.common import answer, answered, check_marks, ends_at, op_key, spend_proofs
from stepwrit_broker.store.reading import find_step, get_step
from stepwrit_broker.store.state import State


def attend(state: State, command: AttendCommand) -> StepRecord:
    """It moves nothing, and no entry tells of it: what is done about a task is told by the step's moves."""
    now, key = state.at(command.now), op_key(command.op)
    row, txn = get_step(state, command.step)
    record = row.record
    if not matches(record.step.performer, command.caller):
        raise Refused("wrong_workload", "this step has another performer")
    check_marks(state, command.subjects, row)
    if answered(state, key, command.op) is not None:
        return record
    root = find_step(state, txn.root)
    attending.check(
        record,
        "expired" if root is None else root[0].record.life.state,
        changes=command.changes,
        ends_at=ends_at(state, record),
        txn_ends_at=txn.expires_at,
        now=now,
    )
    spend_proofs(state, command.proofs)
    answer(state, key, command.op, command.step, now)
    return record
