"""The swift engine on Redis 7.0 or newer: one server, Sentinel or Cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from stepwrit_broker.core.slices import Ask, Taken
from stepwrit_broker.ports import Clock
from stepwrit_broker.store.fleet.facts import RedisFacts
from stepwrit_broker.store.fleet.redis import scripts, telling
from stepwrit_broker.store.fleet.redis.facts import facts_of
from stepwrit_broker.store.fleet.redis.keys import Keys
from stepwrit_broker.store.fleet.redis.nodes import Nodes
from stepwrit_broker.store.fleet.redis.rows import change_words, row_words, rows_of, seal_of
from stepwrit_broker.store.fleet.redis.running import Runner, together
from stepwrit_broker.store.fleet.redis.streams import Streams
from stepwrit_broker.store.fleet.redis.sweeping import sweep
from stepwrit_broker.store.fleet.redis.url import parse
from stepwrit_broker.store.fleet.redis.wide import Wide
from stepwrit_broker.store.fleet.redis.wire import Login
from stepwrit_broker.store.fleet.seams import (
    Absent,
    Change,
    Claim,
    Numbered,
    Snapshot,
    Told,
    Unchanged,
)
from stepwrit_broker.store.fleet.tables import shard_of_name

SLACK_S = 0.25  # what a commit's time may be before the shard's


class RedisSwift:
    """`Swift` on Redis: scripts in the slots of their shards, over one connection to each server."""

    def __init__(self, nodes: Nodes, keys: Keys) -> None:
        self.nodes, self.keys = nodes, keys
        self._runner = Runner(nodes, keys)
        self._streams, self._wide = Streams(self._runner), Wide(self._runner)
        self.sweeping: asyncio.Task[int] | None = None

    @classmethod
    def of(
        cls,
        url: str,
        *,
        fleet: str,
        shards: int,
        timeout_s: float = 2.0,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
    ) -> RedisSwift:
        """By a URL (docs/reference/fleet-redis.md); connects at the first use.

        fleet, shards: the same for every broker of the fleet. timeout_s: to connect, and for each answer.
        Files are PEM. Raises ValueError, which says nothing of a password.
        """
        place = parse(url)
        login = Login(
            username=place.username,
            password=place.password,
            db=place.db,
            timeout_s=timeout_s,
            is_tls=place.is_tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
        )
        sentinel = login.as_user(sentinel_username, sentinel_password)
        return cls(Nodes(place, login, sentinel), Keys(fleet, shards))

    def _txn(self, epoch: str, txn: str) -> tuple[int, str]:
        shard = shard_of_name(txn, self.keys.shards)
        return shard, self.keys.of(shard, epoch, f"t:{txn}")

    async def begin(self, epoch: str, order: int) -> None:
        """As `Swift.begin`, on who is the primary now: the epoch may have ended because another one is.

        The keys of epochs before it are swept away afterwards, beside the work.
        """
        await self.nodes.follow()
        runs = [
            self._runner.run(scripts.BEGIN, shard, epoch, [self.keys.past(shard)], order)
            for shard in self._all
        ]
        if any(fresh for (fresh,) in await together(runs)):
            await self._end_sweeping()
            self.sweeping = asyncio.create_task(sweep(self._runner, epoch))

    async def join(self, epoch: str) -> None:
        """As `Swift.join`, on who is the primary now."""
        await self.nodes.follow()
        await self.rule(epoch, 0)

    @property
    def _all(self) -> range:
        return range(self.keys.shards)

    async def fetch(self, epoch: str, txn: str, known: int) -> Snapshot | Unchanged | Absent:
        """As `Swift.fetch`."""
        shard, key = self._txn(epoch, txn)
        said = await self._runner.run(scripts.FETCH, shard, epoch, [key], known)
        if said[0] == b"ABSENT":
            return Absent(evictions=int(said[1]))
        if said[0] == b"SAME":
            return Unchanged(seq=int(said[1]))
        rows = said[3]
        return Snapshot(
            txn=txn, version=int(said[1]), seq=int(said[2]), rows=rows_of(rows), seal=seal_of(rows)
        )

    async def hold(self, epoch: str, snapshot: Snapshot, evictions: int) -> None:
        """As `Swift.hold`."""
        shard, key = self._txn(epoch, snapshot.txn)
        words = (evictions, snapshot.version, snapshot.seq, snapshot.seal, *row_words(snapshot.rows))
        await self._runner.run(scripts.HOLD, shard, epoch, [key], *words)

    async def commit(
        self,
        epoch: str,
        shard: int,
        changes: Sequence[Change],
        work: bytes,
        *,
        now: float,
        rules: int,
        seals: Sequence[bytes] = (),
    ) -> int:
        """As `Swift.commit`."""
        keys = [self.keys.of(shard, epoch, "s")]
        for change in changes:
            of, key = self._txn(epoch, change.txn)
            if of != shard or key in keys:
                raise ValueError("a commit has each transaction once, and all of one shard")
            keys.append(key)
        words = (repr(now), rules, repr(SLACK_S), work, *change_words(changes, seals))
        return int((await self._runner.run(scripts.COMMIT, shard, epoch, keys, *words))[0])

    async def evict(self, epoch: str, txn: str, version: int) -> bool:
        """As `Swift.evict`."""
        shard, key = self._txn(epoch, txn)
        return bool((await self._runner.run(scripts.EVICT, shard, epoch, [key], version))[0])

    async def claim(self, epoch: str, claims: Sequence[Claim], now: float) -> Sequence[str | None]:
        """As `Swift.claim`."""
        return await together(self._wide.claim(epoch, claim, now) for claim in claims)

    async def release(self, epoch: str, claims: Sequence[Claim]) -> None:
        """As `Swift.release`."""
        await together(self._wide.release(epoch, claim) for claim in claims)

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        """As `Swift.lease`."""
        return await self._wide.lease(epoch, key, ask)

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        """As `Swift.give_back`."""
        await self._wide.give_back(epoch, key, known, cells, interval)

    async def rule(self, epoch: str, number: int) -> Mapping[int, int]:
        """As `Swift.rule`."""
        runs = (self._runner.run(scripts.RULE, shard, epoch, [], number) for shard in self._all)
        return {shard: int(last) for shard, (last,) in enumerate(await together(runs))}

    async def read(self, epoch: str, after: Mapping[int, int], wait_s: float) -> Sequence[Numbered]:
        """As `Swift.read`; at most 256 works of each shard."""
        return await self._streams.read(epoch, after, wait_s)

    async def trim(self, epoch: str, upto: Mapping[int, int]) -> None:
        """As `Swift.trim`."""
        await together(self._trim(epoch, shard, seq) for shard, seq in upto.items())

    async def _trim(self, epoch: str, shard: int, seq: int) -> None:
        stream = self.keys.of(shard, epoch, "s")
        await self._runner.run(scripts.TRIM, shard, epoch, [stream], seq + 1)

    async def backlog(self, epoch: str, shard: int) -> int:
        """As `Swift.backlog`."""
        stream = self.keys.of(shard, epoch, "s")
        return int((await self._runner.run(scripts.BACKLOG, shard, epoch, [stream]))[0])

    async def tell(self, message: Told) -> None:
        """As `Swift.tell`."""
        await telling.tell(self.nodes, self.keys, message)

    def listen(self) -> AsyncIterator[Told]:
        """As `Swift.listen`. Raises Unavailable(rule="store") where it cannot begin."""
        return telling.listen(self.nodes, self.keys)

    async def facts(self, clock: Clock) -> tuple[RedisFacts, ...]:
        """What each primary says of itself. Raises Unavailable(rule="store")."""
        return await facts_of(self.nodes, clock)

    async def _end_sweeping(self) -> None:
        if self.sweeping is not None:
            self.sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.sweeping

    async def close(self) -> None:
        """As `Swift.close`."""
        await self._end_sweeping()
        await self.nodes.close()
