"""The broker's own shares of rate limits, taken ahead from the fleet's buckets (`core.slices`)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from stepwrit_broker.core import slices
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.limits import Charge, Limits, RateLimit, over, speaking
from stepwrit_broker.core.slices import Ask, Pace, Taken
from stepwrit_broker.store.fleet.seams import EpochOver, Standing

_KEPT: Final = 10_000  # shares in memory; the longest unused go first, with what little they hold
_AHEAD: Final = 4  # ask when a share is down to this part of what was asked for last
_MOMENT_S: Final = 1e-3  # no cell, and no time until one: rounding


class Buckets(Protocol):
    """What is asked of the swift engine (`seams.Swift`)."""

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        """Take cells."""
        ...

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        """Give cells back."""
        ...


@dataclass(slots=True, eq=False)
class _Lease:
    """Cells in hand, good from `at` until before `until`. tat: what their bucket then stood at."""

    epoch: str
    cells: int
    at: float
    until: float
    tat: float

    @property
    def is_at_once(self) -> bool:
        """For the very operation that asked, and no other."""
        return self.until == self.at


@dataclass(slots=True, eq=False)
class _Share:
    """What the broker has of one bucket, and knows of it. empty_until: none is to be had before. troubles:
    how many questions went unanswered. tat: where the bucket stood when it last answered.
    """

    limit: RateLimit
    key: str
    leases: list[_Lease] = field(default_factory=list)
    pace: Pace = field(default_factory=lambda: Pace(wanted=1, at=0.0, used=0))
    empty_until: float = 0.0
    tat: float = 0.0
    troubles: int = 0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def good(self, now: float) -> list[_Lease]:
        """What an operation of then may use. Operations come in a little out of order."""
        self.leases = [x for x in self.leases if x.cells and now < x.until + slices.CLOCKS_APART_S]
        return [lease for lease in self.leases if lease.at <= now < lease.until]

    def cut(self, now: float) -> _Cell | None:
        """A cell in hand, of those that end first."""
        good = self.good(now)
        return self.use(good[0]) if good else None

    def use(self, lease: _Lease) -> _Cell:
        """One of its cells."""
        lease.cells -= 1
        self.pace = replace(self.pace, used=self.pace.used + 1)
        return _Cell(self, lease)

    def wait(self, now: float) -> float:
        """Seconds until the next cell, as far as is known here; 0 where it is worth asking."""
        left = self.empty_until - now
        slack = self.limit.period_s / self.limit.count * slices.SLACK
        return left if left > slack and not self.good(now) else 0.0

    def wanted(self, now: float) -> int:
        """How many to ask for."""
        return slices.next_wanted(self.pace, slices.slice_of(self.limit), now)

    def is_low(self, now: float) -> bool:
        """Whether it is time to ask ahead."""
        most = self.pace.wanted
        is_worth = most > 1 and not self.asking.locked() and self.empty_until <= now
        return is_worth and sum(lease.cells for lease in self.good(now)) * _AHEAD < most


class _Cell(NamedTuple):
    """One cell, taken out of its lease."""

    share: _Share
    lease: _Lease


class Rates:
    """What this broker may still let pass in this epoch. One event loop; not for threads."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch, self._since = "", 0.0  # no engine knows it: nothing is had before `drop`
        self._shares: OrderedDict[str, _Share] = OrderedDict()

    def drop(self, standing: Standing) -> None:
        """Begin the epoch: forget what was had of the one before."""
        self._epoch = standing.epoch
        self._since = slices.fills_since(standing.order, standing.began_at, standing.high)
        self._shares = OrderedDict()

    def prune(self, now: float) -> None:
        """Forget the shares that are worth nothing any more."""
        for key in [key for key, share in self._shares.items() if share.tat <= now and not share.good(now)]:
            del self._shares[key]

    def tats(self) -> Mapping[str, float]:
        """What this broker last heard of each bucket."""
        return {key: share.tat for key, share in self._shares.items()}

    async def charge(self, limits: Limits, what: Charge, now: float) -> None:
        """Spend one cell of every rate limit that speaks of this, or of none.

        now: when the operation happens by this broker's clock, as the ledger will say it; seconds since the
        epoch. The operation MUST be committed in the epoch that stood when this was called.
        Raises Refused(`limit`) as `core.limits.charge` does, naming the limit that is spent for longest of
        those that are known to be spent; EpochOver, also where the epoch ended meanwhile; Unavailable where
        the swift engine does not answer.
        """
        epoch = self._epoch
        shares = [self._share(key, limit) for key, limit in speaking(limits, what)]
        _refuse_spent(limits, [(share, share.wait(now)) for share in shares])
        cells = {share: share.cut(now) for share in shares}
        missing = [share for share, cell in cells.items() if cell is None]
        if missing:
            await self._fetch(limits, missing, [cell for cell in cells.values() if cell], now)
        if self._epoch != epoch:
            raise EpochOver
        self._ask_ahead(shares, now)

    def _share(self, key: str, limit: RateLimit) -> _Share:
        share = self._shares.get(key)
        if share is None or share.limit != limit:
            share = self._shares[key] = _Share(limit=limit, key=key)
        self._shares.move_to_end(key)
        if len(self._shares) > _KEPT:
            self._shares.popitem(last=False)
        return share

    async def _fetch(
        self, limits: Limits, missing: Sequence[_Share], in_hand: Sequence[_Cell], now: float
    ) -> None:
        """A cell of each, or all back."""
        answers = await asyncio.gather(*(self._one(s, now) for s in missing), return_exceptions=True)
        cells = [*in_hand, *(answer for answer in answers if isinstance(answer, _Cell))]
        if len(cells) == len(in_hand) + len(missing):
            return
        await self._put_back(cells)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        waits = [answer if isinstance(answer, float) else 0.0 for answer in answers]
        _refuse_spent(limits, list(zip(missing, waits, strict=True)))

    async def _one(self, share: _Share, now: float) -> _Cell | float:
        """A cell, or the seconds until there is one."""
        if slices.slice_of(share.limit).most == 1:
            return await self._at_once(share, now)  # nothing to share: nobody waits for another's answer
        troubles = share.troubles
        async with share.asking:
            if cell := share.cut(now):
                return cell
            if share.troubles != troubles:  # not one timeout after the other for all who waited
                raise Unavailable("unavailable", "the fleet's limits do not answer", rule="store")
            wanted = share.wanted(now)
            if wanted > 1 and not share.wait(now):
                await self._ask(share, wanted, now)
            return share.cut(now) or share.wait(now) or await self._at_once(share, now)

    async def _at_once(self, share: _Share, now: float) -> _Cell | float:
        """One cell, for this very operation."""
        lease = await self._ask(share, 1, now)
        return share.use(lease) if lease else max(share.wait(now), _MOMENT_S)

    async def _ask(self, share: _Share, wanted: int, now: float) -> _Lease | None:
        ask, epoch = slices.question(share.limit, wanted, self._since, now), self._epoch
        try:
            taken = await self._buckets.lease(epoch, share.key, ask)
        except Unavailable:
            share.troubles += 1
            raise
        share.tat = taken.tat
        if taken.retry_after:
            share.empty_until = now + taken.retry_after
        if not taken.cells:
            return None
        lease = _Lease(epoch=epoch, cells=taken.cells, at=now, until=now + ask.life, tat=taken.tat)
        share.pace = Pace(wanted=wanted, at=now, used=0)
        if not lease.is_at_once:
            share.leases.append(lease)
        return lease

    async def _put_back(self, cells: Iterable[_Cell]) -> None:
        """Into the share, or where nobody else may use it, into the bucket; what fails there is lost."""
        lone: list[_Cell] = []
        for share, lease in cells:
            lease.cells += 1
            if lease.is_at_once:
                lone.append(_Cell(share, lease))
            elif lease not in share.leases:
                share.leases.append(lease)
        await asyncio.gather(*(self._give_back(share, lease) for share, lease in lone))

    async def _give_back(self, share: _Share, lease: _Lease) -> None:
        interval = share.limit.period_s / share.limit.count
        try:
            await self._buckets.give_back(lease.epoch, share.key, lease.tat, lease.cells, interval)
        except (Problem, EpochOver):
            return
        share.empty_until = 0.0

    def _ask_ahead(self, shares: Sequence[_Share], now: float) -> None:
        for share in shares:
            if share.is_low(now):
                task = asyncio.create_task(self._refill(share, now))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _refill(self, share: _Share, now: float) -> None:
        try:
            async with share.asking:
                wanted = share.wanted(now)
                if wanted > 1:  # a single cell is for an operation that is there
                    await self._ask(share, wanted, now)
        except (Problem, EpochOver):
            return  # whoever needs one will meet it

    async def close(self) -> None:
        """Ask for no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _refuse_spent(limits: Limits, waits: Iterable[tuple[_Share, float]]) -> None:
    spent = [(wait, share.limit) for share, wait in waits if wait > 0]
    if spent:
        raise over(limits, spent)
