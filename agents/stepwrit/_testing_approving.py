"""The in-memory broker: steps that wait for a signature. The codes and paces of the real one, no keys."""

from __future__ import annotations

from typing import Final

from stepwrit._testing_books import ApprovalRow, Demand, No, StepRow
from stepwrit.wire import ApprovalAsked

LIFE_S: Final = 600
INTERVAL_S: Final = 5
SLOWER_S: Final = 5
_SLACK_S: Final = 0.5
_SAID: Final = {"approve": "given", "deny": "denied"}


def ask(row: StepRow, demand: Demand, name: str, now: float) -> None:
    """Let this step wait, unless the person of the test answers at once."""
    row.approval = ApprovalRow(
        id=name, expires_at=now + LIFE_S, state=_SAID.get(demand.then, "asked"), interval_s=INTERVAL_S
    )
    row.state = {"given": "opened", "denied": "cancelled"}.get(row.approval.state, "approval_pending")


def answer(row: StepRow, *, yes: bool) -> None:
    """A person's word on a step that waits. Raises LookupError for one that does not."""
    if not waits(row) or row.approval is None:
        raise LookupError(f"step {row.id} waits for no approval")
    row.approval.state, row.state = ("given", "opened") if yes else ("denied", "cancelled")


def waits(row: StepRow) -> bool:
    """Whether a signature would help it."""
    return row.state == "approval_pending"


def check(row: StepRow, url: str, now: float, *, held: bool) -> None:
    """Pass if the step needs no approval or has it. held: the caller asked to be answered late. Raises No."""
    approval = row.approval
    if approval is None or approval.state == "given":
        return
    if approval.state == "denied":
        raise No("access_denied", "the approval was denied")
    if approval.state == "expired" or not now < approval.expires_at:
        raise No("expired_token", "nobody signed in time")
    if not waits(row):
        raise No("access_denied", "the approval was cancelled")
    asked = _asked(row, approval, url, now)
    early = not held and now - approval.last < approval.interval_s - _SLACK_S
    approval.last, approval.interval_s = now, approval.interval_s + (SLOWER_S if early else 0)
    if early:
        reason = f"ask every {approval.interval_s} seconds at most"
        raise No("slow_down", reason, retry_after=approval.interval_s, approval=asked)
    raise No("authorization_pending", "a person must sign this first", retry_after=INTERVAL_S, approval=asked)


def _asked(row: StepRow, approval: ApprovalRow, url: str, now: float) -> ApprovalAsked:
    return ApprovalAsked(
        id=approval.id,
        step=row.id,
        url=f"{url}/approvals/{approval.id}",
        interval=INTERVAL_S,
        expires_in=max(0, int(approval.expires_at - now)),
    )
