"""The performer's moves: wait for a person, say it is alive, close."""

from __future__ import annotations

from dataclasses import replace

from stepwrit_broker.core import entry, marks, step
from stepwrit_broker.core.errors import Conflict, Malformed, Refused
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports import MoveCommand, Moved
from stepwrit_broker.store.common import answer, answered, check_running, op_key, step_subjects, write_entry
from stepwrit_broker.store.ending import cancel_below, end
from stepwrit_broker.store.reading import get_step, move_step
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State


def move(state: State, command: MoveCommand) -> Moved:
    """`wait`, `heartbeat` or `close`. Marks do not stop a close: an end is always welcome."""
    now, key = state.at(command.now), op_key(command.op)
    row, txn = get_step(state, command.step)
    first = answered(state, key, command.op)
    if first is not None:
        return Moved(record=row.record, revoked=int(first))
    _check_performer(row.record, command)
    if command.verb != "close":
        _check_revoked(state, row)
    moved = _move(state, row, txn, command, now)
    answer(state, key, command.op, str(moved.revoked), now)
    return moved


def _check_performer(record: StepRecord, command: MoveCommand) -> None:
    own = record.life.performer
    if command.caller != own and (own is not None or not matches(record.step.performer, command.caller)):
        raise Refused("wrong_workload", "this step has another performer")


def _check_revoked(state: State, row: StepRow) -> None:
    """A performer hears of a revocation at its next sign of life. A freeze stops nothing that runs."""
    mark = marks.standing(state.marks, step_subjects(row)) if state.marks else None
    if mark is not None and mark.verb == "revoke":
        marks.test({mark.target: mark}, (mark.target,))


def _move(state: State, row: StepRow, txn: Txn, command: MoveCommand, now: float) -> Moved:
    match command.verb:
        case "wait":
            return _wait(state, row, txn, command, now)
        case "heartbeat":
            return _beat(state, row, txn, now)
        case "close":
            return _close(state, row, txn, command, now)
        case _:
            raise Malformed("invalid_request", "a step waits, beats or closes")


def _wait(state: State, row: StepRow, txn: Txn, command: MoveCommand, now: float) -> Moved:
    life = row.record.life
    after = step.move(life.state, "wait")
    if command.round != life.round:
        raise Conflict("wrong_state", f"the step is in round {life.round}")
    if row.record.step.action is None:
        raise Conflict("wrong_state", "an intent has no rounds")
    check_running(state, row.record, txn, now)
    record = move_step(state, row, replace(life, state=after, waiting_at=now, awaits=command.state))
    own = row.record.step
    facts = {**entry.hop_facts(own), "round": life.round}
    write_entry(
        state,
        "step.waiting",
        command.ref,
        now,
        facts,
        command.evidence,
        txn=txn.txn,
        salt=txn.salt,
        tenant=own.tenant,
    )
    return Moved(record=record, revoked=0)


def _beat(state: State, row: StepRow, txn: Txn, now: float) -> Moved:
    """A sign of life; it has no entry, it only moves a clock."""
    step.move(row.record.life.state, "wait")  # raises for every state but accepted
    check_running(state, row.record, txn, now)
    return Moved(record=move_step(state, row, replace(row.record.life, beat_at=now)), revoked=0)


def _close(state: State, row: StepRow, txn: Txn, command: MoveCommand, now: float) -> Moved:
    """The outcome is the performer's own word and is recorded as such."""
    if command.outcome is None:
        raise Malformed("invalid_request", "a close needs its outcome")
    record, own = end(
        state,
        row,
        txn,
        command.outcome,
        now,
        ref=command.ref,
        facts={},
        evidence=command.evidence,
        by_performer=True,
    )
    below = cancel_below(state, row, txn, now, ref=command.ref, outcome=command.outcome)
    return Moved(record=record, revoked=own + below)
