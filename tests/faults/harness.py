"""A run: a topology under load, faults as scheduled, then quiet, then the checker's word."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.faults.brokers import BrokerUnderTest
from tests.faults.checker import check
from tests.faults.observed import Entry, Fault, FinalState, Run, SeenCheckpoint, Terms, write
from tests.faults.plan import Injection, Kinds, schedule
from tests.faults.process import REPO
from tests.faults.told import Finding
from tests.faults.wire import CutError, Ways
from tests.faults.world import AGENT, LIMITS, OPERATOR, PLACES, SERVER, TIMES, World

from stepwrit_broker.core.merkle import parse_checkpoint

PROCESSES = 2
DOUBLE = ("double_go_ahead", "double_effect", "double_entry", "double_action", "double_intent")
ROLES = (AGENT, SERVER, OPERATOR, *PLACES)


class Topology(Protocol):
    """What is run, hurt, healed and read."""

    brokers: dict[str, BrokerUnderTest]
    kinds: Kinds
    is_epoch_fresh: bool
    held_s: float

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


async def run(world: World, topology: Topology, asked: Asked) -> Outcome:
    """The whole of it; the topology is started and stopped here."""
    began = time.time()
    plan = schedule(asked.seed, asked.seconds, asked.kinds)
    for each in plan:
        asked.say(each.text)
    await topology.start()
    crowd = [await _start_callers(world, topology, asked, n) for n in range(min(PROCESSES, asked.callers))]
    seen: list[SeenCheckpoint] = []
    watch = asyncio.create_task(_watch(world, topology, seen))
    try:
        faults = await _hurt(topology, plan, asked)
        await _quiet(topology, crowd)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await asyncio.gather(*(_gone(each) for each in crowd))
    await topology.stop()
    entries, state = await topology.read()
    terms = Terms(limits=LIMITS, times=TIMES, is_epoch_fresh=topology.is_epoch_fresh, held_s=topology.held_s)
    found = _read(world.folder, [*faults, *seen, *entries, state, terms])
    return Outcome(run=found, plan=plan, findings=check(found), seconds=time.time() - began)


async def _start_callers(
    world: World, topology: Topology, asked: Asked, n: int
) -> asyncio.subprocess.Process:
    """One process of callers, once it has its identities."""
    share = asked.callers // PROCESSES + (n < asked.callers % PROCESSES)
    given = {
        "folder": str(world.folder), "name": f"c{n}", "callers": share, "operator": n == 0,
        "seed": asked.seed * 10 + n,
        "brokers": {name: broker.url for name, broker in topology.brokers.items()}, "oidc": world.issuer.url,
        "sockets": {path: world.socket(path) for path in ROLES}, "pause_s": asked.pause_s,
    }  # fmt: skip
    path = world.folder / f"c{n}.json"
    path.write_text(json.dumps(given))
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.faults.callers", str(path)]
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
        code = await asyncio.wait_for(each.wait(), 60.0)
        assert code == 0, "a process of callers failed; see above"
    end = time.monotonic() + topology.settle_s
    while time.monotonic() < end and await topology.live():
        await asyncio.sleep(0.5)


async def _gone(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _watch(world: World, topology: Topology, seen: list[SeenCheckpoint]) -> None:
    """Whatever checkpoint any broker shows, twice a second."""
    ways = Ways(OPERATOR, world.socket(OPERATOR), {name: each.url for name, each in topology.brokers.items()})
    await ways.start()
    raw = b"GET /tlog/checkpoint HTTP/1.1\r\nhost: broker\r\n\r\n"
    try:
        while True:
            for name in topology.brokers:
                with suppress(CutError):
                    status, note = await ways.ask(name, raw)
                    if status == 200:
                        seen.append(_checkpoint(name, note.decode()))
            await asyncio.sleep(0.5)
    finally:
        await ways.stop()


def _checkpoint(via: str, note: str) -> SeenCheckpoint:
    read = parse_checkpoint(note.partition("\n\n")[0] + "\n")
    return SeenCheckpoint(at=time.time(), via=via, origin=read.origin, size=read.size, root=read.root.hex())


def _read(folder: Path, parts: Sequence[object]) -> Run:
    """What all left behind. A line that a process did not finish is no line."""
    lines = [write(part) for part in parts]
    for path in (*sorted(folder.glob("*.exchanges")), *sorted(folder.glob("effects-*"))):
        lines += [line for line in path.read_text().split("\n")[:-1] if line]
    (folder / "run.jsonl").write_text("\n".join(lines) + "\n")
    return Run.read(lines)
