"""Redis and PostgreSQL as a fleet left them, for what is put into them without a broker."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.fleet_rig import SHARDS, Reading, Site, cpu_s, site
from tests.bench.fleet_works import Copies, caught
from tests.rigs.postgres import PostgresServer

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.redis.engine import RedisSwift
from stepwrit_broker.store.fleet.seams import Work


@dataclass
class Engines:
    """Both, in an epoch in which nobody else works. copies: makes works like those of real cycles."""

    where: Site
    swift: RedisSwift
    truth: PostgresTruth
    copies: Copies
    epoch: str = ""
    rules: int = 0
    reached: dict[int, int] = field(default_factory=dict)

    async def anew(self) -> None:
        """An epoch of its own on an empty Redis."""
        async with self.where.redis.client() as client:
            await client.flushall()
        over = await self.truth.standing()
        standing = await self.truth.next_epoch(over.epoch, os.urandom(16).hex())
        await self.swift.begin(standing.epoch, standing.order)
        self.epoch, self.rules, self.reached = standing.epoch, standing.rules, {}

    async def commit(self, shard: int, work: Work, raw: bytes) -> None:
        """One script, as a broker runs it."""
        seq = await self.swift.commit(self.epoch, shard, work.changes, raw, now=time.time(), rules=self.rules)
        self.reached[shard] = max(seq, self.reached.get(shard, 0))

    async def trim(self) -> None:
        """Forget the streams, as if the truth had them."""
        await self.swift.trim(self.epoch, self.reached)

    async def memory(self) -> int:
        """Redis' used_memory, bytes."""
        return (await self.read()).redis_memory

    async def read(self) -> Reading:
        """What both have used so far."""
        return await self.where.read()

    def redis_cpu_s(self) -> float:
        """User and system seconds of Redis."""
        return sum(cpu_s(self.where.redis.process.pid))


@asynccontextmanager
async def engines(folder: Path, postgres: PostgresServer) -> AsyncIterator[Engines]:
    """A broker makes a template and ends; what follows has both engines for itself."""
    async with site(folder, postgres) as where:
        await where.grow(1)
        copies = Copies(await caught(where))
        await where.members[0].process.end()
        swift = RedisSwift.of(where.redis.url, fleet="stepwrit", shards=SHARDS, timeout_s=30.0)
        truth = await open_truth(Session(dsn=postgres.dsn), PgLog(), SystemClock(), shards=SHARDS)
        try:
            yield Engines(where, swift, truth, copies)
        finally:
            await swift.close()
            await truth.close()
