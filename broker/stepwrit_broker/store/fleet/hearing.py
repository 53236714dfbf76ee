"""What the brokers of a fleet tell each other, and the looking-up that makes up for what was not heard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.epochs import Epochs
from stepwrit_broker.store.fleet.sealed import Ends, Seal
from stepwrit_broker.store.fleet.seams import EpochOver, Swift, Told, Truth

LOOK_EVERY_S: Final = 0.25
RECONNECT_S: Final = 0.3
OUTGOING_MAX: Final = 4096
KNOWN_FOR_S: Final = 2.0  # a broker that has not looked for longer does not know what stands


class Hearing:
    """Three workers: `listen`, `look`, `send`; each runs until cancelled."""

    def __init__(
        self,
        me: str,
        swift: Swift,
        truth: Truth,
        epochs: Epochs,
        durable: Durable,
        *,
        ended: Callable[[Ends], None],
        erased: Callable[[int], Awaitable[None]],
        rules: Callable[[], int],
    ) -> None:
        self.seal: Seal
        self._me, self._swift, self._truth = me, swift, truth
        self._epochs, self._durable = epochs, durable
        self._ended, self._erased, self._rules = ended, erased, rules
        self._outgoing: asyncio.Queue[Ends] = asyncio.Queue(OUTGOING_MAX)
        self._looked_at = float("-inf")  # by the loop's clock
        self.rules_there = 0  # the number that stood in the truth when we looked last

    @property
    def blind_s(self) -> float:
        """Since the truth last told what stands: a look is four times a second."""
        return asyncio.get_running_loop().time() - self._looked_at

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """The workers."""
        return [self.listen, self.look, self.send]

    @property
    def knows_marks(self) -> bool:
        """Whether the standing marks were compared with the truth just now."""
        return asyncio.get_running_loop().time() - self._looked_at < KNOWN_FOR_S

    def tell_ended(self, ended: Ends) -> None:
        """To be sent soon; what does not fit is not sent, and heard of at the next sign of life."""
        if ended and not self._outgoing.full():
            self._outgoing.put_nowait(ended)

    async def listen(self) -> None:
        """Hear the others."""
        while True:
            try:
                async for told in self._swift.listen():
                    await self._heard(told)
            except (Problem, EpochOver, ValueError, msgspec.MsgspecError):
                pass  # the next look makes up for it
            await asyncio.sleep(RECONNECT_S)

    async def look(self) -> None:
        """Look at what should have been heard: what stands, and the positions while anybody waits."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except (Problem, EpochOver):
                continue

    async def send(self) -> None:
        """Tell the others of steps that ended here."""
        while True:
            ended = await self._outgoing.get()
            try:
                await self._swift.tell(self.seal.ended(self._me, ended))
            except Unavailable:
                await asyncio.sleep(RECONNECT_S)

    async def _look(self) -> None:
        began, epoch = asyncio.get_running_loop().time(), self._epochs.epoch
        standing = await self._truth.standing()
        self.rules_there = standing.rules
        if standing.rules > self._rules():
            await self._epochs.reload()
        self._looked_at = began  # marks are known, also where the swift engine is not there for a new epoch
        if standing.epoch != epoch:
            await self._epochs.renew(epoch)
            return
        await self._erased(standing.erased)
        if self._durable.waiting:
            self._durable.advance(epoch, await self._truth.positions(epoch))
        asks = self._durable.asks()
        if asks:
            for shard, carried in await self._truth.carried(epoch, asks):
                self._durable.advance(epoch, {}, {shard: carried})

    async def _heard(self, told: Told) -> None:
        match told.kind:
            case "durable" if (word := self.seal.read_durable(told)) is not None:
                self._durable.advance(word[0], {}, word[1])
            case "rules" if int(told.body) > self._rules():
                await self._epochs.reload()
            case "epoch" if told.body.decode() != self._epochs.epoch:
                await self._look()
            case "erased":
                await self._look()
            case "ended" if (end := self.seal.read_ended(told)) is not None and end[0] != self._me:
                self._ended(end[1])
            case _:
                pass
