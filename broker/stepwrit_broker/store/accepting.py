"""Accept: the step's performer takes one round of it."""

from __future__ import annotations

from dataclasses import replace

from stepwrit_broker.core import entry, grant, step
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.registry import matches
from stepwrit_broker.core.step import Life, StepRecord
from stepwrit_broker.ports import AcceptCommand, ResumeCommand
from stepwrit_broker.store import approvals
from stepwrit_broker.store.common import (
    answer,
    answered,
    check_marks,
    check_running,
    op_key,
    spend_proofs,
    write_entry,
)
from stepwrit_broker.store.reading import find_grant, get_step, look_soon, move_step, put_grant
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State


def accept(state: State, command: AcceptCommand) -> tuple[StepRecord, Grant | None]:
    """One round: `opened` is accepted, `waiting` resumed; a self grant is spent in the same write."""
    now, key = state.at(command.now), op_key(command.op)
    row, txn = get_step(state, command.step)
    check_marks(state, command.subjects, row)
    first = answered(state, key, command.op)
    if first is not None:
        return row.record, self_grant_of(state, first)
    _check_performer(row.record, command)
    state.check_versions(command.versions)
    life = _taken(row.record.life, command, now)
    check_running(state, row.record, txn, now)
    spend_proofs(state, command.proofs)
    resumed = row.record.life.round > 0
    if not resumed:
        approvals.use(state, row, txn, now)
    record = move_step(state, row, life)
    if record.step.deferred:
        look_soon(state, row, now)
    _tell(state, "step.resumed" if resumed else "step.accepted", row, txn, command, now)
    own = spend_on_itself(state, row, txn, command, now)
    answer(state, key, command.op, command.step if own is None else f"{command.step} {own.id}", now)
    return record, own


def self_grant_of(state: State, first: str) -> Grant | None:
    """What an operation answered, that may have spent a grant on the tool itself."""
    _, _, grant_id = first.partition(" ")
    found = find_grant(state, grant_id) if grant_id else None
    return None if found is None else found.record.grant


def _check_performer(record: StepRecord, command: AcceptCommand) -> None:
    """Whom the pattern covers; after the first round only who took that one."""
    first = record.life.performer
    if first is not None:
        fits = command.caller == first
    elif command.stands_in:
        fits = command.caller == record.step.initiator
    else:
        fits = matches(record.step.performer, command.caller)
    if not fits or record.step.action is None:
        raise Refused("wrong_workload", "this step has another performer")


def _taken(life: Life, command: AcceptCommand, now: float) -> Life:
    """The life after this round; a round that was taken is a replay, a later one is out of turn."""
    if life.state in ("accepted", "waiting") and 1 <= command.round <= life.round:
        raise Refused("replay", f"round {life.round} of this step was accepted before", rule="round")
    state = step.move(life.state, "resume" if life.state == "waiting" else "accept")
    if command.round != life.round + 1:
        raise Conflict("wrong_state", f"the next round of this step is {life.round + 1}")
    if command.state != life.awaits:
        raise Refused(
            "state_changed", "what came back is not the requestState of the round before", rule="requestState"
        )
    return replace(
        life,
        state=state,
        round=command.round,
        performer=command.caller,
        accepted_at=now,
        beat_at=now,
        waiting_at=0.0,
        awaits="",
    )


def _tell(
    state: State, kind: entry.EntryKind, row: StepRow, txn: Txn, command: AcceptCommand, now: float
) -> None:
    own = row.record.step
    facts = {**entry.hop_facts(own), "round": command.round, "performer": command.caller}
    write_entry(
        state, kind, own.ref, now, facts, command.evidence, txn=txn.txn, salt=txn.salt, tenant=own.tenant
    )


def spend_on_itself(
    state: State, row: StepRow, txn: Txn, command: AcceptCommand | ResumeCommand, now: float
) -> Grant | None:
    """A tool that is its own resource: reserved, issued and redeemed here, once per step."""
    own = command.self_grant
    if own is None or row.record.life.round > 0:
        return None
    action = row.record.step.action
    if action is None or not action.is_self or not own.is_self or own.step != command.step:
        raise Refused("plan", "the tool is not its own resource", rule="registry plan")
    if own.epoch != state.epoch or own.performer != command.caller:
        raise Refused("expired", "the grant is of another epoch or performer", rule="epoch")
    after = grant.move(grant.move("reserved", "issue"), "redeem")
    put_grant(state, GrantRecord(grant=own, state=after, redeemed_by=own.performer, redeemed_at=now))
    facts = {**entry.hop_facts(row.record.step), **entry.grant_facts(own, txn.salt)}
    plain = replace(command.evidence, decision=None)
    write_entry(
        state, "grant.self", own.ref, now, facts, plain, txn=txn.txn, salt=txn.salt, tenant=own.tenant
    )
    return own
