"""What is looked for inside rows, taken out of them as they are written.

A row's value is a MessagePack array of the columns of the embedded store's table (store/schema.py), without
`seq`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from stepwrit_broker.store.fleet.codec import Garbled
from stepwrit_broker.store.fleet.seams import Row

_STEP_ENDED: Final = 11
_STEP_DUE: Final = 12
_GRANT_STATE: Final = 3
_GRANT_EPOCH: Final = 4
_GRANT_UNTIL: Final = 5
_ASKED_AT: Final = 6  # in the array that `store/approvals.py` writes
_OUTSTANDING: Final = ("reserved", "issued")


class Derived(NamedTuple):
    """due: when to look at it, seconds since the epoch. live: a step that has not ended. epoch: of an
    outstanding credential.
    """

    due: float | None = None
    live: bool = False
    epoch: str | None = None


class AskedRow(NamedTuple):
    """An approval, as it is looked for."""

    id: str
    step: str
    txn: str
    tenant: str
    requester: str
    initiator: str
    tool: str
    state: str
    by: str
    ended_at: float
    asked_at: float


NOTHING: Final = Derived()


def derive(row: Row) -> Derived:
    """Of a step or a credential; nothing of all others. Raises Garbled."""
    if row.field.startswith("steps:"):
        columns = _columns(row)
        return Derived(due=float(columns[_STEP_DUE]), live=columns[_STEP_ENDED] == 0)
    if row.field.startswith("grants:"):
        columns = _columns(row)
        if columns[_GRANT_STATE] in _OUTSTANDING:
            return Derived(due=float(columns[_GRANT_UNTIL]), epoch=_text(columns[_GRANT_EPOCH]))
    return NOTHING


def derive_approval(row: Row) -> AskedRow | None:
    """Of an approval; None of all others. Raises Garbled."""
    if not row.field.startswith("approvals:"):
        return None
    columns = _columns(row)
    try:
        id_, step, txn, tenant, requester, initiator, tool, state, by = map(_text, columns[:9])
        asked_at = float(msgspec.json.decode(columns[11])[_ASKED_AT])
        return AskedRow(
            id_, step, txn, tenant, requester, initiator, tool, state, by, float(columns[10]), asked_at
        )
    except (ValueError, TypeError, LookupError, msgspec.DecodeError):
        raise Garbled(f"{row.field} is no approval") from None


def _text(value: Any) -> str:
    """PostgreSQL has no NUL in its texts; the row itself keeps it."""
    return str(value).replace("\0", "\ufffd")


def _columns(row: Row) -> list[Any]:
    try:
        columns: list[Any] = msgspec.msgpack.decode(row.value, type=list)
    except msgspec.DecodeError:
        raise Garbled(f"{row.field} is no row") from None
    if len(columns) < (13 if row.field[0] in "sa" else 9):
        raise Garbled(f"{row.field} is no row")
    return columns
