"""How much of what a fleet does one PostgreSQL and one sequencer can carry."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Final

from tests.bench.cycle import VERBS
from tests.bench.fleet_engines import Engines
from tests.bench.fleet_rig import Reading
from tests.bench.fleet_works import Lane

from stepwrit_broker.clock import SystemEntropy
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.sealed import Seal
from stepwrit_broker.store.fleet.seams import Numbered, Work
from stepwrit_broker.store.fleet.store import FleetStore

SIZES: Final = (1, 16, 64, 256, 1024)
AT_ONCE: Final = 2048  # transactions of which the streams hold a work each
STATISTICS_S: Final = 1.2  # until PostgreSQL shows how often a row was changed
PER_TXN: Final = 20  # steps of a transaction before the next begins
Batch = list[tuple[Numbered, Work]]


class Tally:
    """What was carried from when it was made until `stop`, per work and per cycle."""

    def __init__(self, on: Engines, before: Reading) -> None:
        self._on, self._before, self._after = on, before, before
        self._began, self._own = time.perf_counter(), time.process_time()
        self._took = 0.0

    async def stop(self, apart: float = 0.0) -> None:
        """apart: CPU seconds of this process, and as many of waiting, that a sequencer would not have."""
        self._took = time.perf_counter() - self._began - apart
        self._own = time.process_time() - self._own - apart
        self._after = await self._on.read()

    def tell(self, name: str, works: int, batches: int) -> None:
        """Print it."""
        cycles = works / len(VERBS)
        used = {name: getattr(self._after, name) - getattr(self._before, name) for name in Reading.__slots__}
        print(
            f"{name:14} {works / self._took:7,.0f} works/s = {cycles / self._took:6,.0f} cycles/s,"
            f" {self._took / max(1, batches) * 1e3:7.2f} ms a commit; us of CPU a cycle: PostgreSQL"
            f" {used['postgres_cpu'] / cycles * 1e6:6,.0f}, here {self._own / cycles * 1e6:6,.0f};"
            f" bytes a cycle: WAL {used['wal'] / cycles:7,.0f}, ledger {used['ledger'] / cycles:6,.0f},"
            f" other tables {used['tables'] / cycles:6,.0f}"
        )


async def in_batches(on: Engines, count: int) -> None:
    """Works of different transactions in each commit, as in a fleet: a caller waits for each of its calls."""
    at: dict[int, int] = {}
    for size in (each for each in SIZES if each <= max(64, count)):
        batches = rounds(on, size)
        await on.truth.commit(on.epoch, numbered(next(batches), at))
        tally, apart, done = Tally(on, await on.read()), 0.0, 0
        while done < min(max(count, size * 4), size * 300):
            began = time.process_time()
            batch = numbered(next(batches), at)
            apart += time.process_time() - began
            await on.truth.commit(on.epoch, batch)
            done += size
        await tally.stop(apart)
        tally.tell(f"batches of {size}", done, done // size)


def rounds(on: Engines, size: int) -> Iterator[list[tuple[Lane, Work]]]:
    """Batch after batch: intents, then the five calls of one step after another."""
    while True:
        lanes = [on.copies.lane() for _ in range(size)]
        yield [(lane, lane.root()) for lane in lanes]
        for _ in range(PER_TXN):
            steps = [(lane, lane.step()) for lane in lanes]
            for verb in range(len(VERBS)):
                yield [(lane, lane.work(step, verb)) for lane, step in steps]


def numbered(works: list[tuple[Lane, Work]], at: dict[int, int]) -> Batch:
    """Each in its place in its shard's stream."""
    made: Batch = []
    for lane, work in works:
        at[lane.shard] = at.get(lane.shard, 0) + 1
        made.append((Numbered(lane.shard, at[lane.shard], encode(work)), work))
    return made


async def sequencer(on: Engines, count: int) -> None:
    """Streams that hold so many works already: read, decoded, committed, told, trimmed."""
    at_once = min(AT_ONCE, count)
    batches = rounds(on, at_once)
    ready = [each for _ in range(count // at_once) for each in next(batches)]
    seal = Seal(await on.truth.secret(os.urandom(32)))
    for lane, work in ready:
        await on.commit(lane.shard, work, seal.work(on.epoch, lane.shard, encode(work)))
    store = FleetStore(on.swift, on.truth, Rates(on.swift), SystemEntropy(), me="bench", now=time.time)
    await store.start()
    tally, commits = Tally(on, await on.read()), (await on.read()).commits
    running = asyncio.ensure_future(store.sequencer.run())
    while store.sequencer.committed < len(ready):
        await asyncio.sleep(0.01)
    await tally.stop()
    running.cancel()
    await asyncio.sleep(STATISTICS_S)
    tally.tell("as fast as goes", len(ready), (await on.read()).commits - commits)
