"""Carry a verb through: copy, plan, claims, commit, truth; again when something moved under it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.limits import Charge, Limits
from stepwrit_broker.store.fleet.claiming import Claims
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.durable import Durable, unknown
from stepwrit_broker.store.fleet.epochs import Epochs
from stepwrit_broker.store.fleet.scratch import Plan, Scratch
from stepwrit_broker.store.fleet.sealed import NO_WORK, digest_of
from stepwrit_broker.store.fleet.seams import (
    Absent,
    Change,
    Claim,
    EpochOver,
    Snapshot,
    Stale,
    Standing,
    Swift,
    Truth,
)
from stepwrit_broker.store.fleet.tables import AUTHENTICATORS, shard_of_name

T = TypeVar("T")
TRIES: Final = 12


class Shares(Protocol):
    """This broker's shares of the limits that are wider than a transaction."""

    async def charge(self, limits: Limits, what: Charge, now: float) -> None:
        """Spend one cell of every rate limit that speaks of this. Raises Refused(`limit`)."""
        ...

    def drop(self, standing: Standing) -> None:
        """Another epoch has begun: this one."""
        ...

    def prune(self, now: float) -> None:
        """Forget the counters that a fresh key would equal."""
        ...

    def tats(self) -> Mapping[str, float]:
        """The rate counters by key, as far as this broker knows them; a live view."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A verb on one aggregate, with others that it looks at. is_root: it opens a transaction. claimed: what
    was claimed for it before, to be given back where nothing comes of it.
    """

    main: str
    beside: tuple[str, ...] = ()
    is_root: bool = False
    claimed: tuple[Claim, ...] = ()

    @property
    def names(self) -> list[str]:
        """All aggregates, in the order in which they are locked."""
        return sorted({self.main, *self.beside})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a write landed. names: what it wrote; work: its digest."""

    epoch: str
    shard: int
    seq: int
    work: bytes
    names: tuple[str, ...]


class Carrier:
    """Carries verbs; see the module."""

    def __init__(
        self, scratch: Scratch, swift: Swift, truth: Truth, epochs: Epochs, durable: Durable, shares: Shares
    ) -> None:
        self._scratch, self._swift, self._truth = scratch, swift, truth
        self._epochs, self._durable, self._shares = epochs, durable, shares
        self.retries: Counter[str] = Counter()  # tries that were made again, by what had moved
        self.done: Callable[[Plan[Any]], None] = lambda _: None
        self.forged = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, job: Job, verb: Callable[[], T], *, wait: bool = True) -> Plan[T]:
        """The verb's plan once it stands and, unless told otherwise, the truth has it."""
        async with AsyncExitStack() as stack:
            for name in job.names:
                await stack.enter_async_context(self._lock(name))
            plan, places = await self._stand(job, verb)
        if wait:
            await self._carried(places)
        self.done(plan)
        if plan.wanted.freed:
            await Claims.give_back(self._swift, self._epochs.epoch, plan.wanted.freed)
        return plan

    async def look(self, name: str, *, wait: bool = True) -> bool:
        """Have a copy of all that was acknowledged, and all of it durable. False: there is no such thing.
        Without `wait` there may be more in it, of which nobody knows yet whether it ever was.
        """
        return await self.read((name,), lambda: self._scratch.held(name) is not None, wait=wait)

    async def read(self, names: Sequence[str], find: Callable[[], T], *, wait: bool = True) -> T:
        """What `find` says of these as everybody sees them, once all that it saw is durable.

        It runs while nobody else works on them here: a verb that is under way shows what may never be, and
        one whose plan does not stand leaves no copy at all. Without the swift engine it sees what the truth
        has: the brake must find what it is to stop.
        """
        known = sorted({name for name in names if name == AUTHENTICATORS or is_id("txn", name)})
        async with AsyncExitStack() as stack:
            for name in known:
                await stack.enter_async_context(self._lock(name))
            try:
                epoch = await self._seen(known)
            except Unavailable:
                epoch = self._epochs.epoch
                await self._from_truth(known)
            found, places = find(), self._places(known, epoch) if wait else []
        await self._carried(places)
        return found

    async def _carried(self, places: Sequence[Place]) -> None:
        """Until the truth has these very works. What has their numbers and is not they ends the epoch."""
        for place in places:
            try:
                await self._durable.wait(place.epoch, place.shard, place.seq, place.work)
            except EpochOver:
                self.forged += 1
                await self._epochs.renew(place.epoch)
                raise unknown("another work has the number that this one had") from None
            for name in place.names:
                held = self._scratch.held(name)
                if held is not None and held.work == place.work:
                    held.seq = 0

    async def _seen(self, names: Sequence[str]) -> str:
        """Make the copies what everybody sees; the epoch in which they do."""
        for _ in range(TRIES):
            epoch = self._epochs.epoch
            try:
                for name in names:
                    await self._sync(epoch, name)
            except Stale:
                continue
            except EpochOver:
                await self._epochs.renew(epoch)
            else:
                return epoch
        raise _restless()

    async def refresh(self, name: str) -> None:
        """Have no copy that is older than what stands now."""
        async with self._lock(name):
            if self._scratch.held(name) is None:
                return
            try:
                await self._sync(self._epochs.epoch, name)
            except (Stale, EpochOver, Unavailable):
                self._scratch.forget(name)

    async def drop_empty(self, name: str) -> None:
        """Let the swift engine hold no more of a transaction that is gone. For room alone."""
        held, epoch = self._scratch.held(name), self._epochs.epoch
        if held is None or held.fields or not held.version:
            return
        if not self._durable.has(epoch, shard_of_name(name, self._epochs.standing.shards), held.seq):
            return  # the truth may still have its rows: they would be read again, and contradict their end
        async with self._lock(name):
            try:
                await self._swift.evict(epoch, name, held.version)
            except (EpochOver, Unavailable):
                return
            self._scratch.forget(name)

    async def _stand(self, job: Job, verb: Callable[[], T]) -> tuple[Plan[T], list[Place]]:
        of = "" if job.is_root else job.main  # a root's repeat comes with another name for its transaction
        claims = Claims(self._swift, self._truth, self._shares, self._scratch.state, of, job.claimed)
        is_fresh = False
        for _ in range(TRIES):
            epoch = self._epochs.epoch
            try:
                await self._copies(epoch, job, is_fresh=is_fresh)
                done = await self._once(epoch, job, verb, claims)
                if not done[0].is_empty or not await self._is_behind(epoch, job, is_fresh=is_fresh):
                    return done
            except Stale as moved:
                claims.sent = False
                self.retries[moved.what] += 1
                await self._moved(job, moved)
            except EpochOver:
                claims.sent = False
                self.retries["epoch"] += 1
                self._forget(job)
                await self._epochs.renew(epoch)
            except Problem as refused:
                down = isinstance(refused, Unavailable)
                if is_fresh or down or not await self._is_outdated(epoch, job):
                    if not claims.sent:
                        await claims.refused(epoch)
                    raise
                self.retries["version"] += 1
            is_fresh = True
        raise _restless()

    async def _once(
        self, epoch: str, job: Job, verb: Callable[[], T], claims: Claims
    ) -> tuple[Plan[T], list[Place]]:
        try:
            plan = self._scratch.plan(job.main, verb)
        except Problem:
            claims.note()
            raise
        if plan.is_empty:
            return plan, self._places(job.names, epoch)
        changes = self._changes(job, plan)
        totals = {each.txn: self._scratch.total(each.txn) for each in changes}
        try:
            await claims.take(epoch, plan, self._epochs.standing)
            claims.sent = True
            return plan, await self._commit(epoch, job, plan, changes, totals)
        except BaseException:
            self._forget(job, plan.changes)
            raise

    def _changes(self, job: Job, plan: Plan[T]) -> list[Change]:
        """The plan's; the main aggregate's version moves on in any case, and stands last."""
        changes = list(plan.changes)
        if not changes or changes[-1].txn != job.main:
            changes.append(Change(txn=job.main, version=self._version(job.main), put=()))
        return changes

    async def _commit(
        self, epoch: str, job: Job, plan: Plan[T], changes: Sequence[Change], totals: Mapping[str, int]
    ) -> list[Place]:
        shards, places, seal = self._epochs.standing.shards, list[Place](), self._scratch.seal
        groups = [
            (shard, list(group))
            for shard, group in groupby(changes, key=lambda each: shard_of_name(each.txn, shards))
        ]
        for shard, group in groups:
            is_main = group is groups[-1][1]
            raw = encode(plan.work(changes=group, with_all=is_main, is_root=job.is_root))
            work = seal.work(epoch, shard, raw)
            name = digest_of(work)
            seals = [seal.rows(epoch, each.txn, each.version + 1, name, totals[each.txn]) for each in group]
            seq = await self._swift.commit(
                epoch, shard, group, work, now=plan.now, rules=plan.rules, seals=seals
            )
            for change in group:
                self._scratch.committed(change, seq, name)
            places.append(Place(epoch, shard, seq, name, tuple(each.txn for each in group)))
        return places

    async def _copies(self, epoch: str, job: Job, *, is_fresh: bool) -> None:
        for name in job.names:
            is_new = job.is_root and name == job.main
            is_beside = name != job.main  # what is only looked at is compared by no commit
            if is_fresh or is_beside or (self._scratch.held(name) is None and not is_new):
                await self._sync(epoch, name)
        for name in self._scratch.crowded():
            if name not in job.names and not self._lock(name).locked():
                self._scratch.forget(name)

    async def _sync(self, epoch: str, name: str) -> None:
        """Make the copy what everybody sees. Raises Stale, EpochOver, Unavailable."""
        held = self._scratch.held(name)
        found = await self._swift.fetch(epoch, name, 0 if held is None else held.version)
        self._check_still(epoch)
        if isinstance(found, Snapshot):
            await self._believe(epoch, found)
        elif isinstance(found, Absent):
            self._scratch.forget(name)
            known = await self._truth.transaction(name)
            if known is not None:
                held = self._scratch.load(known)
                sealed = self._scratch.seal.rows(epoch, name, known.version, NO_WORK, held.total)
                await self._swift.hold(epoch, replace(known, seal=sealed), found.evictions)
        self._check_still(epoch)

    def _check_still(self, epoch: str) -> None:
        """Another request may have begun the next epoch meanwhile. What is taken up of the one before would
        be believed where versions are the same by chance, and its numbers are those of other works.
        """
        if epoch != self._epochs.epoch:
            raise EpochOver

    async def _believe(self, epoch: str, found: Snapshot) -> None:
        """Take up what a broker of this fleet wrote. Raises EpochOver for anything else: somebody writes to
        the swift engine who is none, so nothing in it is believed any more.
        """
        held = self._scratch.load(found)
        if not self._scratch.seal.holds(epoch, found.txn, found.version, found.seal, held.total):
            raise self._forgery(found.txn)
        shard = shard_of_name(found.txn, self._epochs.standing.shards)
        if found.seq and self._durable.is_past(shard, found.seq):
            known = self._durable.work(shard, found.seq)
            if known not in (None, held.work):
                raise self._forgery(found.txn)
            held.seq = 0
            if known is None:  # long ago: the rows themselves are asked for
                await self._from_truth([found.txn])

    def _forgery(self, name: str) -> EpochOver:
        self._scratch.forget(name)
        self.forged += 1
        return EpochOver()

    async def _from_truth(self, names: Sequence[str]) -> None:
        """Copies to look at. A plan that is made on one is compared as any other when it is committed."""
        known = {name: await self._truth.transaction(name) for name in names}
        for name, snapshot in known.items():
            if snapshot is None:
                self._scratch.forget(name)
            else:
                self._scratch.load(snapshot)

    async def _is_behind(self, epoch: str, job: Job, *, is_fresh: bool) -> bool:
        """What changes nothing is compared by no commit: neither with the rules nor with the rows."""
        if (await self._truth.standing()).rules > self._scratch.state.rules:
            await self._epochs.reload()
            return True
        return not is_fresh and await self._is_outdated(epoch, job)

    async def _is_outdated(self, epoch: str, job: Job) -> bool:
        """Whether a refusal, or that nothing was to be done, came of a copy that others moved on from."""
        before = [self._version(name) for name in job.names]
        try:
            for name in job.names:
                await self._sync(epoch, name)
        except (Stale, EpochOver):
            return True
        return before != [self._version(name) for name in job.names]

    async def _moved(self, job: Job, moved: Stale) -> None:
        self._forget(job)
        state = self._scratch.state
        state.high = max(state.high, moved.high)
        if moved.what == "rules":
            await self._epochs.reload()

    def _forget(self, job: Job, changes: Sequence[Change] = ()) -> None:
        for name in {*job.names, *(change.txn for change in changes)}:
            self._scratch.forget(name)

    def _version(self, name: str) -> int:
        held = self._scratch.held(name)
        return 0 if held is None else held.version

    def _places(self, names: Sequence[str], epoch: str) -> list[Place]:
        shards = self._epochs.standing.shards
        held = [found for name in names if (found := self._scratch.held(name)) is not None]
        return [
            Place(epoch, shard_of_name(each.name, shards), each.seq, each.work, (each.name,))
            for each in held
            if each.seq
        ]

    def _lock(self, name: str) -> asyncio.Lock:
        found = self._locks.get(name)
        if found is None:
            found = self._locks[name] = asyncio.Lock()
        return found


def _restless() -> Unavailable:
    return Unavailable(
        "unavailable", "too many work on this transaction at once", rule="contention", retry_after=0.2
    )
