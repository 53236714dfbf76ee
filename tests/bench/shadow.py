"""`python -m tests.bench.shadow`: what a shadow costs the broker per decision. Prints microseconds.

`enqueue`: what the live path pays, the wrapper round the engine included. `dropped`: the same with the queue
full. `broker`: all of the broker's CPU per decision of a shadow, in batches, comparing included. `candidate`:
the same decisions in the candidate's process, wall clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median

from tests.policy.world import Scene, opening

from stepwrit_broker.core.verdict import Permit, Question, Verdict
from stepwrit_broker.flows import shadow as module
from stepwrit_broker.flows.shadow import QUEUE_MAX, Shadow, Watched
from stepwrit_broker.observe import Metrics
from stepwrit_broker.policy.files import stance
from stepwrit_broker.wiring.candidates import Candidates

ROUNDS, FULL = 30, QUEUE_MAX
YES = Permit(policies=("p1",))
QUESTIONS = [opening(Scene(origin="model", impact="low", facts=(("n", at),))) for at in range(FULL)]


class Constant:
    """A live engine that costs nothing."""

    version = 1

    async def decide(self, question: Question) -> Verdict:
        return YES


async def timed(engine: Constant | Watched) -> float:
    """Microseconds per decision."""
    began = time.perf_counter()
    for question in QUESTIONS:
        await engine.decide(question)
    return (time.perf_counter() - began) / FULL * 1e6


async def measure() -> dict[str, float]:
    """All four, each the median of ROUNDS rounds of QUEUE_MAX decisions."""
    facts = json.dumps({"n": "Long"})
    candidate = await Candidates(Path("none.db"), None).open(
        json.dumps({**stance("approval"), "facts.json": facts})
    )
    bare, enqueued, dropped, broker, wall = [], [], [], [], []
    for _ in range(ROUNDS):
        shadow = Shadow(candidate, Metrics())
        watched = Watched(Constant(), shadow)
        bare.append(await timed(Constant()))
        enqueued.append(await timed(watched))
        dropped.append(await timed(watched))
        spent, began = time.process_time(), time.perf_counter()
        work = asyncio.create_task(shadow.run())
        while shadow.tally.compared < FULL:
            await asyncio.sleep(0.005)
        broker.append((time.process_time() - spent) / FULL * 1e6)
        wall.append((time.perf_counter() - began) / FULL * 1e6)
        work.cancel()
    await candidate.aclose()
    base = median(bare)
    return {
        "enqueue": median(enqueued) - base,
        "dropped": median(dropped) - base,
        "broker": median(broker),
        "candidate": median(wall),
    }


if __name__ == "__main__":
    module.GATHER_S = 0.001
    found = asyncio.run(measure())
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in found.items()}) + "\n")
