"""Resume: a worker takes the next run of a deferred step."""

from __future__ import annotations

import math
from dataclasses import replace

from stepwrit_broker.core import entry, step
from stepwrit_broker.core.deferred import check_resumable
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import Life, StepRecord
from stepwrit_broker.ports import ResumeCommand
from stepwrit_broker.store import approvals
from stepwrit_broker.store.accepting import self_grant_of, spend_on_itself
from stepwrit_broker.store.common import (
    answer,
    answered,
    check_marks,
    check_running,
    ends_at,
    op_key,
    spend_proofs,
    write_entry,
)
from stepwrit_broker.store.reading import get_step, look_soon, move_step
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State


def resume(state: State, command: ResumeCommand) -> tuple[StepRecord, Grant | None]:
    """One run: `opened` is taken for the first time, `waiting` for another."""
    now, key = state.at(command.now), op_key(command.op)
    row, txn = get_step(state, command.step)
    check_marks(state, command.subjects, row)
    first = answered(state, key, command.op)
    if first is not None:
        return _again(row.record, first), self_grant_of(state, first)
    state.check_versions(command.versions)
    _check_worker(row.record, command)
    check_running(state, row.record, txn, now)
    life = _taken(state, row.record, command, now)
    state.charge(command.charge, now)
    spend_proofs(state, command.proofs)
    if not row.record.life.round:
        approvals.use(state, row, txn, now)
    record = move_step(state, row, life)
    look_soon(state, row, now)
    _tell(state, row, txn, command, life.round, now)
    own = spend_on_itself(state, row, txn, command, now)
    run = f"{command.step}@{life.round}"
    answer(state, key, command.op, run if own is None else f"{run} {own.id}", now)
    return record, own


def _again(record: StepRecord, first: str) -> StepRecord:
    """What this operation took. Raises Refused(`replay`) once another run was taken: that is not its own."""
    run = first.partition(" ")[0].rpartition("@")[2]
    if run != str(record.life.round):
        raise Refused("replay", f"run {run} of this step is over, and another was taken since", rule="round")
    return record


def _check_worker(record: StepRecord, command: ResumeCommand) -> None:
    """Whom the pattern covers, also after another: a queue hands a job to any of its workers."""
    if not matches(record.step.performer, command.caller) or record.step.action is None:
        raise Refused("wrong_workload", "this step has another performer")
    check_resumable(record)


def _taken(state: State, record: StepRecord, command: ResumeCommand, now: float) -> Life:
    """The life after this; a run that lives is its worker's alone, until that is done or lost."""
    life = record.life
    if life.state == "accepted":
        raise Refused(
            "replay",
            f"run {life.round} of this step was taken by a worker that is alive",
            rule="round",
            retry_after=math.ceil(ends_at(state, record) - now),
        )
    after = step.move(life.state, "resume" if life.state == "waiting" else "accept")
    return replace(
        life,
        state=after,
        round=life.round + 1,
        performer=command.caller,
        accepted_at=now,
        beat_at=now,
        waiting_at=0.0,
        awaits="",
    )


def _tell(state: State, row: StepRow, txn: Txn, command: ResumeCommand, round_: int, now: float) -> None:
    own = row.record.step
    facts = {**entry.hop_facts(own), "round": round_, "performer": command.caller}
    write_entry(
        state,
        "step.resumed",
        own.ref,
        now,
        facts,
        command.evidence,
        txn=txn.txn,
        salt=txn.salt,
        tenant=own.tenant,
    )
