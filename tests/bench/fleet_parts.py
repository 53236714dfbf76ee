"""`python -m tests.bench.fleet_parts [PART…]`: what one of each can carry, and what it has to hold.

    scripts    Redis: CPU of each script, on works as real cycles make them
    memory     Redis: bytes of transactions, live grants, closed steps, proofs and places, as they grow
    truth      PostgreSQL with the log: works in batches of 1 to 1024; CPU, WAL and growth
    sequencer  streams that are full, carried by the real sequencer

On real servers. docs/explanation/scaling.md says what follows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import uvloop
from tests.bench import quiet  # noqa: F401  comes first
from tests.bench.calls import hush
from tests.bench.cycle import VERBS
from tests.bench.fleet_carrying import in_batches, sequencer
from tests.bench.fleet_engines import Engines, engines
from tests.bench.fleet_rig import truth
from tests.bench.fleet_works import Lane
from tests.rigs.postgres import PostgresServer

from stepwrit_broker.core.slices import Ask
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.seams import Once, Place, Work

AT_ONCE: Final = 64
PER_TXN: Final = 5  # live grants of one transaction, in `memory`
Call = Callable[[], Awaitable[object]]


async def all_of(calls: Iterable[Call]) -> int:
    """Make them, so many at once; how many they were."""
    left, made = iter(calls), 0

    async def worker() -> None:
        nonlocal made
        for call in left:
            made += 1
            await call()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return made


async def timed(on: Engines, name: str, calls: Iterable[Call]) -> None:
    """Print what each of these cost Redis and this process."""
    ready = list(calls)
    before, own, began = await on.read(), time.process_time(), time.perf_counter()
    made = await all_of(ready)
    took, own, after = time.perf_counter() - began, time.process_time() - own, await on.read()
    used = (after.redis_cpu - before.redis_cpu) / made * 1e6
    aof = (after.redis_aof - before.redis_aof) / made
    print(
        f"{name:26} {made / took:8,.0f}/s; Redis {used:5.1f} us of CPU, {aof:6,.0f} bytes of AOF;"
        f" this process {own / made * 1e6:5.1f} us"
    )


def commits(on: Engines, works: Iterable[tuple[Lane, Work]]) -> Iterator[Call]:
    """One script each."""
    for lane, work in works:
        raw = encode(work)
        yield lambda lane=lane, work=work, raw=raw: on.commit(lane.shard, work, raw)  # type: ignore[misc]


async def scripts(on: Engines, count: int) -> None:
    """Each script by itself, from 64 callers of one process over one connection."""
    lanes = [on.copies.lane() for _ in range(count)]
    await timed(on, "commit of an intent", commits(on, [(lane, lane.root()) for lane in lanes]))
    steps = [(lane, lane.step()) for lane in lanes]
    for at, verb in enumerate(VERBS):
        ready = [(lane, lane.work(step, at)) for lane, step in steps]
        await timed(on, f"commit of {verb}", commits(on, ready))
        await on.trim()
    swift, epoch, now = on.swift, on.epoch, time.time()
    for name, known in (("fetch, nothing new", lanes[0].version), ("fetch, all of one step", 0)):
        await timed(on, name, [lambda n=lane.txn, k=known: swift.fetch(epoch, n, k) for lane in lanes])  # type: ignore[misc]
    for name, claims in (("a proof, once", proofs(count, now)), ("a place", places(count, now))):
        await timed(on, name, [lambda c=each: swift.claim(epoch, [c], now) for each in claims])  # type: ignore[misc]
    ask = Ask(interval=1e-6, burst=1_000_000, wanted=1, life=0.0, since=0.0, now=now)
    await timed(on, "cells of a rate limit", [lambda: swift.lease(epoch, "rate\x1fa", ask)] * count)


def proofs(count: int, now: float) -> list[Once]:
    """As a broker claims them."""
    return [
        Once(os.urandom(16), f"{os.urandom(16).hex()}.{os.urandom(8).hex()}", now + 120 + at / count)
        for at in range(count)
    ]


def places(count: int, now: float) -> list[Place]:
    """As a broker claims them: `count` grants of a hundred workloads."""
    key = "outstanding-per-workload\x1fspiffe://bench.test/mcp-server/ledger-{}"
    return [Place(key.format(at % 100), f"grt_100{at:026d}", 10**9, now + 900) for at in range(count)]


async def memory(on: Engines, count: int) -> None:
    """So many live grants; then all of them redeemed and closed; then as many proofs and places."""
    lanes = [on.copies.lane() for _ in range(max(4, count // PER_TXN))]
    await grown(on, "an intent", lanes, lambda lane: [lane.root()])
    steps = {lane: [lane.step() for _ in range(PER_TXN)] for lane in lanes}
    for name, some in (("a live grant, the first", slice(0, 1)), ("a live grant, 4 more", slice(1, None))):
        await grown(on, name, lanes, lambda lane, of=some: worked(lane, steps[lane][of], (0, 1, 2)))  # type: ignore[misc]
    await grown(on, "its redeem and close", lanes, lambda lane: worked(lane, steps[lane], (3, 4)))
    now = time.time()
    for name, claims in (("a proof", proofs(count, now)), ("a place", places(count, now))):
        before = await on.memory()
        await all_of([lambda c=each: on.swift.claim(on.epoch, [c], now) for each in claims])  # type: ignore[misc]
        print(f"{name:26} {count:8,}: {(await on.memory() - before) / count:7,.0f} bytes each")


def worked(lane: Lane, steps: Iterable[dict[str, str]], verbs: Iterable[int]) -> list[Work]:
    """These calls on these steps, in order."""
    return [lane.work(step, verb) for step in steps for verb in verbs]


async def grown(on: Engines, name: str, lanes: list[Lane], works: Callable[[Lane], list[Work]]) -> None:
    """Print how much memory each lane took, by quarters of the lanes, so that a bend would show."""
    at, sizes = await on.memory(), list[float]()
    for quarter in range(4):
        some = lanes[quarter * len(lanes) // 4 : (quarter + 1) * len(lanes) // 4]
        made = [works(lane) for lane in some]
        for rank in zip(*made, strict=True):
            await all_of(commits(on, zip(some, rank, strict=True)))
            await on.trim()
        now = await on.memory()
        sizes.append((now - at) / len(some))
        at = now
    said = ", ".join(f"{size:,.0f}" for size in sizes)
    print(
        f"{name:26} {len(lanes):8,} transactions, bytes for each, by quarters: {said}; all {at / 1e6:,.0f} MB"
    )


PARTS = {"scripts": scripts, "memory": memory, "truth": in_batches, "sequencer": sequencer}
COUNTS = {"scripts": 10_000, "memory": 100_000, "truth": 4_000, "sequencer": 20_000}


async def run(asked: argparse.Namespace, folder: Path, postgres: PostgresServer) -> None:
    """The parts that are asked for, each in an epoch of its own."""
    async with engines(folder, postgres) as on:
        for part in asked.parts or PARTS:
            print(f"\n{part}")
            await on.anew()
            await PARTS[part](on, asked.count or COUNTS[part])


def main(given: list[str] | None = None) -> int:
    """Prints as it goes."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.fleet_parts", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--count", type=int, default=0, help="how many, instead of the part's own number")
    asked = parser.parse_args(sys.argv[1:] if given is None else given)
    hush()
    with truth() as postgres, tempfile.TemporaryDirectory(prefix="sw-") as folder:
        uvloop.run(run(asked, Path(folder), postgres))
    return 0


if __name__ == "__main__":
    sys.exit(main())
