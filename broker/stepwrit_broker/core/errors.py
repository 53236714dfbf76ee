"""The broker's one error tree.

    Problem
    ├── Malformed     the input is not what the wire says; nothing was looked up    400
    ├── Unproven      who is asking, or that they hold the key, was not proved      401
    ├── Refused       proved, understood, and not allowed                           403
    ├── Conflict      the same name was used for something else, or a state moved   409
    └── Unavailable   in doubt (store, policy, ledger, clock, epoch, bundle)        503

`edge/problems.py` is the only place that renders these. `reason` is a fixed sentence that may be
shown to the caller; causes stay in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stepwrit.wire import ApprovalAsked


class Problem(Exception):  # noqa: N818  reads as what it is
    """The root. Never raised itself.

    code: stable word from `stepwrit.wire.Code`. reason: one sentence, safe to show to a caller.
    rule: the setting, limit or policy that decided. retry_after: seconds, or None when a retry as is
    cannot help. who_can_change_it: who to ask. ref: set by the flow that recorded the refusal. decision: what
    policy was asked and what it answered, kept beside the ledger and shown to no caller.
    approval: what has to be signed first.
    """

    status: int = 500

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        rule: str | None = None,
        retry_after: float | None = None,
        who_can_change_it: str | None = None,
        ref: str | None = None,
        approval: ApprovalAsked | None = None,
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code: Final = code
        self.reason: Final = reason
        self.rule: Final = rule
        self.retry_after: Final = retry_after
        self.who_can_change_it: Final = who_can_change_it
        self.ref = ref
        self.decision: Mapping[str, object] | None = None
        self.approval: Final = approval


class Malformed(Problem):
    """The input is not what the wire says."""

    status = 400


class Unproven(Problem):
    """The caller, or its hold of a key, was not proved."""

    status = 401


class Refused(Problem):
    """Proved and understood, and not allowed."""

    status = 403


class Conflict(Problem):
    """The same name was used for something else, or a state moved on."""

    status = 409


class Unavailable(Problem):
    """Something is in doubt; nothing was granted and the caller may try again."""

    status = 503
