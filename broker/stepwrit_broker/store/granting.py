"""Reserve a credential, and spend it: stage 5 and the redeem, each one atomic call."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stepwrit.wire import REDEEM_REPEAT_S
from stepwrit_broker.core import entry, grant, standing
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.step import StepRecord, move
from stepwrit_broker.ports import RedeemCommand, ReserveCommand
from stepwrit_broker.store.common import (
    answer,
    answered,
    check_marks,
    check_running,
    ends_at,
    grant_subjects,
    op_key,
    spend_proofs,
    write_entry,
)
from stepwrit_broker.store.reading import find_grant, get_step, put_grant
from stepwrit_broker.store.rows import GrantRow, Txn
from stepwrit_broker.store.state import State

# A line's uses: what is spent, and what can still be spent; what ended unredeemed gives its count back.
_USES: Final = (
    "SELECT count(*) FROM grants WHERE step = ? AND line = ?"
    " AND (state = 'redeemed' OR (state = 'issued' AND expires_at > ? AND epoch = ?))"
)
_SPEND: Final = (
    "UPDATE grants SET state = 'redeemed', redeemed_by = ?, redeemed_at = ?"
    " WHERE seq = ? AND state = 'issued'"
)


def reserve(state: State, command: ReserveCommand) -> GrantRecord:
    """Marks, versions, plan count, limits, row, entry, epoch. The grant counts as issued from here on:

    what is minted is only a rendering of the stored plan, and can be made again until it is redeemed.
    """
    now, key = state.at(command.now), op_key(command.op)
    row, txn = get_step(state, command.grant.step)
    check_marks(state, command.subjects, row)
    first = answered(state, key, command.op)
    if first is not None:
        return _again(state, first, now)
    state.disk.check(now)
    state.check_versions(command.versions)
    _check_place(state, command, row.record, txn, now)
    keys = state.place(command.charge)
    state.charge(command.charge, now)
    spend_proofs(state, command.proofs)
    wanted = command.grant
    record = GrantRecord(grant=wanted, state=grant.move("reserved", "issue"), redeemed_by="", redeemed_at=0.0)
    put_grant(state, record)
    state.hold(wanted.id, keys, wanted.expires_at)
    facts = {**entry.hop_facts(row.record.step), **entry.grant_facts(wanted, txn.salt)}
    write_entry(
        state,
        "grant.issued",
        wanted.ref,
        now,
        facts,
        command.evidence,
        txn=txn.txn,
        salt=txn.salt,
        tenant=wanted.tenant,
    )
    answer(state, key, command.op, wanted.id, now)
    return record


def _again(state: State, first: str, now: float) -> GrantRecord:
    """The first answer, while it is good for anything; else the word for what became of it."""
    found = find_grant(state, first)
    if found is None or not _is_current(state, found.record.grant, now):
        raise Refused("expired", "what this operation reserved is over")
    if found.record.state != "issued":
        grant.move(found.record.state, "issue")
    return found.record


def _is_current(state: State, known: Grant, now: float) -> bool:
    return known.epoch == state.epoch and now < known.expires_at


def _check_place(state: State, command: ReserveCommand, record: StepRecord, txn: Txn, now: float) -> None:
    """The step is accepted, running and the caller's; the line has a use left; the grant is of now."""
    wanted, life = command.grant, record.life
    if (wanted.txn, wanted.tenant) != (record.step.txn, record.step.tenant):
        raise Refused("not_found", "no such step")
    if life.state != "accepted":
        move(life.state, "wait")  # raises for every other state, with the word for it
        raise Conflict("wrong_state", f"the step is {life.state}")
    if not command.caller == wanted.performer == life.performer:
        raise Refused("wrong_workload", "only the step's performer gets its credentials")
    if record.step.action is None or wanted.is_self:
        raise Refused("plan", "this step yields no credential", rule="registry plan")
    check_running(state, record, txn, now)
    if not _is_current(state, wanted, now):
        raise Refused("expired", "the reservation is of another epoch or over already", rule="epoch")
    found = (wanted.step, wanted.plan_line, now, state.epoch)
    used: int = state.conn.execute(_USES, found).fetchone()[0]
    if used >= command.line_times:
        raise Refused(
            "plan", f"this request may be made {command.line_times} times by a step", rule="plan times"
        )


def redeem(state: State, command: RedeemCommand) -> tuple[GrantRecord, StepRecord]:
    """Exactly once. What is wrong spends nothing; an equal operation gets its answer again, for a while."""
    now, key = state.at(command.now), op_key(command.op)
    row = find_grant(state, command.grant)
    if row is None:
        raise Refused("not_found", "no such credential")
    step, txn = get_step(state, row.record.grant.step)
    check_marks(state, command.subjects, step)
    check_marks(state, grant_subjects(row))
    first = answered(state, key, command.op)
    if first is not None or row.record.state == "redeemed":
        return _spent(row.record, command, now, is_repeat=first is not None), step.record
    _check_presented(row.record.grant, command)
    _check_live(state, row.record, step.record, txn, now)
    spend_proofs(state, command.proofs)
    record = _spend(state, row, command, now)
    facts = {
        **entry.hop_facts(step.record.step),
        "grant": command.grant,
        "audience": command.audience,
        "redeemer": command.redeemer,
    }
    write_entry(
        state,
        "grant.redeemed",
        row.record.grant.ref,
        now,
        facts,
        command.evidence,
        txn=txn.txn,
        salt=txn.salt,
        tenant=row.record.grant.tenant,
    )
    answer(state, key, command.op, command.grant, now)
    return record, step.record


def _spent(record: GrantRecord, command: RedeemCommand, now: float, *, is_repeat: bool) -> GrantRecord:
    """The answer again for an equal operation in time; every other presentation of it is a replay."""
    if not _is_same(record, command):
        raise Refused("replay", "the credential was used before, by another", rule="replay_foreign")
    if not is_repeat:
        raise Refused("replay", "the credential was used before, for this request", rule="repeat_same_call")
    if now > record.redeemed_at + REDEEM_REPEAT_S:
        raise Refused("replay", "the answer to this redeem is not repeated any more", rule="lost_reply")
    return record


def _is_same(record: GrantRecord, command: RedeemCommand) -> bool:
    known = record.grant
    had = (known.audience, record.redeemed_by, known.jkt, known.request)
    return had == (command.audience, command.redeemer, command.jkt, command.request)


def _check_presented(known: Grant, command: RedeemCommand) -> None:
    if known.audience != command.audience:
        raise Refused("wrong_workload", "the credential is for another audience", rule="audience")
    if known.jkt != command.jkt:
        raise Refused("invalid_proof", "the credential is bound to another key", rule="cnf")
    if known.request != command.request:
        raise Refused("request_changed", "the credential opens another request", rule="request")


def _check_live(state: State, record: GrantRecord, step: StepRecord, txn: Txn, now: float) -> None:
    """No leeway here: the credential, its epoch and its step stand at this very moment."""
    standing.check_grant(record, state.epoch, now)
    standing.check_step(step, ends_at=ends_at(state, step), txn_ends_at=txn.expires_at, now=now)


def _spend(state: State, row: GrantRow, command: RedeemCommand, now: float) -> GrantRecord:
    put = state.conn.execute(_SPEND, (command.redeemer, now, row.seq))
    if put.rowcount != 1:
        raise Refused("replay", "the credential was used before", rule="replay_foreign")
    state.release(command.grant)
    state.grants.forget(command.grant)
    return replace(
        row.record,
        state=grant.move(row.record.state, "redeem"),
        redeemed_by=command.redeemer,
        redeemed_at=now,
    )
