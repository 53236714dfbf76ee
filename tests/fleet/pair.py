"""Two brokers' stores on one fleet's engines, whose carrying to the truth can be held up."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import asyncpg
from tests.contracts.test_fleet_store import SHARDS
from tests.fakes import build
from tests.fakes.build import Maker
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy
from tests.fakes.fleet import MemorySwift, MemoryTruth
from tests.fakes.workers import ended
from tests.rigs.postgres import PostgresServer
from tests.rigs.redis import RedisServer

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.seams import Row, Snapshot, Swift, Truth
from stepwrit_broker.store.fleet.store import FleetStore

_numbers = itertools.count()
_ENTRIES = (
    "SELECT body FROM (SELECT 0 AS part, seq AS place, body FROM stepwrit.ledger_bodies"
    " UNION ALL SELECT 1, id, body FROM stepwrit.outbox) AS said ORDER BY part, place"
)


@dataclass
class Pair:
    """`one` and `two`; nobody carries anything to the truth between `hold` and `carry`."""

    swifts: list[Swift]
    truths: list[Truth]
    make: Maker = field(default_factory=lambda: Maker(now=START))
    stores: list[FleetStore] = field(default_factory=list)
    _workers: list[asyncio.Future[None]] = field(default_factory=list)
    _carrying: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def one(self) -> FleetStore:
        return self.stores[0]

    @property
    def two(self) -> FleetStore:
        return self.stores[1]

    async def start(self) -> None:
        for number, (swift, truth) in enumerate(zip(self.swifts, self.truths, strict=True)):
            store = FleetStore(
                swift, truth, Rates(swift), SeededEntropy(number + 5), me=f"broker {number}", now=lambda: 0.0
            )
            await store.start()
            store.use(build.limits(), lambda: 0)
            self.stores.append(store)
            self._workers += [asyncio.ensure_future(run()) for run in store.hearing.runs()]
        self.make.epoch = self.one.epoch
        self.carry()

    def carry(self) -> None:
        self._carrying = [asyncio.ensure_future(store.sequencer.run()) for store in self.stores]

    async def hold(self) -> None:
        """As two brokers that are both paused while one of them leads; the lease is free at once."""
        await ended(self._carrying)
        for number, truth in enumerate(self.truths):
            await truth.lead(f"broker {number}", 0)

    def skew(self, number: int, seconds: float) -> None:
        """Set this broker's clock ahead of what is right."""

        async def offset() -> float:
            return -seconds

        self.truths[number].clock_offset = offset  # type: ignore[method-assign]

    async def close(self) -> None:
        await ended([*self._carrying, *self._workers])
        for store in self.stores:
            await store.close()

    async def accepted(self) -> StepRecord:
        """Opened by one, its child by two, accepted by one."""
        root = await self.one.open(self.make.open(self.make.root_step()))
        child = await self.two.open(self.make.open(self.make.child_step(root)))
        return (await self.one.accept(self.make.accept(child)))[0]

    async def held(self) -> Grant:
        """A credential that the second broker reserved."""
        record = await self.accepted()
        return (await self.two.reserve(self.make.reserve(self.make.grant(record)))).grant

    async def entries(self) -> list[dict[str, Any]]:
        """The ledger, with what waits to be appended."""
        return cast("MemoryTruth", self.truths[0]).entries()

    async def told(self, kind: str, grant: Grant) -> int:
        """How often the ledger says this of a credential."""
        return sum(entry["kind"] == kind and entry.get("grant") == grant.id for entry in await self.entries())

    async def raw(self, txn: str) -> dict[str, bytes]:
        """What the swift engine holds of a transaction: rows, and its own words."""
        found = self._memory(txn)
        own = {"v": b"%d" % found.version, "s": b"%d" % found.seq, "m": found.seal}
        return own | {row.field: row.value for row in found.rows}

    async def put_raw(self, txn: str, raw: dict[str, bytes]) -> None:
        """As somebody who can write there."""
        found = self._memory(txn)
        orders = {row.field: row.ord for row in found.rows}
        rows = tuple(Row(name, orders.get(name, 0), each) for name, each in raw.items() if ":" in name)
        fresh = replace(found, rows=rows, version=int(raw["v"]), seq=int(raw["s"]), seal=raw["m"])
        self._swift._shard(txn).txns[txn] = fresh

    @property
    def _swift(self) -> MemorySwift:
        return cast("MemorySwift", cast("Way", self.swifts[0]).to)

    def _memory(self, txn: str) -> Snapshot:
        return self._swift._shard(txn).txns[txn]

    async def swap(self, shard: int) -> None:
        """Of the last two works of a stream only the later stands, under the number of the earlier."""
        into = self._swift.shards[shard]
        del into.stream[-2]
        into.seq -= 1

    async def lose(self) -> None:
        """The swift engine has nothing any more, as after a fail-over."""
        self._swift.lose()

    async def append(self, shard: int, work: bytes) -> None:
        """One more to a stream, with the next number, past the script."""
        into = self._swift.shards[shard]
        into.seq += 1
        into.stream.append(work)
        self._swift.wrote.set()

    async def ordered(self) -> None:
        """Until something is in a stream that the truth does not have."""
        store = self.one
        while True:
            done = await self.truths[0].positions(store.epoch)
            if await self.swifts[0].read(store.epoch, done, 0):
                return
            await asyncio.sleep(0.005)


@dataclass(kw_only=True)
class RealPair(Pair):
    """On Redis and PostgreSQL."""

    redis: RedisServer
    dsn: str = ""
    skews: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def skew(self, number: int, seconds: float) -> None:
        self.skews[number] = seconds

    def _key(self, txn: str) -> str:
        swift = cast("RedisSwift", self.swifts[0])
        return swift._txn(self.one.epoch, txn)[1]

    async def raw(self, txn: str) -> dict[str, bytes]:
        async with self.redis.client() as client:
            found = await client.hgetall(self._key(txn))
        return {name.decode(): value for name, value in found.items()}

    async def put_raw(self, txn: str, raw: dict[str, bytes]) -> None:
        async with self.redis.client() as client:
            await client.delete(self._key(txn))
            await client.hset(self._key(txn), mapping=raw)

    async def swap(self, shard: int) -> None:
        keys = cast("RedisSwift", self.swifts[0]).keys
        stream = keys.of(shard, self.one.epoch, "s")
        async with self.redis.client() as client:
            *before, (early, _), (_, late) = await client.xrange(stream)
            await client.delete(stream)
            for name, each in [*before, (early, late)]:
                await client.xadd(stream, each, id=name)
            await client.hincrby(keys.shard(shard), "seq", -1)

    async def lose(self) -> None:
        async with self.redis.client() as client:
            await client.flushall()

    async def append(self, shard: int, work: bytes) -> None:
        keys = cast("RedisSwift", self.swifts[0]).keys
        async with self.redis.client() as client:
            seq = await client.hincrby(keys.shard(shard), "seq", 1)
            await client.xadd(keys.of(shard, self.one.epoch, "s"), {"w": work}, id=f"{seq}-0")

    async def entries(self) -> list[dict[str, Any]]:
        conn = await asyncpg.connect(self.dsn)
        try:
            return [json.loads(row[0]) for row in await conn.fetch(_ENTRIES)]
        finally:
            await conn.close()


class Way:
    """One broker's way to what all share: what a test puts in it is in this one alone."""

    def __init__(self, to: object) -> None:
        self.to = to

    def __getattr__(self, name: str) -> Any:
        return getattr(self.to, name)


P = TypeVar("P", bound=Pair)


@asynccontextmanager
async def memory_pair() -> AsyncGenerator[Pair]:
    """On engines in memory."""
    swift, truth = MemorySwift(SHARDS), MemoryTruth(SHARDS)
    ways = [cast("Swift", Way(swift)) for _ in range(2)]
    async with _started(Pair(ways, [cast("Truth", Way(truth)) for _ in ways])) as pair:
        yield pair


@asynccontextmanager
async def real_pair(
    redis: RedisServer, postgres: PostgresServer, *, url: str = ""
) -> AsyncGenerator[RealPair]:
    """On a database and keys of its own. url: how Redis is found, where that is not its own address."""
    name, fleet = f"pair_{next(_numbers)}", f"p{secrets.token_hex(4)}"
    conn = await asyncpg.connect(postgres.dsn)
    await conn.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await conn.close()
    dsn = postgres.dsn_of("postgres", name)
    skews = [0.0, 0.0]
    truths: list[Truth] = [
        await open_truth(Session(dsn=dsn), PgLog(), _clock(skews, number), shards=SHARDS)
        for number in range(2)
    ]
    swifts: list[Swift] = [RedisSwift.of(url or redis.url, fleet=fleet, shards=SHARDS) for _ in range(2)]
    async with _started(RealPair(swifts=swifts, truths=truths, redis=redis, dsn=dsn, skews=skews)) as pair:
        yield pair


def _clock(skews: list[float], number: int) -> SystemClock:
    return SystemClock(wall=lambda: time.time() + skews[number])


@asynccontextmanager
async def _started(pair: P) -> AsyncGenerator[P]:
    await pair.start()
    try:
        yield pair
    finally:
        await pair.close()
