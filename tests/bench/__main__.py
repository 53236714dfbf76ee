"""`python -m tests.bench [--json]`: cycles per second, latency and CPU against a floor of the same run.

See docs/explanation/performance.md for what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

import uvloop
from tests.bench import (
    calls,
    decide,
    quiet,  # noqa: F401  comes first
)
from tests.bench.cycle import Cycle
from tests.bench.measure import Load, Window
from tests.bench.report import Measured, failures, numbers, text
from tests.bench.world import Cores, Domain, Runner, running

STAGES = ("attest", "place", "decide", "reserve", "mint", "check", "deliver")


def options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object on stdout")
    add("--seconds", type=float, default=4.0, help="length of a window (default 4)")
    add(
        "--windows",
        type=int,
        default=3,
        help="windows at full load, each beside one of the floor (default 3)",
    )
    add("--lanes", type=int, default=32, help="cycles at once, three connections each (default 32)")
    add("--cycles", type=int, default=0, help="afterwards run this many cycles and watch memory")
    add(
        "--decisions",
        type=int,
        default=2000,
        help="policy decisions of each kind (default 2000)",
    )
    add("--calls", type=int, default=300, help="guarded and bare tool calls (default 300; 0: none)")
    add(
        "--tree",
        type=int,
        nargs=2,
        default=(calls.WIDE, calls.DEEP),
        metavar=("WIDE", "DEEP"),
        help="revoked",
    )
    add("--folder", type=Path, help="where the store is made (default: the system's temporary folder)")
    add("--profile", type=Path, help="cProfile the broker into this file; its numbers then mean little")
    return parser.parse_args(given)


async def bench(asked: argparse.Namespace, folder: Path) -> Measured:
    """The whole run. Starts and ends everything itself."""
    cores = Cores.here()
    if cores.generator is not None:
        os.sched_setaffinity(0, {cores.generator})
    async with AsyncExitStack() as stack:
        domain = Domain(folder)
        await domain.start()
        stack.push_async_callback(domain.stop)
        given = {**domain.settings(cores.broker), "profile": str(asked.profile) if asked.profile else None}
        runner = await stack.enter_async_context(running("broker", given))
        load = await stack.enter_async_context(Load(domain, runner, asked.lanes))
        await _warm(load, asked.seconds)
        answers = {verb: (status, body.decode()) for verb, (status, body) in load.caller.answers.items()}
        bare = {**domain.settings(cores.broker), "answers": answers}
        floor_runner = await stack.enter_async_context(running("floor", bare))
        floor_load = await stack.enter_async_context(Load(domain, floor_runner, asked.lanes))
        floor_load.pretend()
        await floor_load.closed(0.3)
        run = await _measure(asked, runner, load, floor_runner, floor_load, folder)
        run.notes += [cores.note] * bool(cores.note)
        await _watch_memory(asked.cycles, load, run)
        return run


async def _warm(load: Load, seconds: float) -> None:
    """Caches and code paths; then one cycle alone, whose answers are the floor's constants."""
    await load.intents(1)
    window = await load.closed(min(2.0, seconds))
    if window.failures:
        raise SystemExit(f"the first cycles failed, nothing is measured: {window.failures[0]}")
    alone = Cycle(load.lanes[0])
    for verb in ("open", "accept", "credential", "redeem", "close"):
        await load.caller.call(verb, alone)


async def _measure(
    asked: argparse.Namespace,
    runner: Runner,
    load: Load,
    floor_runner: Runner,
    floor_load: Load,
    folder: Path,
) -> Measured:
    """Windows of broker and floor in turn, so that what else the machine does touches both alike."""
    full: list[Window] = []
    floor: list[Window] = []
    crypto: list[dict[str, float]] = []
    size, guess = _store_bytes(folder), 1500.0
    for _ in range(asked.windows):
        await _prepare(load, guess * asked.seconds)
        full.append(await load.closed(asked.seconds))
        guess = full[-1].per_second * 1.1
        floor_load.caller.proofs.sign_ahead(int(6_000 * asked.seconds / 2))
        floor.append(await floor_load.closed(asked.seconds / 2))
        crypto.append(await floor_runner.ask("crypto"))
    grown = (_store_bytes(folder) - size) / max(1, sum(each.cycles for each in full))
    await _prepare(load, guess * asked.seconds / 2)
    verbs = await load.verb_by_verb(max(asked.lanes, int(guess * asked.seconds / 2)))
    rate = median(each.per_second for each in full) / 2
    await _prepare(load, rate * asked.seconds * 2.2)
    before = await _stages(runner)
    half = await load.paced(rate, asked.seconds * 2)
    after = await _stages(runner)
    floor_load.caller.proofs.sign_ahead(int(rate * asked.seconds * 1.2))
    floor_half = await floor_load.paced(rate, asked.seconds)
    return Measured(
        lanes=asked.lanes,
        full=full,
        floor=floor,
        half=half,
        floor_half=floor_half,
        verbs=verbs,
        crypto={name: round(median(each[name] for each in crypto), 2) for name in ("sign", "verify")},
        stages={name: _mean_us(before[name], after[name]) for name in STAGES},
        fsync_us=_fsync_us(folder),
        bytes_per_cycle=grown,
    )


async def _prepare(load: Load, cycles: float) -> None:
    """Proofs and intents for about so many cycles, made outside the window."""
    load.caller.proofs.sign_ahead(int(cycles))
    await load.intents(int(cycles / len(load.lanes) * 1.5) + 1)


async def _watch_memory(cycles: int, load: Load, run: Measured) -> None:
    """The long run, in pieces short enough for proofs to be signed ahead."""
    done, piece = 0, max(1, min(10_000, cycles // 10))
    while done < cycles:
        await _prepare(load, piece)
        window = await load.closed(600.0, most=min(piece, cycles - done))
        done += window.cycles
        run.long_run.append((done, window.rss))
        print(
            f"{done:>9,} cycles  {window.rss / 2**20:7.1f} MiB  {window.per_second:6.0f}/s", file=sys.stderr
        )
        if window.failures:
            run.long_failures += window.failures
            return


# --- what the broker and the disk say


async def _stages(runner: Runner) -> dict[str, tuple[float, float]]:
    """Sum (seconds) and count of each stage, from the broker's own metrics."""
    url = f"{runner.ops}/metrics"
    raw = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    found: dict[str, float] = {}
    for line in raw.splitlines():
        if line.startswith("stepwrit_stage_seconds_"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    sums = {
        part: {stage: found.get(f'stepwrit_stage_seconds_{part}{{stage="{stage}"}}', 0.0) for stage in STAGES}
        for part in ("sum", "count")
    }
    return {stage: (sums["sum"][stage], sums["count"][stage]) for stage in STAGES}


def _mean_us(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[0] - before[0]) / max(1.0, after[1] - before[1]) * 1e6


def _store_bytes(folder: Path) -> int:
    return sum(each.stat().st_size for each in (folder / "store").glob("stepwrit.db"))


def _fsync_us(folder: Path, tries: int = 50) -> float:
    """What a small durable write costs on the store's disk; the median."""
    took: list[float] = []
    sync = getattr(os, "fdatasync", os.fsync)
    with (folder / "probe").open("wb", buffering=0) as probe:
        for _ in range(tries):
            probe.write(b"x" * 4096)
            began = time.perf_counter()
            sync(probe.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1e6


def main(given: list[str] | None = None) -> int:
    """Run, print, and tell by the exit code whether every cycle succeeded (never whether it was fast)."""
    asked = options(sys.argv[1:] if given is None else given)
    calls.hush()
    with tempfile.TemporaryDirectory(prefix="sw-", dir=asked.folder) as folder:
        run = uvloop.run(bench(asked, Path(folder)))
    rows = asyncio.run(decide.bench(asked.decisions, decide.STATEMENTS))
    failed = failures(run)
    run.notes += [f"failed: {failure}" for failure in sorted(set(failed))[:3]]
    told = {**numbers(run), "decisions": [asdict(row) for row in rows]}
    tables = [text(run), decide.table(rows)]
    if asked.calls:
        with tempfile.TemporaryDirectory(prefix="sw-", dir=asked.folder) as folder:
            called, ended = uvloop.run(calls.bench(asked.calls, *asked.tree, Path(folder)))
        told |= {"call": asdict(called), "cascade": asdict(ended)}
        tables.append(calls.text(called, ended))
    print(json.dumps(told) if asked.json else "\n\n".join(tables))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
