"""Whether the initiator of a step may still ask about the task that it became. Pure."""

from __future__ import annotations

from stepwrit_broker.core import standing, step
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import State, StepRecord

_READABLE = frozenset({"done", "failed", "cancelled"})
_GIVEN_UP = frozenset({"failed", "cancelled", "expired", "revoked"})


def check(
    record: StepRecord, root: State, *, changes: bool, ends_at: float, txn_ends_at: float, now: float
) -> None:
    """A step that runs, or waits for its next run, may be asked about and changed; one that ended is read.

    root: the intent's state; one that was given up has no results for anybody. Times: seconds since the
    epoch.

    Raises Refused(`already_done`, `closed`, `expired`, `revoked`), Conflict(`wrong_state`) while nobody has
    accepted it.
    """
    if root in _GIVEN_UP:
        raise Refused("closed", f"what this belongs to has ended ({root})")
    if now >= txn_ends_at:
        raise Refused("expired", "the transaction has expired")
    state = record.life.state
    if state in _READABLE and not changes:
        return
    if state != "waiting":
        step.move(state, "wait")  # raises for every state but accepted
    standing.check_clocks(ends_at=ends_at, txn_ends_at=txn_ends_at, now=now)
