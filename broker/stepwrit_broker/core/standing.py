"""Whether a credential would open its door at this moment: one rule, for whoever redeems and whoever asks."""

from __future__ import annotations

from stepwrit_broker.core import grant, step
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.obligations import cap
from stepwrit_broker.core.step import Intent, StepRecord


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


def check_parent(record: StepRecord) -> None:
    """A step opens children while it is accepted, and in no other state.

    Raises Refused(`already_done`, `closed`, `expired`, `revoked`), Conflict(`wrong_state`).
    """
    step.move(record.life.state, "wait")  # which is for accepted steps alone, and knows the word for the rest


def within_intent(intent: Intent, *, steps: int, server_steps: int, depth: int, is_server: bool) -> None:
    """The bounds that the intent was given when it began; counts are those before the new step.

    Raises Refused(`limit`).
    """
    checks = (
        (steps < intent.steps_max, "steps", intent.steps_max),
        (depth <= intent.depth_max, "depth", intent.depth_max),
        (not is_server or server_steps < intent.server_steps_max, "server_steps", intent.server_steps_max),
    )
    for fits, name, most in checks:
        if not fits:
            raise Refused("limit", f"{name} of this transaction: at most {most}", rule=f"intent {name}")


def within_step(parent: StepRecord) -> None:
    """What policy said the parent may open when it was opened itself, counting those before the new step.

    A root that a server started for one call has one child. Raises Refused(`limit`).
    """
    if parent.step.action is None and parent.step.intent.without_step is not None and parent.life.children:
        raise Refused("limit", "a call without a step is one step", rule="registry without_step")
    if parent.step.parent is None and parent.step.intent.upstream is not None and parent.life.children:
        raise Refused("replay", "a peer's grant is for one step, which was opened before", rule="grant")
    most = cap(parent.step.obligations, "fan_out")
    if most is not None and parent.life.children >= int(most.value):
        raise Refused(
            "limit",
            f"fan_out of this step: at most {most.value}",
            rule=f"policy {most}",
            who_can_change_it="the operator (policy)",
        )
