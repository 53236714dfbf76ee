"""Open: the root of a transaction, or a child step."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stepwrit_broker.core import causes, entry, limits, standing
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.influence import EXACT_MAX, Past
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.step import Life, Step, StepRecord
from stepwrit_broker.ports import Evidence, OpenCommand
from stepwrit_broker.store import approvals, sealed_args
from stepwrit_broker.store.common import (
    SALT_BYTES,
    answer,
    answered,
    check_marks,
    check_new,
    check_running,
    op_key,
    spend_proofs,
    write_entry,
)
from stepwrit_broker.store.past import NO_PAST, find_past
from stepwrit_broker.store.reading import (
    LOOK_AFTER_S,
    count_caused,
    count_step,
    find_step,
    get_step,
    put_step,
    put_txn,
)
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State

_NOBODY: Final = Life(
    state="opened",
    round=0,
    performer=None,
    accepted_at=0.0,
    beat_at=0.0,
    waiting_at=0.0,
    children=0,
    ended_at=0.0,
)


def open_step(state: State, command: OpenCommand) -> StepRecord:
    """One root or child: row, counts, limits, entry and operation together."""
    now, key = state.at(command.now), op_key(command.op)
    check_marks(state, command.subjects)
    check_new(state, command.step)
    first = answered(state, key, command.op)
    if first is not None:
        return _again(state, first)
    state.disk.check(now)
    state.check_versions(command.versions)
    record = _root(state, command, now) if command.step.parent is None else _child(state, command, now)
    answer(state, key, command.op, record.step.id, now)
    return record


def _again(state: State, first: str) -> StepRecord:
    found = find_step(state, first)
    if found is None:
        raise Refused("expired", "what this operation opened is over and gone")
    return found[0].record


def _root(state: State, command: OpenCommand, now: float) -> StepRecord:
    """A root is accepted from the start, by its initiator: nobody else is to perform it."""
    command = _caused(state, command)
    root = command.step
    if now >= root.expires_at:
        raise Refused("expired", "the intent has expired")
    state.charge(command.charge, now)
    spend_proofs(state, command.proofs)
    salt = state.entropy.bytes(SALT_BYTES)
    state.log.put_salt(state.conn, root.txn, salt)
    txn = Txn(
        txn=root.txn,
        root=root.id,
        intent=root.intent,
        salt=salt,
        steps=0,
        server_steps=0,
        expires_at=root.expires_at,
    )
    put_txn(state, txn)
    state.pasts.put(root.txn, NO_PAST)
    life = Life(
        state="accepted",
        round=1,
        performer=root.initiator,
        accepted_at=now,
        beat_at=now,
        waiting_at=0.0,
        children=0,
        ended_at=0.0,
    )
    record = put_step(state, root, life, root.expires_at)
    _tell(state, "intent.opened", command, txn, now)
    _tell_cause(state, root, now)
    return record


def _caused(state: State, command: OpenCommand) -> OpenCommand:
    """The root as its cause lets it be. One more thing that came of the cause: its fan-out counts it."""
    root = command.step
    if root.intent.cause is None:
        return command
    cause, txn = get_step(state, root.intent.cause)
    check_marks(state, (), cause)
    made = causes.inherit(root, cause.record, steps=txn.steps, server_steps=txn.server_steps)
    limits.within_fan_out(state.limits(), cause.record.life.children)
    standing.within_step(cause.record)
    count_caused(state, cause)
    return replace(command, step=made)


def _tell_cause(state: State, root: Step, now: float) -> None:
    """In the cause's own story: what came of it."""
    found = None if root.intent.cause is None else find_step(state, root.intent.cause)
    if found is None:
        return
    cause, txn = found[0].record.step, found[1]
    facts = {**entry.hop_facts(cause), "caused": root.id, "caused_txn": root.txn, "by": root.initiator}
    write_entry(
        state,
        "step.caused",
        cause.ref,
        now,
        facts,
        Evidence(),
        txn=txn.txn,
        salt=txn.salt,
        tenant=cause.tenant,
    )


def _child(state: State, command: OpenCommand, now: float) -> StepRecord:
    child = command.step
    parent, txn = get_step(state, child.parent or "")
    check_marks(state, (), parent)
    _check_place(state, child, parent, txn, now)
    in_force = state.limits()
    _check_bounds(child, parent, txn, in_force)
    state.charge(command.charge, now)
    past = find_past(state, txn)
    _check_declared(child, past, command.times)
    spend_proofs(state, command.proofs)
    state.pasts.put(txn.txn, past.plus(child))
    life = _NOBODY if command.ask is None else replace(_NOBODY, state="approval_pending")
    record = put_step(state, child, life, min(child.expires_at, now + LOOK_AFTER_S))
    if command.sealed is not None:
        sealed_args.keep(state, child.id, command.sealed)
    count_step(state, txn, parent, is_server=child.origin == "server")
    _tell(state, "step.opened", command, txn, now)
    if command.ask is not None:
        approvals.ask(state, command.ask, txn, now)
    return record


def _check_place(state: State, child: Step, parent: StepRow, txn: Txn, now: float) -> None:
    """The parent is live, the opener performs it, and the child says so of itself truly."""
    above, life = parent.record.step, parent.record.life
    if child.txn != above.txn or child.tenant != above.tenant:
        raise Refused("not_found", "no such step")
    if child.ancestors != (*above.ancestors, above.id):
        raise Conflict("wrong_state", "the child does not lie below that parent")
    standing.check_parent(parent.record)
    check_running(state, parent.record, txn, now)
    if child.initiator != life.performer:
        raise Refused("wrong_workload", "only the parent's performer may open a child")


def _check_declared(child: Step, past: Past, times: int | None) -> None:
    """Another one may have been opened since the step was found to be declared. Raises Conflict."""
    if child.label is None or times is None:
        return
    if len(past.steps) >= EXACT_MAX or past.taken(child.label, child.parent) >= times:
        raise Conflict("stale_version", f"{child.label.step} was opened {times} times meanwhile")


def _check_bounds(child: Step, parent: StepRow, txn: Txn, in_force: Limits) -> None:
    """The operator's bounds, and those that the intent was given when it began."""
    is_server = child.origin == "server"
    limits.within_transaction(
        in_force,
        steps=txn.steps,
        server_steps=txn.server_steps,
        depth=child.depth,
        children=parent.record.life.children,
        is_server=is_server,
    )
    standing.within_intent(
        txn.intent, steps=txn.steps, server_steps=txn.server_steps, depth=child.depth, is_server=is_server
    )
    standing.within_step(parent.record)


def _tell(state: State, kind: entry.EntryKind, command: OpenCommand, txn: Txn, now: float) -> None:
    opened = command.step
    write_entry(
        state,
        kind,
        opened.ref,
        now,
        entry.step_facts(opened, txn.salt),
        command.evidence,
        txn=txn.txn,
        salt=txn.salt,
        tenant=opened.tenant,
    )
