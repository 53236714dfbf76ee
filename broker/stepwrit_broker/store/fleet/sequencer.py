"""One broker of the fleet carries the streams into the truth, in their order.

Which one is a matter of liveness alone: two that do it at once contradict each other in the truth, which
takes each number once, and the head of the log from one value to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.store.fleet.codec import Garbled, decode
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.epochs import Epochs, Why
from stepwrit_broker.store.fleet.sealed import Seal, digest_of
from stepwrit_broker.store.fleet.seams import Carried, Contradiction, EpochOver, Numbered, Swift, Truth, Work

LEAD_S: Final = 2.0
READ_WAIT_S: Final = 0.2
RETRY_S: Final = 0.3
YIELD_S: Final = 3 * RETRY_S  # all others have asked for the lease by then
TRIM_EVERY_S: Final = 1.0


class Sequencer:
    """`run` until cancelled; see the module."""

    def __init__(
        self,
        me: str,
        swift: Swift,
        truth: Truth,
        epochs: Epochs,
        durable: Durable,
        *,
        now: Callable[[], float],
    ) -> None:
        self.seal: Seal
        self._me, self._swift, self._truth = me, swift, truth
        self._epochs, self._durable, self._now = epochs, durable, now
        self._epoch = ""
        self._at: dict[int, int] = {}
        self._trimmed: dict[int, int] = {}
        self._trimmed_at = 0.0
        self._ask_at = 0.0
        self._done_at = 0.0
        self.took: Callable[[float], None] = lambda _: None  # seconds, of each commit that carried something
        self.leads = False
        self.committed = self.forged = 0

    async def run(self) -> None:
        """Lead whenever nobody else does."""
        while True:
            try:
                await self._turn()
            except EpochOver:
                await self._again(self._epoch)
            except Contradiction as wrong:
                is_forged = isinstance(wrong, Garbled)
                self.forged += is_forged
                await self._again(self._epoch, "forged" if is_forged else "contradiction")
            except Problem:
                await self._yield()

    @property
    def idle_s(self) -> float:
        """Since this broker's last commit, an empty one included; 0 where it does not lead."""
        return asyncio.get_running_loop().time() - self._done_at if self.leads and self._done_at else 0.0

    async def _turn(self) -> None:
        if not await self._lead():
            self._epoch = ""
            await asyncio.sleep(RETRY_S)
            return
        if self._epoch != self._epochs.epoch:
            epoch = self._epochs.epoch
            self._at = dict(await self._truth.positions(epoch))
            self._epoch, self._trimmed = epoch, {}
        batch = await self._swift.read(self._epoch, self._at, READ_WAIT_S)
        await self._commit(batch)
        await self._trim()

    async def _lead(self) -> bool:
        """Whether this broker's turn goes on. The lease is a commit of its own: half of it is used first."""
        now = asyncio.get_running_loop().time()
        if not self.leads or now >= self._ask_at:
            self.leads = await self._truth.lead(self._me, LEAD_S)
            self._ask_at = now + LEAD_S / 2
        return self.leads

    async def _commit(self, batch: Sequence[Numbered]) -> None:
        """Also an empty one: what was said outside the streams is appended then."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await self._truth.commit(self._epoch, [(each, self._opened(each)) for each in batch])
        self._done_at = clock()
        if not batch:
            return
        self.took(self._done_at - began)
        fresh = {each.shard: each.seq for each in batch}
        self._at.update(fresh)
        self.committed += len(batch)
        carried = carried_of(batch)
        self._durable.advance(self._epoch, fresh, carried)
        await self._swift.tell(self.seal.durable(self._epoch, carried))

    async def _trim(self) -> None:
        """Also where nothing follows: what was erased in the truth leaves the streams too."""
        if self._trimmed != self._at and self._now() - self._trimmed_at >= TRIM_EVERY_S:
            upto, self._trimmed_at = dict(self._at), self._now()
            await self._swift.trim(self._epoch, upto)
            self._trimmed = upto

    def _opened(self, each: Numbered) -> Work:
        return decode(self.seal.opened(self._epoch, each.shard, each.work))

    async def _yield(self) -> None:
        """Let another broker lead: one that reaches the truth alone would lead, and carry nothing."""
        led, self.leads, self._epoch = self.leads, False, ""
        if led:
            with contextlib.suppress(Problem):
                await self._truth.lead(self._me, 0)
        await asyncio.sleep(YIELD_S if led else RETRY_S)

    async def _again(self, epoch: str, why: Why = "redis") -> None:
        """What the stream says cannot be: nothing more of this epoch will be believed."""
        self._epoch = ""
        try:
            await self._epochs.renew(epoch, why)
        except Unavailable:
            await asyncio.sleep(RETRY_S)


def carried_of(batch: Sequence[Numbered]) -> dict[int, Carried]:
    """By shard; of each they follow one another."""
    found: dict[int, tuple[int, bytearray]] = {}
    for each in batch:
        _, digests = found.setdefault(each.shard, (each.seq, bytearray()))
        digests += digest_of(each.work)
    return {shard: Carried(first, bytes(digests)) for shard, (first, digests) in found.items()}
