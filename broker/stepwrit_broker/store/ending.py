"""How steps end, one by one or with everything below: normally, by their clocks, or by a mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from stepwrit.wire import Outcome
from stepwrit_broker.core import entry, grant, step
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_ended import Ended
from stepwrit_broker.store import approvals, sealed_args
from stepwrit_broker.store.common import write_entry
from stepwrit_broker.store.past import note_end
from stepwrit_broker.store.reading import end_step, find_step
from stepwrit_broker.store.rows import StepRow, Txn
from stepwrit_broker.store.state import State

GRANTS_NAMED: Final = 100  # an entry names so many of the credentials that ended; it counts all
# A credential is redeemed before it expires; a tool's grant on itself ends as it is made, and counts as none.
# a tool that is its own resource spends its grant as it is made: none of those is ended here
_GRANTS: Final = "SELECT id, state, redeemed_at < expires_at FROM grants WHERE step = ?"
_END_GRANTS: Final = "UPDATE grants SET state = ? WHERE step = ? AND state = 'issued'"
_END_REDEEMED: Final = "UPDATE grants SET state = 'revoked' WHERE step = ? AND state = 'redeemed'"
_CHILDREN: Final = (
    "SELECT id FROM steps WHERE txn = ? AND parent = ? AND ended_at = 0 AND deferred = 0 ORDER BY seq"
)
_ALL: Final = "SELECT id FROM steps WHERE txn = ? AND id <> ? AND ended_at = 0 ORDER BY seq"
NOTHING: Final = Evidence()
GrantEnd = Literal["close", "expire", "revoke"]


def end(
    state: State,
    row: StepRow,
    txn: Txn,
    event: step.Event,
    now: float,
    *,
    ref: str,
    facts: Mapping[str, object],
    evidence: Evidence = NOTHING,
    by_performer: bool = False,
) -> tuple[StepRecord, int]:
    """End one step with its credentials and tell it: also whoever runs it, unless they end it themselves.

    Raises as the transition table does.
    """
    own, runs = row.record.step, row.record.life.performer if row.record.life.state == "accepted" else None
    after = step.move(row.record.life.state, event)
    if runs is not None and own.action is not None and not by_performer:
        state.journal.set(state.ended, own.id, Ended(step=own.id, performer=runs, state=after, ref=ref))
    kind: GrantEnd = "expire" if event == "expire" else "revoke" if event == "revoke" else "close"
    named, count = _end_grants(state, own.id, kind)
    record = end_step(state, row, replace(row.record.life, state=after, ended_at=now))
    note_end(state, own, after)
    said = {**entry.hop_facts(own), "outcome": after, "revoked": count, "grants": named, **facts}
    word: entry.EntryKind = "step.expired" if event == "expire" else "step.closed"
    write_entry(state, word, ref, now, said, evidence, txn=txn.txn, salt=txn.salt, tenant=own.tenant)
    approvals.end_with(state, own, event, txn, now)
    if own.deferred:
        sealed_args.erase(state, own.id)
    return record, count


def cancel_below(state: State, row: StepRow, txn: Txn, now: float, *, ref: str, outcome: Outcome) -> int:
    """End all live steps below but the deferred ones; how many credentials ended with them.

    Deferred steps live under the intent: it is done when they are all started, and its own end, or that
    somebody gave it up, is theirs.
    """
    if row.record.step.parent is None and outcome != "done":
        return _cancel_all(state, row, txn, now, ref=ref)
    count, open_ends = 0, [row.record]
    while open_ends:
        above = open_ends.pop()
        if not above.life.children:
            continue
        for (child,) in state.conn.execute(_CHILDREN, (txn.txn, above.step.id)).fetchall():
            found = find_step(state, child)
            if found is not None:
                record, ended = end(
                    state, found[0], txn, "cancelled", now, ref=ref, facts={"closed_with": row.record.step.id}
                )
                count += ended
                open_ends.append(record)
    return count


def _cancel_all(state: State, root: StepRow, txn: Txn, now: float, *, ref: str) -> int:
    count = 0
    for (name,) in state.conn.execute(_ALL, (txn.txn, root.record.step.id)).fetchall():
        found = find_step(state, name)
        if found is not None:
            facts = {"closed_with": root.record.step.id}
            count += end(state, found[0], txn, "cancelled", now, ref=ref, facts=facts)[1]
    return count


def _end_grants(state: State, step_id: str, event: GrantEnd) -> tuple[list[str], int]:
    """The unredeemed ones by name, and how many ended with the step, redeemed ones included."""
    rows = state.conn.execute(_GRANTS, (step_id,)).fetchall()
    live: list[str] = [row[0] for row in rows if row[1] == "issued"]
    redeemed = sum(row[1] == "redeemed" and row[2] for row in rows)
    if live:
        state.conn.execute(_END_GRANTS, (grant.move("issued", event), step_id))
    if redeemed and event == "revoke":
        state.conn.execute(_END_REDEEMED, (step_id,))
    for grant_id in live:
        state.release(grant_id)
        state.grants.forget(grant_id)
    return live[:GRANTS_NAMED], len(live) + redeemed
