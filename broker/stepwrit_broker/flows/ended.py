"""What a workload asks about the steps that it runs: which of them were ended by others."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports_ended import Heard

WAIT_MAX_S: Final = 30.0


async def ended_since(house: House, caller: Caller, cursor: str | None, wait_s: float) -> Heard:
    """The caller's own steps only; `wait_s`: how long the answer may be held (RFC 7240 `wait`).

    Nothing is authorised by it and nothing changes. Raises Refused(`slow_down`).
    """
    return await house.ends.since(caller.workload.id, cursor, min(wait_s, WAIT_MAX_S))
