"""A run: a topology under load, faults as scheduled, then quiet, then the checker's word."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.faults.brokers import Served
from tests.faults.checker import check
from tests.faults.observed import Entry, Fault, FinalState, Run, SeenCheckpoint, Terms, write
from tests.faults.plan import Injection, Kinds, schedule
from tests.faults.process import REPO
from tests.faults.told import Finding
from tests.faults.watching import Look
from tests.faults.wire import CutError
from tests.faults.world import LIMITS, TIMES

PROCESSES = 2
DOUBLE = ("double_go_ahead", "double_effect", "double_entry", "double_action", "double_intent")
Callers = asyncio.subprocess.Process


class Topology(Protocol):
    """What is run, hurt, healed and read."""

    kinds: Kinds
    is_epoch_fresh: bool

    @property
    def brokers(self) -> Mapping[str, Served]:
        """By name."""
        ...

    def callers(self) -> tuple[str, dict[str, Any]]:
        """The module that calls, and what it has to know."""
        ...

    def watching(self) -> AbstractAsyncContextManager[Look]:
        """Looks at the checkpoints that all brokers show."""
        ...

    @property
    def settle_s(self) -> float:
        """After so long every credential must have ended."""
        ...

    async def start(self) -> None:
        """Run and be ready."""
        ...

    async def inject(self, fault: Injection) -> str:
        """Begin a fault; by what means."""
        ...

    async def heal(self, fault: Injection) -> None:
        """End it; everything that was killed runs again."""
        ...

    async def live(self) -> int:
        """How many credentials have not ended."""
        ...

    async def stop(self) -> None:
        """An orderly end of the brokers."""
        ...

    async def read(self) -> tuple[list[Entry], FinalState]:
        """What is stored, once the brokers have ended."""
        ...

    async def outside(self) -> list[SeenCheckpoint]:
        """What somebody else keeps of the log, once the brokers have ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to run. kinds: of faults; none: a control."""

    seed: int
    seconds: float
    callers: int
    kinds: Kinds
    pause_s: float = 0.3
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run and what is wrong with it."""

    run: Run
    plan: Sequence[Injection]
    findings: list[Finding]
    seconds: float

    def numbers(self, seed: int) -> dict[str, object]:
        """For `--json`."""
        redeems = [each for each in self.run.exchanges if each.verb == "redeem"]
        kinds = Counter(finding.kind for finding in self.findings)
        refused = Counter(e.code for e in self.run.exchanges if e.result == "refused")
        return {
            "faults": len(self.run.faults),
            "by_fault": dict(sorted(Counter(fault.kind for fault in self.run.faults).items())),
            "redemptions_tried": len({each.op for each in redeems}),
            "redeemed": len({each.grant for each in redeems if each.result == "ok"}),
            "effects": len(self.run.effects),
            "replays_refused": sum(each.code == "replay" for each in redeems),
            "double": sum(kinds[kind] for kind in DOUBLE),
            "unrecorded": kinds["unrecorded_effect"] + kinds["unrecorded_use"],
            "lost": kinds["lost"] + kinds["lost_mark"],
            "findings": dict(kinds),
            "exchanges": len(self.run.exchanges),
            "cut": sum(each.result == "cut" for each in self.run.exchanges),
            "refused": dict(refused.most_common()),
            "revocations": sum(e.verb == "revoke" and e.result == "ok" for e in self.run.exchanges),
            "entries": len(self.run.entries),
            "checkpoints": len(self.run.checkpoints),
            "seconds": round(self.seconds, 1),
            "seed": seed,
        }  # fmt: skip


async def run(folder: Path, topology: Topology, asked: Asked) -> Outcome:
    """The whole of it; the topology is started and stopped here."""
    began = time.time()
    plan = schedule(asked.seed, asked.seconds, asked.kinds)
    for each in plan:
        asked.say(each.text)
    await topology.start()
    crowd = [await _start_callers(folder, topology, asked, n) for n in range(min(PROCESSES, asked.callers))]
    seen: list[SeenCheckpoint] = []
    watch = asyncio.create_task(_watch(topology, seen))
    try:
        faults = await _hurt(topology, plan, asked)
        await _quiet(topology, crowd)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await asyncio.gather(*(_gone(each) for each in crowd))
        await topology.stop()
    entries, state = await topology.read()
    terms = Terms(
        limits=LIMITS, times=TIMES, is_epoch_fresh=topology.is_epoch_fresh, held_s=_apart(topology, plan)
    )
    found = _read(folder, [*faults, *seen, *await topology.outside(), *entries, state, terms])
    return Outcome(run=found, plan=plan, findings=check(found), seconds=time.time() - began)


async def _start_callers(folder: Path, topology: Topology, asked: Asked, n: int) -> Callers:
    """One process of callers, once it is ready."""
    share = asked.callers // PROCESSES + (n < asked.callers % PROCESSES)
    module, more = topology.callers()
    given = {
        "folder": str(folder), "name": f"c{n}", "callers": share, "operator": n == 0,
        "seed": asked.seed * 10 + n, "pause_s": asked.pause_s, **more,
    }  # fmt: skip
    path = folder / f"c{n}.json"
    path.write_text(json.dumps(given))
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", module, str(path)]
    process = await asyncio.create_subprocess_exec(*command, cwd=REPO, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n", "the callers did not start; see above"
    return process


async def _hurt(topology: Topology, plan: Sequence[Injection], asked: Asked) -> list[Fault]:
    """Every fault in its time; what was done, from when to when."""
    start = time.monotonic()

    async def one(fault: Injection) -> Fault:
        await asyncio.sleep(max(0.0, start + fault.at - time.monotonic()))
        began = time.time()
        how = await topology.inject(fault)
        await asyncio.sleep(fault.seconds)
        await topology.heal(fault)
        return Fault(kind=fault.kind, target=fault.target, began=began, ended=time.time(), how=how)

    done = list(await asyncio.gather(*(one(fault) for fault in plan)))
    await asyncio.sleep(max(0.0, start + asked.seconds - time.monotonic()))
    return done


async def _quiet(topology: Topology, crowd: Sequence[asyncio.subprocess.Process]) -> None:
    """Callers finish what they began; then all clocks and sweeps have their time."""
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write(b"stop\n")
        each.stdin.close()
    for each in crowd:
        code = await asyncio.wait_for(each.wait(), 240.0)
        assert code == 0, "a process of callers failed; see above"
    end = time.monotonic() + topology.settle_s
    while time.monotonic() < end and await topology.live():
        await asyncio.sleep(0.5)


async def _gone(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _watch(topology: Topology, seen: list[SeenCheckpoint]) -> None:
    """Whatever checkpoint any broker shows, twice a second."""
    async with topology.watching() as look:
        while True:
            for name in topology.brokers:
                with suppress(CutError):
                    found = await look(name)
                    if found is not None:
                        seen.append(found)
            await asyncio.sleep(0.5)


def _apart(topology: Topology, plan: Sequence[Injection]) -> float:
    """By how much two brokers' clocks differed at most: an observer may count so much more of a rate."""
    jumps = [0.0, *(each.amount for each in plan if each.kind == "clock_jump")]
    return max(jumps) - min(jumps) if len(topology.brokers) > 1 else 0.0


def _read(folder: Path, parts: Sequence[object]) -> Run:
    """What all left behind. A line that a process did not finish is no line."""
    lines = [write(part) for part in parts]
    for path in (*sorted(folder.glob("*.exchanges")), *sorted(folder.glob("effects-*"))):
        lines += [line for line in path.read_text().split("\n")[:-1] if line]
    (folder / "run.jsonl").write_text("\n".join(lines) + "\n")
    return Run.read(lines)
