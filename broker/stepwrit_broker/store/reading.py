"""Records by id, as the batch under way sees them, and the few statements that write them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.step import Life, Step, StepRecord
from stepwrit_broker.store.common import KEEP_S, SALT_BYTES
from stepwrit_broker.store.rows import (
    GRANT_COLUMNS,
    STEP_COLUMNS,
    GrantRow,
    StepRow,
    Txn,
    decode_grant,
    decode_step,
    decode_txn,
    encode_grant,
    encode_intent,
    encode_step,
)
from stepwrit_broker.store.state import State

LOOK_AFTER_S: Final = 60.0  # the reaper's first look at a step; it then knows when to look again
SELECT_TXN: Final = "SELECT txn, root, intent, steps, server_steps, expires_at FROM txns WHERE txn = ?"
SELECT_STEP: Final = f"SELECT {STEP_COLUMNS} FROM steps WHERE id = ?"  # noqa: S608  a constant
SELECT_GRANT: Final = f"SELECT {GRANT_COLUMNS} FROM grants WHERE id = ?"  # noqa: S608  a constant
_PUT_TXN: Final = (
    "INSERT INTO txns (txn, root, intent, steps, server_steps, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
)
_COUNT_TXN: Final = "UPDATE txns SET steps = ?, server_steps = ? WHERE txn = ?"
_PUT_STEP: Final = (
    "INSERT INTO steps (id, txn, parent, deferred, state, round, performer, accepted_at, beat_at, waiting_at,"
    " children, ended_at, due, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COUNT_CHILD: Final = "UPDATE steps SET children = ? WHERE seq = ?"
_MOVE_STEP: Final = (
    "UPDATE steps SET state = ?, round = ?, performer = ?, accepted_at = ?, beat_at = ?, waiting_at = ?,"
    " awaits = ? WHERE seq = ?"
)
_END_STEP: Final = "UPDATE steps SET state = ?, ended_at = ?, due = ? WHERE seq = ?"
_LOOK_SOON: Final = "UPDATE steps SET due = min(due, ?) WHERE seq = ?"
_PUT_GRANT: Final = (
    "INSERT INTO grants (id, step, line, state, epoch, expires_at, redeemed_by, redeemed_at, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def find_txn(state: State, txn: str) -> Txn | None:
    """A transaction with its salt; a salt that was erased is replaced by one that nobody will know."""
    found = state.txns.newest(txn)
    if found is not None:
        return found
    row = state.conn.execute(SELECT_TXN, (txn,)).fetchone()
    if row is None:
        return None
    salt = state.log.get_salt(state.conn, txn) or state.entropy.bytes(SALT_BYTES)
    found = decode_txn(row, salt)
    state.txns.fetched(txn, found)
    return found


def find_step(state: State, step: str) -> tuple[StepRow, Txn] | None:
    """A step with its transaction."""
    row = state.steps.newest(step)
    if row is None:
        raw = state.conn.execute(SELECT_STEP, (step,)).fetchone()
        txn = None if raw is None else find_txn(state, raw[2])
        if raw is None or txn is None:
            return None
        row = decode_step(raw, txn.intent)
        state.steps.fetched(step, row)
        return row, txn
    txn = find_txn(state, row.record.step.txn)
    return None if txn is None else (row, txn)


def get_step(state: State, step: str) -> tuple[StepRow, Txn]:
    """A step with its transaction. Raises Refused(`not_found`)."""
    found = find_step(state, step)
    if found is None:
        raise Refused("not_found", "no such step")
    return found


def find_grant(state: State, grant: str) -> GrantRow | None:
    """A grant."""
    row = state.grants.newest(grant)
    if row is None:
        raw = state.conn.execute(SELECT_GRANT, (grant,)).fetchone()
        if raw is None:
            return None
        row = decode_grant(raw)
        state.grants.fetched(grant, row)
    return row


def put_txn(state: State, txn: Txn) -> None:
    """A new transaction."""
    row = (txn.txn, txn.root, encode_intent(txn.intent), txn.steps, txn.server_steps, txn.expires_at)
    state.conn.execute(_PUT_TXN, row)
    state.txns.put(txn.txn, txn)


def count_step(state: State, txn: Txn, parent: StepRow, *, is_server: bool) -> None:
    """One more step in its transaction, one more child of its parent."""
    more = replace(txn, steps=txn.steps + 1, server_steps=txn.server_steps + is_server)
    state.conn.execute(_COUNT_TXN, (more.steps, more.server_steps, txn.txn))
    state.txns.put(txn.txn, more)
    count_caused(state, parent)


def count_caused(state: State, above: StepRow) -> None:
    """One more child of a step, or one more transaction that it caused."""
    life = replace(above.record.life, children=above.record.life.children + 1)
    state.conn.execute(_COUNT_CHILD, (life.children, above.seq))
    _hold(state, above, life)


def put_step(state: State, step: Step, life: Life, due: float) -> StepRecord:
    """A new step; the reaper looks at it from `due` on."""
    row = (
        step.id, step.txn, step.parent, step.deferred, life.state, life.round, life.performer,
        life.accepted_at, life.beat_at, life.waiting_at, life.children, life.ended_at, due, encode_step(step),
    )  # fmt: skip
    seq = state.conn.execute(_PUT_STEP, row).lastrowid or 0
    record = StepRecord(step=step, life=life)
    state.steps.put(step.id, StepRow(seq=seq, record=record))
    return record


def move_step(state: State, row: StepRow, life: Life) -> StepRecord:
    """A live step's new state."""
    state.conn.execute(
        _MOVE_STEP,
        (
            *(life.state, life.round, life.performer, life.accepted_at, life.beat_at, life.waiting_at),
            *(life.awaits, row.seq),
        ),
    )
    return _hold(state, row, life)


def look_soon(state: State, row: StepRow, now: float) -> None:
    """Let the reaper look at a step that was left alone for long: from now on its performer can be lost."""
    state.conn.execute(_LOOK_SOON, (now + LOOK_AFTER_S, row.seq))


def end_step(state: State, row: StepRow, life: Life) -> StepRecord:
    """A step's last state; its row is kept for retries, then purged."""
    state.conn.execute(_END_STEP, (life.state, life.ended_at, life.ended_at + KEEP_S, row.seq))
    state.steps.forget(row.record.step.id)
    return StepRecord(step=row.record.step, life=life)


def _hold(state: State, row: StepRow, life: Life) -> StepRecord:
    record = StepRecord(step=row.record.step, life=life)
    same = life.performer == row.record.life.performer
    held = StepRow(seq=row.seq, record=record, subjects=row.subjects if same else None)
    state.steps.put(record.step.id, held)
    return record


def put_grant(state: State, record: GrantRecord) -> None:
    """A new grant; one that is spent already is not held in memory."""
    grant = record.grant
    row = (
        grant.id, grant.step, grant.plan_line, record.state, grant.epoch, grant.expires_at,
        record.redeemed_by, record.redeemed_at, encode_grant(grant),
    )  # fmt: skip
    seq = state.conn.execute(_PUT_GRANT, row).lastrowid or 0
    if record.state == "issued":
        state.grants.put(grant.id, GrantRow(seq=seq, record=record))
