"""Erasing in a fleet: one work of the stream takes a transaction's salt out of its rows and, in the truth,
out of what stands beside the log. Copies that brokers have are made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ports_ledger import EraseCommand, Erased
from stepwrit_broker.store import erasing
from stepwrit_broker.store.common import name_of
from stepwrit_broker.store.fleet.carrying import Carrier, Job
from stepwrit_broker.store.fleet.claiming import Claims
from stepwrit_broker.store.fleet.scratch import Scratch
from stepwrit_broker.store.fleet.seams import Beside, Once, Swift, Told, Truth

OUTSIDE: Final = "txn_100erasures"  # an aggregate without rows, for what is not, or no longer, a transaction
UNDER_WAY_S: Final = 15.0  # longer than anybody waits for what is durable


class Erasing:
    """claim: the value that stands under a name. known: how many erasures the copies here have heeded."""

    def __init__(
        self,
        scratch: Scratch,
        swift: Swift,
        truth: Truth,
        carrier: Carrier,
        claim: Callable[[Once, float], Awaitable[str | None]],
    ) -> None:
        self._state, self._swift, self._truth, self._carrier = scratch.state, swift, truth, carrier
        self._claim = claim
        self.known = 0

    async def erase(self, command: EraseCommand) -> Erased:
        """Durable, and nowhere in the rows of either engine, when it returns; see `Eraser`."""
        mine = Once(name_of("erase", command.name), command.ref, self._state.at(command.now) + UNDER_WAY_S)
        if await self._claim(mine, command.now) != command.ref:
            raise Unavailable("unavailable", "it is being erased just now", rule="store", retry_after=1.0)
        main = command.name if await self._carrier.look(command.name) else OUTSIDE
        beside = await self._truth.beside(command.name)
        job = Job(main, claimed=(mine,))
        plan = await self._carrier.run(job, partial(self._verb, command, beside))
        await Claims.give_back(self._swift, self._state.epoch, [mine])
        with contextlib.suppress(Unavailable):  # who does not hear it looks
            await self._swift.tell(Told("erased", b""))
        return plan.answer

    async def heed(self, count: int) -> None:
        """So many are in the truth: no copy here is older than any of them."""
        if count <= self.known:
            return
        for number, name in await self._truth.erased(self.known):
            await self._carrier.refresh(name)
            self.known = number

    def _verb(self, command: EraseCommand, beside: Beside) -> Erased:
        self._state.gathered.beside = beside
        return erasing.erase(self._state, command)
