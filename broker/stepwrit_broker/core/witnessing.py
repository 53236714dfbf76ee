"""What a witness demands of a checkpoint before it cosigns. Pure: states in, a refusal or nothing out.

Source: C2SP tlog-witness, `add-checkpoint`; each refusal carries the HTTP status that it has there.
"""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.merkle import EMPTY_ROOT, Checkpoint, ProofRefused, verify_consistency
from stepwrit_broker.core.tlog import AddCheckpoint


class Declined(Problem):
    """The witness does not cosign. status: 400, 403, 404, 409 or 422. size: of its own latest checkpoint, for
    409. forked: this log signed two roots for one size, and both notes prove it.
    """

    def __init__(self, status: int, reason: str, *, size: int | None = None, forked: bool = False) -> None:
        super().__init__("invalid_proof", reason)
        self.status = status
        self.size: Final = size
        self.forked: Final = forked


def judge(latest: Checkpoint | None, asked: AddCheckpoint, offered: Checkpoint) -> None:
    """Return if `offered`, whose signature was verified, extends `latest` as the proof shows; else Declined.

    latest: what this witness cosigned last under that origin, or None.
    """
    size, root = (0, EMPTY_ROOT) if latest is None else (latest.size, latest.root)
    if asked.old > offered.size:
        raise Declined(400, "the old size is above the checkpoint's")
    if asked.old != size:
        raise Declined(409, "the old size is not that of the latest checkpoint", size=size)
    if latest is not None and offered.size == size and offered.root != root:
        raise Declined(409, "another root was cosigned for this size", size=size, forked=True)
    try:
        verify_consistency(
            first=size, second=offered.size, first_root=root, second_root=offered.root, path=asked.proof
        )
    except ProofRefused as refused:
        raise Declined(422, f"consistency proof: {refused.reason}") from refused
