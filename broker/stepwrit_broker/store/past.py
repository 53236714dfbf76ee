"""The past of a transaction: which steps it has had, held in memory and read again from the rows.

The rows of a transaction's steps stay for as long as it may get another (see `reaping`), so the rows that are
there are as many as its count says, or the past is in doubt.
"""

from __future__ import annotations

import sqlite3
from functools import reduce
from typing import Final

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.influence import Past
from stepwrit_broker.core.step import Step
from stepwrit_broker.store.reading import SELECT_TXN
from stepwrit_broker.store.rows import STEP_COLUMNS, Txn, decode_step, decode_txn
from stepwrit_broker.store.state import State

NO_PAST: Final = Past()
_STEPS: Final = f"SELECT {STEP_COLUMNS} FROM steps WHERE txn = ? AND parent IS NOT NULL ORDER BY seq"  # noqa: S608


def find_past(state: State, txn: Txn) -> Past:
    """As the batch under way sees it. Raises Unavailable when rows are missing."""
    found = state.pasts.newest(txn.txn)
    if found is None:
        found = read_past(state.conn, txn)
        state.pasts.fetched(txn.txn, found)
    return found


def committed_past(state: State, reader: sqlite3.Connection, txn: str) -> Past:
    """As readers see it. Raises Unavailable when rows are missing."""
    found = state.pasts.committed(txn)
    if found is None:
        row = reader.execute(SELECT_TXN, (txn,)).fetchone()  # first: what is counted by then is there
        found = NO_PAST if row is None else read_past(reader, decode_txn(row, b""))
        state.pasts.fetched(txn, found)
    return found


def read_past(conn: sqlite3.Connection, txn: Txn) -> Past:
    """From the rows. Raises Unavailable when there are fewer than the transaction has counted."""
    rows = conn.execute(_STEPS, (txn.txn,)).fetchall()
    if len(rows) < txn.steps:
        raise Unavailable(
            "unavailable",
            "earlier steps of this transaction are no longer known: begin it again",
            rule="store",
        )
    records = (decode_step(row, txn.intent).record for row in rows)
    return reduce(
        lambda past, each: past.plus(each.step, is_done=each.life.state == "done"), records, NO_PAST
    )


def note_end(state: State, own: Step, after: str) -> None:
    """Keep what is held in step with an end: a root's, or that of a step which others wait for."""
    if own.parent is None:
        state.pasts.forget(own.txn)
        return
    held = state.pasts.newest(own.txn) if own.label is not None and after == "done" else None
    if held is not None:
        state.pasts.put(own.txn, held.done(own.id))
