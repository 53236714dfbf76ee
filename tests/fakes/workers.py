"""Workers of a test: begun together, ended for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

PATIENCE_S = 2.0


async def ended(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Cancel them, and again those that went on all the same."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=PATIENCE_S)
