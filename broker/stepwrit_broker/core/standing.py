"""Whether a credential would open its door at this moment: one rule, for whoever redeems and whoever asks."""

from __future__ import annotations

from stepwrit_broker.core import grant, step
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.step import StepRecord


def check_grant(record: GrantRecord, epoch: str, now: float) -> None:
    """The credential itself is unspent, of this epoch and in time; no leeway (seconds since the epoch).

    Raises Refused(`replay`, `expired`, `closed`, `revoked`), Conflict(`wrong_state`) before it is issued.
    """
    grant.move(record.state, "redeem")
    if record.grant.epoch != epoch:
        raise Refused("expired", "the credential is of an older epoch", rule="epoch")
    if now >= record.grant.expires_at:
        raise Refused("expired", "the credential has expired")


def check_step(record: StepRecord, *, ends_at: float, txn_ends_at: float, now: float) -> None:
    """The step under it has not ended and none of its clocks has run out.

    Raises Refused(`already_done`, `closed`, `expired`, `revoked`).
    """
    if record.life.state in step.FINAL:
        step.move(record.life.state, "accept")
    check_clocks(ends_at=ends_at, txn_ends_at=txn_ends_at, now=now)


def check_clocks(*, ends_at: float, txn_ends_at: float, now: float) -> None:
    """Raises Refused(`expired`) when the step's clock or its transaction's has run out."""
    if now >= txn_ends_at:
        raise Refused("expired", "the transaction has expired")
    if now >= ends_at:
        raise Refused("expired", "the step's time has run out")
