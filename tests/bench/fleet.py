"""`python -m tests.bench.fleet [--json]` (`make bench FLEET=1`): what a cycle costs in a fleet, by process.

One, two and four `stepwrit broker` processes on a real Redis and a real PostgreSQL; the embedded bench's
cycle and callers over mutual TLS, each caller at one broker. Nothing is pinned to a core: with more processes
than cores the cycles per second show how they contend, the CPU per cycle is what carries over.
See docs/explanation/scaling.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from tests.bench import quiet  # noqa: F401  comes first
from tests.bench.calls import hush
from tests.bench.cycle import VERBS, Cycle
from tests.bench.fleet_report import Floor, Measured, Sample, Stage, failures, numbers, text
from tests.bench.fleet_rig import Member, Site, site, truth
from tests.bench.measure import Load, Window
from tests.bench.world import running
from tests.rigs.postgres import PostgresServer

SETTLE_S = 1.5  # until the streams are trimmed and what waited is told
IDLE_S = 3.0
GUESS = 400.0  # cycles a second, before anything is measured


def options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object on stdout")
    add("--seconds", type=float, default=4.0, help="length of a window (default 4)")
    add("--windows", type=int, default=3, help="windows at full load for each size (default 3)")
    add("--lanes", type=int, default=32, help="cycles at once, over all brokers (default 32)")
    add("--brokers", type=int, nargs="+", default=[1, 2, 4], help="sizes, rising (default 1 2 4)")
    add(
        "--young",
        action="store_true",
        help="an epoch's first quarter of an hour: PostgreSQL knows the proofs",
    )
    add("--folder", type=Path, help="where Redis writes (default: the system's temporary folder)")
    add(
        "--profile",
        type=Path,
        help="where each broker spends its CPU, into FILE.b1, FILE.b2 … (tests.bench.profiled)",
    )
    return parser.parse_args(given)


class Crowd:
    """Callers spread over some of the brokers."""

    def __init__(self, where: Site, loads: Sequence[Load]) -> None:
        self._site, self._loads = where, loads
        self._guess = GUESS

    async def prepare(self, cycles: float) -> None:
        """Proofs and intents for about so many cycles, made outside the window."""
        for load in self._loads:
            share = int(cycles / len(self._loads)) + 1
            load.caller.proofs.sign_ahead(share)
            await load.intents(int(share / len(load.lanes) * 2) + 1)

    async def full(self, seconds: float) -> Sample:
        """As much as goes."""
        await self.prepare(self._guess * seconds)
        sample = await self._sampled(lambda: self._all([load.closed(seconds) for load in self._loads]))
        self._guess = sample.per_second * 1.2
        return sample

    async def paced(self, rate: float, seconds: float) -> Sample:
        """Cycles arrive by chance at this rate, spread over the brokers."""
        await self.prepare(rate * seconds * 1.2)
        share = rate / len(self._loads)
        work = [load.paced(share, seconds, seed) for seed, load in enumerate(self._loads)]
        return await self._sampled(lambda: self._all(work))

    async def verbs(self, seconds: float) -> dict[str, Window]:
        """What each verb costs the broker that is asked; on the first of them alone."""
        cycles = max(len(self._loads[0].lanes), int(self._guess * seconds / 2))
        await self.prepare(cycles * len(self._loads))
        return await self._loads[0].verb_by_verb(cycles)

    async def _all(self, work: Sequence[Awaitable[Window]]) -> list[Window]:
        return list(await asyncio.gather(*work))

    async def _sampled(self, work: Callable[[], Awaitable[list[Window]]]) -> Sample:
        return await sampled(self._site, work)


async def sampled(where: Site, work: Callable[[], Awaitable[list[Window]]]) -> Sample:
    """Do the work, and say what every process used meanwhile; sizes are read once all is settled."""
    before = await where.read()
    brokers = await _usage(where.members)
    began, own = time.perf_counter(), time.process_time()
    windows = await work()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    after = await where.read()
    used = [now - then for now, then in zip(await _usage(where.members), brokers, strict=True)]
    await asyncio.sleep(SETTLE_S)
    settled = await where.read()
    return Sample(
        seconds=seconds,
        windows=windows,
        brokers=used,
        driver=own,
        before=before,
        after=after,
        settled=settled,
    )


async def _usage(members: Sequence[Member]) -> list[float]:
    each = [await member.ask("usage") for member in members]
    return [said["user"] + said["system"] for said in each]


async def bench(asked: argparse.Namespace, folder: Path, postgres: PostgresServer) -> Measured:
    """The whole run. Starts and ends everything itself."""
    stages: list[Stage] = []
    async with site(folder, postgres, asked.profile, is_young=asked.young) as where:
        await where.grow(1)
        floor = await _floor(asked, where)
        for count in asked.brokers:
            await where.grow(count)
            stages.append(await _stage(asked, where, is_first=not stages))
    return Measured(lanes=asked.lanes, floor=floor, stages=stages)


async def _stage(asked: argparse.Namespace, where: Site, *, is_first: bool) -> Stage:
    async with AsyncExitStack() as stack:
        crowd = await _crowd(stack, where, where.members, asked.lanes)
        await crowd.full(min(2.0, asked.seconds))  # caches and code paths
        idle = await sampled(where, _nothing)
        full = [await crowd.full(asked.seconds) for _ in range(asked.windows)]
        rate = sorted(each.per_second for each in full)[len(full) // 2] / 2
        half = await crowd.paced(rate, asked.seconds * 2)
        verbs = await crowd.verbs(asked.seconds) if is_first else {}
    apart, leader = await _apart(asked, where)
    return Stage(
        brokers=len(where.members), idle=idle, full=full, half=half, verbs=verbs, apart=apart, leader=leader
    )


async def _nothing() -> list[Window]:
    await asyncio.sleep(IDLE_S)
    return []


async def _crowd(stack: AsyncExitStack, where: Site, members: Sequence[Member], lanes: int) -> Crowd:
    each = max(1, lanes // len(members))
    loads = [await stack.enter_async_context(Load(where.domain, member, each)) for member in members]
    return Crowd(where, loads)


async def _apart(asked: argparse.Namespace, where: Site) -> tuple[Sample | None, int]:
    """With two brokers, one that carries the streams and nothing else: the sequencer's own cost."""
    if len(where.members) != 2:
        return None, 0
    leads = [await member.leads() for member in where.members]
    others = [member for member, leader in zip(where.members, leads, strict=True) if not leader]
    async with AsyncExitStack() as stack:
        crowd = await _crowd(stack, where, others[:1], asked.lanes)
        return await crowd.full(asked.seconds), leads.index(True) if any(leads) else 0


async def _floor(asked: argparse.Namespace, where: Site) -> Floor:
    """Constants over the same TLS, and the signatures; what one broker process needs at the very least."""
    async with AsyncExitStack() as stack:
        load = await stack.enter_async_context(Load(where.domain, where.members[0], 1))
        await load.intents(1)
        alone = Cycle(load.lanes[0])
        for verb in VERBS:
            await load.caller.call(verb, alone)
        answers = {verb: (status, body.decode()) for verb, (status, body) in load.caller.answers.items()}
        runner = await stack.enter_async_context(
            running("floor", {**where.domain.settings(None), "answers": answers})
        )
        bare = await stack.enter_async_context(Load(where.domain, runner, asked.lanes))
        bare.pretend()
        await bare.closed(0.3)
        bare.caller.proofs.sign_ahead(int(6_000 * asked.seconds / 2))
        return Floor(window=await bare.closed(asked.seconds / 2), crypto=await runner.ask("crypto"))


def main(given: list[str] | None = None) -> int:
    """Run, print, and tell by the exit code whether every cycle succeeded (never whether it was fast)."""
    asked = options(sys.argv[1:] if given is None else given)
    hush()
    with truth() as postgres, tempfile.TemporaryDirectory(prefix="sw-", dir=asked.folder) as folder:
        run = uvloop.run(bench(asked, Path(folder), postgres))
    print(json.dumps(numbers(run)) if asked.json else text(run))
    for failure in sorted(set(failures(run)))[:3]:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures(run) else 0


if __name__ == "__main__":
    sys.exit(main())
