"""What the true engine costs on this machine: works and words per second, and its CPU for each.

    python -m tests.fleet.measure_postgres

Works are as a redeem makes them: a new transaction, three rows, a use, an operation, an entry. The log is the
small one of the tests; what hashing adds is the log's to measure.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import asyncpg
import msgspec
from tests.contracts.truth_suite import NOW, SHARDS, grant, new, step
from tests.fakes.fleet_log import SmallLog
from tests.rigs.postgres import PostgresServer, postgres_server

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.seams import Change, Numbered, OpDone, Row, Said, Used, Work

SECONDS = 4.0
BODY = "x" * 900


def one(at: int, epoch: str) -> Work:
    name = f"txn_1{at:029d}"
    wide = msgspec.msgpack.encode(
        (f"stp_{at}", name, None, 0, "accepted", 0, None, 0.0, 0.0, 0.0, 0, 0.0, NOW, BODY, "")
    )
    rows = (Row(f"steps:stp_1{at:029d}", 2, wide), grant(f"grt_1{at:029d}", epoch, state="redeemed"))
    return Work(
        at=NOW,
        changes=(new(name, *rows),),
        entries=(Said(os.urandom(700), NOW, "grant.redeemed", name, f"REF{at:07d}", "t"),),
        uses=(f"grt_1{at:029d}",),
        ops=(OpDone(os.urandom(16), "d" * 43, f"stp_1{at:029d}", NOW),),
        proofs=(Used(os.urandom(16), NOW + 60),),
    )


async def works(truth: PostgresTruth, server: PostgresServer, size: int, start: int) -> int:
    epoch = (await truth.standing()).epoch
    at, done, shards = start, 0, dict(await truth.positions(epoch))
    began, cpu, own = time.perf_counter(), server.cpu_s(), time.process_time()
    spent = 0.0
    while time.perf_counter() - began < SECONDS:
        made = time.process_time()
        batch = []
        for _ in range(size):
            at += 1
            shard = at % SHARDS
            shards[shard] += 1
            work = one(at, epoch)
            batch.append((Numbered(shard, shards[shard], encode(work)), work))
        spent += time.process_time() - made
        await truth.commit(epoch, batch)
        done += size
    took = time.perf_counter() - began
    ours = (time.process_time() - own - spent) / done * 1e6
    theirs = (server.cpu_s() - cpu) / done * 1e6
    _tell(f"batches of {size:4d}: {done / took:8.0f} works/s, {took / done * size * 1e3:7.2f} ms per batch, "
          f"CPU per work: PostgreSQL {theirs:6.0f} us, broker {ours:6.0f} us")  # fmt: skip
    return at


async def moves(truth: PostgresTruth, server: PostgresServer, size: int, upto: int) -> None:
    """A second write to transactions that are there: a step moves, nothing new is used."""
    epoch = (await truth.standing()).epoch
    shards, at, done = dict(await truth.positions(epoch)), 0, 0
    began, cpu = time.perf_counter(), server.cpu_s()
    while time.perf_counter() - began < SECONDS and at + size < upto:
        batch = []
        for _ in range(size):
            at += 1
            name = f"txn_1{at:029d}"
            put = (step(f"stp_1{at:029d}", name, due=NOW + at),)
            work = Work(at=NOW, changes=(Change(txn=name, version=1, put=put),))
            shards[at % SHARDS] += 1
            batch.append((Numbered(at % SHARDS, shards[at % SHARDS], encode(work)), work))
        await truth.commit(epoch, batch)
        done += size
    took = time.perf_counter() - began
    _tell(f"moves in batches of {size}: {done / took:8.0f} works/s, "
          f"CPU per work: PostgreSQL {(server.cpu_s() - cpu) / done * 1e6:.0f} us")  # fmt: skip


async def words(truth: PostgresTruth, server: PostgresServer, callers: int) -> None:
    done, began, cpu = 0, time.perf_counter(), server.cpu_s()

    async def speak() -> None:
        nonlocal done
        while time.perf_counter() - began < SECONDS:
            await truth.say([Said(os.urandom(400), NOW, "refused", None, "REF", "t")], [], [])
            done += 1

    await asyncio.gather(*(speak() for _ in range(callers)))
    _tell(f"said by {callers:3d} at once: {done / (time.perf_counter() - began):8.0f} per s, "
          f"CPU: PostgreSQL {(server.cpu_s() - cpu) / done * 1e6:6.0f} us")  # fmt: skip


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main() -> None:
    async with postgres_server(max_wal_size="1GB", shared_buffers="128MB") as server:
        truth = await open_truth(Session(dsn=server.dsn), SmallLog(), SystemClock(), shards=SHARDS)
        at = 0
        for size in (1, 8, 64, 512):
            at = await works(truth, server, size, at)
        await moves(truth, server, 64, at)
        for callers in (1, 64):
            await words(truth, server, callers)
        facts = await truth.facts()
        _tell(f"server {facts.version}, fsync {facts.fsync}, {facts.wal_sync_method}; {at} transactions")
        conn = await asyncpg.connect(server.dsn)
        for name, size, rows in await conn.fetch(
            "SELECT relname, pg_total_relation_size(relid), n_live_tup FROM pg_stat_user_tables"
            " ORDER BY 2 DESC LIMIT 8"
        ):
            _tell(f"  {name}: {size / 1e6:.1f} MB, {rows} rows, {size / max(rows, 1):.0f} bytes per row")
        await conn.close()
        await truth.close()


if __name__ == "__main__":
    asyncio.run(main())
