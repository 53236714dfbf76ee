"""Looking at the checkpoints that brokers show."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from tests.faults.observed import SeenCheckpoint

from stepwrit_broker.core.merkle import parse_checkpoint

Look = Callable[[str], Awaitable[SeenCheckpoint | None]]  # by the broker's name; raises CutError


def checkpoint_of(via: str, note: str) -> SeenCheckpoint:
    """What a note says."""
    read = parse_checkpoint(note.partition("\n\n")[0] + "\n")
    return SeenCheckpoint(at=time.time(), via=via, origin=read.origin, size=read.size, root=read.root.hex())
