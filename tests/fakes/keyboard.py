"""A board of key statements in memory."""

from __future__ import annotations

from collections.abc import Sequence

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.ports_fleet import STATEMENT_MAX, Posted


class MemoryKeyBoard:
    def __init__(self) -> None:
        self.held: dict[str, Posted] = {}

    async def post(self, posted: Posted, now: float) -> None:
        if len(posted.text) > STATEMENT_MAX:
            raise Malformed("invalid_request", "too long")
        self.held = {name: each for name, each in self.held.items() if each.until > now}
        self.held.setdefault(posted.id, posted)

    async def posted(self, now: float) -> Sequence[Posted]:
        return [each for each in self.held.values() if each.until > now]
