"""The sweep: ends what ran out, walks below revocations, purges what nobody can ask for any more.

A sweep is made of small operations, each at most `CHUNK` rows, so that it never stops the others. Each
looks again at what is there, so a sweep that was cut short is simply done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stepwrit_broker.core import entry, marks
from stepwrit_broker.core.ids import REF_BYTES, make_ref
from stepwrit_broker.core.step import FINAL, Event
from stepwrit_broker.ports import Reaped
from stepwrit_broker.store import approvals
from stepwrit_broker.store.common import KEEP_S, ends_at, step_subjects, write_entry
from stepwrit_broker.store.ending import NOTHING, end
from stepwrit_broker.store.reading import find_grant, find_step, get_step
from stepwrit_broker.store.rows import GrantRow, StepRow, Txn
from stepwrit_broker.store.state import State

CHUNK: Final = 200
_DUE: Final = "SELECT id FROM steps WHERE due <= ? ORDER BY due LIMIT ?"
_LATER: Final = "UPDATE steps SET due = ? WHERE seq = ?"
_NOW_BELOW: Final = "UPDATE steps SET due = ? WHERE txn = ? AND parent = ? AND ended_at = 0 AND deferred = 0"
_NOW_ALL: Final = "UPDATE steps SET due = ? WHERE txn = ? AND ended_at = 0"
_END_GRANT: Final = "UPDATE grants SET state = ? WHERE seq = ?"
_OLD_OPS: Final = (
    "DELETE FROM ops WHERE at < ?"
    " AND seq <= (SELECT max(seq) FROM (SELECT seq FROM ops ORDER BY seq LIMIT ?))"
)
_OLD_PROOFS: Final = (
    "DELETE FROM proofs WHERE key IN (SELECT key FROM proofs WHERE until < ? ORDER BY until LIMIT ?)"
)
_OLD_PINS: Final = (
    "DELETE FROM pins WHERE key IN (SELECT key FROM pins WHERE until < ? ORDER BY until LIMIT ?)"
)
_OTHERS: Final = "SELECT count(*) FROM steps WHERE txn = ? AND id <> ?"
_LIVE: Final = "SELECT 1 FROM steps WHERE txn = ? AND ended_at = 0 LIMIT 1"
_UNWALKED: Final = "SELECT target FROM marks WHERE walked = 0 AND verb = 'revoke'"
_LIVE_AFTER: Final = "SELECT seq, id FROM steps WHERE ended_at = 0 AND seq > ? ORDER BY seq LIMIT ?"
_LIVE_OF: Final = "SELECT seq, id FROM steps WHERE ended_at = 0 AND seq > ? AND txn = ? ORDER BY seq LIMIT ?"

Sweep = Callable[[State, float], tuple[Reaped, bool]]  # what it did, and whether there is more to do


def nothing() -> Reaped:
    """A sweep that found nothing."""
    return Reaped(steps=0, grants=0, purged=0)


def total(one: Reaped, other: Reaped) -> Reaped:
    """Both together."""
    return Reaped(
        steps=one.steps + other.steps, grants=one.grants + other.grants, purged=one.purged + other.purged
    )


def fresh_ref(state: State) -> str:
    """A ref for an entry that no caller asked for."""
    return make_ref(state.entropy.bytes(REF_BYTES))


def expire_grants(state: State, now: float) -> tuple[Reaped, bool]:
    """Credentials whose minute is over, or whose epoch is."""
    now = state.at(now)
    over = [name for name, held in state.held.items() if now >= held.expires_at][:CHUNK]
    for name in over:
        row = find_grant(state, name)
        state.release(name)
        if row is not None and row.record.state in ("issued", "reserved"):
            old = row.record.grant.epoch != state.epoch
            end_grant(state, row, "epoch" if old else "time", now)
    return Reaped(steps=0, grants=len(over), purged=0), len(over) == CHUNK


def end_grant(state: State, row: GrantRow, reason: str, now: float) -> None:
    """End one unredeemed credential outside its step's end; its plan line gets its count back."""
    known = row.record.grant
    revoked = reason == "revoked"
    state.conn.execute(_END_GRANT, ("revoked" if revoked else "expired", row.seq))
    state.grants.forget(known.id)
    step, txn = get_step(state, known.step)
    facts = {**entry.hop_facts(step.record.step), "grant": known.id, "reason": reason}
    write_entry(
        state,
        "grant.expired",
        known.ref,
        now,
        facts,
        NOTHING,
        txn=txn.txn,
        salt=txn.salt,
        tenant=known.tenant,
    )


def sweep_steps(state: State, now: float) -> tuple[Reaped, bool]:
    """Steps that are due: ended by a clock or with what they hang on, purged when kept for long enough."""
    now = state.at(now)
    due: list[tuple[str]] = state.conn.execute(_DUE, (now, CHUNK)).fetchall()
    swept = sweep_named(state, [name for (name,) in due], now)
    return swept, len(due) == CHUNK or swept.steps > 0  # an end may have made what is below it due


def sweep_named(state: State, due: Sequence[str], now: float) -> Reaped:
    """The steps of these names: each is ended, purged, or looked at again when its clock runs out."""
    swept = nothing()
    for name in due:
        found = find_step(state, name)
        if found is None:
            state.conn.execute("DELETE FROM steps WHERE id = ?", (name,))  # of a transaction that is gone
        else:
            swept = total(swept, _one(state, found[0], found[1], now))
    return swept


def _one(state: State, row: StepRow, txn: Txn, now: float) -> Reaped:
    if row.record.life.state in FINAL:
        return _purge(state, row, txn, now)
    reason = _over(state, row, txn, now)
    if reason is None:
        later = min(ends_at(state, row.record), txn.expires_at)
        state.conn.execute(_LATER, (later, row.seq))
        return nothing()
    event: Event = "cancelled" if reason == "parent" else "expire"
    _, grants = end(state, row, txn, event, now, ref=fresh_ref(state), facts={"reason": reason})
    _wake_below(state, row, txn, now)
    return Reaped(steps=1, grants=grants, purged=0)


def _over(state: State, row: StepRow, txn: Txn, now: float) -> str | None:
    """Why a live step is over, if it is."""
    own = row.record.step
    if now >= txn.expires_at:
        return "transaction"
    if now >= ends_at(state, row.record):
        return "time"
    if own.parent is None or own.deferred:
        return None
    parent = find_step(state, own.parent)
    return "parent" if parent is None or parent[0].record.life.state in FINAL else None


def _wake_below(state: State, row: StepRow, txn: Txn, now: float) -> None:
    """What hangs on an ended step is looked at in the next chunk; under an ended root, everything."""
    own = row.record.step
    if own.parent is None:
        state.conn.execute(_NOW_ALL, (now, txn.txn))
    elif row.record.life.children:
        state.conn.execute(_NOW_BELOW, (now, txn.txn, own.id))


def _purge(state: State, row: StepRow, txn: Txn, now: float) -> Reaped:
    """The rows of an ended step. A root stays until it is the last of its transaction; the steps below stay
    for as long as it lives: what comes later is decided by what was before.
    """
    own, conn = row.record.step, state.conn
    if own.parent is not None and _lives(state, txn, now):
        conn.execute(_LATER, (min(now + KEEP_S, txn.expires_at), row.seq))
        return nothing()
    others: int = conn.execute(_OTHERS, (txn.txn, own.id)).fetchone()[0] if own.parent is None else 0
    if others:
        conn.execute(_LATER, (now + KEEP_S, row.seq))
        return nothing()
    gone = [f"step:{own.id}"]
    gone += [f"grant:{name}" for (name,) in conn.execute("SELECT id FROM grants WHERE step = ?", (own.id,))]
    conn.execute("DELETE FROM grants WHERE step = ?", (own.id,))
    if own.approve_by is not None:
        approvals.purge(state, own.id)
    conn.execute("DELETE FROM steps WHERE seq = ?", (row.seq,))
    state.steps.forget(own.id)
    if own.parent is None:
        conn.execute("DELETE FROM txns WHERE txn = ?", (txn.txn,))
        state.txns.forget(txn.txn)
        state.pasts.forget(txn.txn)
        gone.append(f"txn:{txn.txn}")
    for target in gone:
        _drop_mark(state, target)
    return Reaped(steps=0, grants=0, purged=1)


def _lives(state: State, txn: Txn, now: float) -> bool:
    """It may get another step: its root lives, or a deferred step of it."""
    return now < txn.expires_at and state.conn.execute(_LIVE, (txn.txn,)).fetchone() is not None


def _drop_mark(state: State, target: str) -> None:
    """A mark on what is gone says nothing any more; the ledger keeps its story."""
    if target in state.marks and target not in state.owed:
        state.conn.execute("DELETE FROM marks WHERE target = ?", (target,))
        state.journal.drop(state.marks, target)


def purge_answers(state: State, now: float) -> tuple[Reaped, bool]:
    """Operations that nobody repeats any more; proofs and bearers that are too old to be shown again."""
    now = state.at(now)
    ops = state.conn.execute(_OLD_OPS, (now - KEEP_S, CHUNK)).rowcount
    proofs = state.conn.execute(_OLD_PROOFS, (now, CHUNK)).rowcount
    pins = state.conn.execute(_OLD_PINS, (now, CHUNK)).rowcount
    gone = ops + proofs + pins
    state.save_time(at_once=gone > 0)  # a purge never happens at a time that could come again
    return Reaped(steps=0, grants=0, purged=gone), CHUNK in (ops, proofs, pins)


def prune_counters(state: State, now: float) -> None:
    """Rate counters that a fresh key would equal."""
    now = state.at(now)
    for key in [key for key, tat in state.tats.items() if tat <= now]:
        del state.tats[key]


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a sweep is on its way from new revocations down to the live steps and credentials that they stop.

    txns: the transactions that the marks name and that are still to be walked through, before all others
    (which may have been caused by one of them). after: the last step that was looked at. A place and no
    cursor: a chunk that is taken back is done again from the same one.
    """

    targets: tuple[str, ...]
    txns: tuple[str, ...]
    after: int = 0

    @staticmethod
    def needed(state: State) -> Walk | None:
        """The beginning, if a revocation was not followed yet."""
        targets: tuple[str, ...] = tuple(row[0] for row in state.conn.execute(_UNWALKED).fetchall())
        return Walk(targets, _txns_of(state, targets)) if targets else None

    def chunk(self, state: State, now: float) -> tuple[Reaped, Walk | None]:
        """The next live steps; and where to go on, None at the end."""
        now = state.at(now)
        new = {name: state.marks[name] for name in self.targets if name in state.marks}
        rows, swept = self._rows(state), nothing()
        for _, name in rows:
            found = find_step(state, name)
            stop = None if found is None else marks.standing(new, step_subjects(found[0]))
            if found is not None and stop is not None:
                facts = {"mark": stop.target}
                _, grants = end(state, found[0], found[1], "revoke", now, ref=stop.ref, facts=facts)
                swept = total(swept, Reaped(steps=1, grants=grants, purged=0))
        onward = self._onward(rows)
        if onward is not None:
            return swept, onward
        swept = total(swept, Reaped(steps=0, grants=_revoke_grants(state, set(new), now), purged=0))
        state.conn.executemany(
            "UPDATE marks SET walked = 1 WHERE target = ?", [(name,) for name in self.targets]
        )
        return swept, None

    def _rows(self, state: State) -> list[tuple[int, str]]:
        if not self.txns:
            return state.conn.execute(_LIVE_AFTER, (self.after, CHUNK)).fetchall()
        return state.conn.execute(_LIVE_OF, (self.after, self.txns[0], CHUNK)).fetchall()

    def _onward(self, rows: list[tuple[int, str]]) -> Walk | None:
        if len(rows) == CHUNK:
            return replace(self, after=rows[-1][0])
        return replace(self, txns=self.txns[1:], after=0) if self.txns else None


def _txns_of(state: State, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The transactions that the targets name."""
    txns: list[str] = []
    for target in targets:
        kind, _, name = target.partition(":")
        found = find_step(state, name) if kind == "step" else None
        txns += [name] if kind == "txn" else [] if found is None else [found[1].txn]
    return tuple(dict.fromkeys(txns))


def _revoke_grants(state: State, new: set[str], now: float) -> int:
    """Outstanding credentials that a mark stops by themselves: their own, their key's, their resource's."""
    return sum(stop_grant(state, name, new, now).grants for name in list(state.held))


def stop_grant(state: State, name: str, new: set[str], now: float) -> Reaped:
    """End an outstanding credential that one of these marks stops by itself."""
    row = find_grant(state, name)
    if row is None or row.record.state != "issued":
        return nothing()
    known = row.record.grant
    if new.isdisjoint((f"grant:{name}", f"key:{known.jkt}", f"resource:{known.audience}")):
        return nothing()
    state.release(name)
    end_grant(state, row, "revoked", now)
    return Reaped(steps=0, grants=1, purged=0)


SWEEPS: Final[tuple[Sweep, ...]] = (expire_grants, sweep_steps, purge_answers)
