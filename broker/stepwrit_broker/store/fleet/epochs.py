"""One epoch for the whole fleet: found, ended, begun anew; and the rules that every broker follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.scratch import Scratch
from stepwrit_broker.store.fleet.seams import EpochOver, Standing, Swift, Told, Truth
from stepwrit_broker.store.state import EPOCH_BYTES

_TRIES: Final = 8
JOIN_TRIES: Final = 10
JOIN_PAUSE_S: Final = 0.1


Why = Literal["redis", "contradiction", "forged", "rule"]
"""`redis`: it lost what it had, or another server stands there. `contradiction`: its stream says what
PostgreSQL denies. `forged`: it holds what no broker wrote. `rule`: a rule could not be put in force in it.
"""


class Drops(Protocol):
    """What holds something of an epoch."""

    def drop(self, standing: Standing) -> None:
        """Another epoch has begun: this one."""
        ...


async def _nothing() -> None:
    pass


class Epochs:
    """The epoch that this broker works in."""

    def __init__(self, scratch: Scratch, swift: Swift, truth: Truth, durable: Durable, rates: Drops) -> None:
        self._scratch, self._swift, self._truth = scratch, swift, truth
        self._durable, self._rates = durable, rates
        self._lock = asyncio.Lock()
        self.standing: Standing
        self.ruled: Callable[[], Awaitable[None]] = _nothing
        self.changes = 0
        self.ended: Counter[str] = Counter()  # epochs that this broker ended, by why
        self._ours = ""  # the epoch that we made last

    @property
    def epoch(self) -> str:
        """Its name."""
        return self.standing.epoch

    async def start(self) -> None:
        """Join the epoch that stands, or begin one where the swift engine does not know it."""
        await self._join()
        try:
            await self._swift.rule(self.epoch, self._scratch.state.rules)
        except EpochOver:
            await self.renew(self.epoch)

    async def _join(self) -> None:
        """Others may end the epoch while we read what stands in it."""
        for _ in range(_TRIES):
            with contextlib.suppress(EpochOver):
                return await self._adopt(await self._truth.standing())
        raise _restless()

    async def renew(self, over: str, why: Why = "redis") -> None:
        """This epoch is over: join the next one, or begin it; why: what ended it. Raises Unavailable.

        Only who made an epoch begins it, and once. The swift engine may by then be another server, that has
        nothing: begun there again its numbers would be those that the truth has of other works, and who waits
        for them would be answered too early.
        """
        async with self._lock:
            if self.epoch != over:
                return
            for _ in range(_TRIES):
                standing, is_made = await self._next(over)
                self.ended[why] += is_made
                with contextlib.suppress(EpochOver):
                    await (self._begin(standing) if is_made else self._wait_begun(standing))
                    await self._adopt(standing)
                    await self._swift.rule(standing.epoch, self._scratch.state.rules)
                    self.changes += 1
                    await self._swift.tell(Told("epoch", standing.epoch.encode()))
                    return
                over = standing.epoch
            raise _restless()

    async def _next(self, over: str) -> tuple[Standing, bool]:
        """What stands after it, and whether we made it."""
        standing = await self._truth.standing()
        if standing.epoch != over:
            return standing, False
        fresh = self._scratch.state.entropy.bytes(EPOCH_BYTES).hex()
        standing = await self._truth.next_epoch(over, fresh)
        return standing, standing.epoch == fresh

    async def _begin(self, standing: Standing) -> None:
        """Where this fails nobody knows in which shards it has begun: then it is joined, or over."""
        self._ours = standing.epoch
        await self._swift.begin(standing.epoch, standing.order)

    async def _wait_begun(self, standing: Standing) -> None:
        """Whoever made it is about to begin it, unless that was us. Raises EpochOver where nobody did."""
        for left in reversed(range(1 if standing.epoch == self._ours else JOIN_TRIES)):
            try:
                await self._swift.join(standing.epoch)
            except EpochOver:
                if not left or (await self._truth.standing()).epoch != standing.epoch:
                    raise
                await asyncio.sleep(JOIN_PAUSE_S)
            else:
                return

    async def reload(self) -> None:
        """The rules as the truth has them, before anything else is decided."""
        rules = await self._truth.rules()
        fresh = rules.number > self._scratch.state.rules
        self._scratch.state.adopt(rules)
        if fresh:
            await self.ruled()

    async def _adopt(self, standing: Standing) -> None:
        rules = await self._truth.rules()
        positions = await self._truth.positions(standing.epoch)
        self._scratch.clear()
        self._rates.drop(standing)
        self._scratch.state.adopt(rules)
        self._scratch.state.epoch = standing.epoch
        self._scratch.state.at(standing.high)
        self.standing = standing
        self._durable.begin(standing.epoch, positions)


def _restless() -> Unavailable:
    return Unavailable(
        "unavailable", "the fleet's epoch changes again and again", rule="epoch", retry_after=1.0
    )
