"""How long a "no" takes until it is heard: one line of JSON.

    python -m tests.bench.revocations [--fleet] [--lanes N] [ROUNDS]

answered_ms: from asking the broker to revoke until it has answered. heard_ms: until a follower of the feed
has it. cut_ms: until a guard has cut the stream. All from the moment of asking, on one machine.

--fleet: two brokers on a real Redis and PostgreSQL. One is asked; callers, follower and guard are at the
other. refused: how many credentials the other refused that were shown to it as soon as the first had
answered; it must be all. applied_ms: from asking one to apply limits until it has answered. decided_ms: from
that answer until the other has opened a step under them. lanes: callers of the other that redeem one
credential after another meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.bench.calls import hush
from tests.fakes.feed import Door, client, events
from tests.fakes.stage import Reply, Stage
from tests.rigs.engines import Fleet, fleet

from stepwrit.client import Broker
from stepwrit.wire_feed import FeedMark, target_digest

Mark = Callable[[str], Coroutine[Any, Any, Reply]]
Took = defaultdict[str, list[float]]


async def embedded(rounds: int) -> dict[str, Any]:
    """One broker, asked and followed."""
    took = Took(list)
    async with Stage() as stage, client(stage) as broker, aclosing(events(broker)) as told:
        await anext(told)
        for _ in range(rounds):
            await _round(stage, broker, told, took, lambda target: stage.mark("revoke", target))
    return {name: _told(seconds) for name, seconds in took.items()}


async def of_fleet(rounds: int, lanes: int) -> dict[str, Any]:
    """One broker is asked, the other followed."""
    took, refused = Took(list), 0
    with tempfile.TemporaryDirectory() as folder:
        async with fleet(Path(folder)) as two:
            stage = two.stage
            await two.to(two.two)
            async with client(stage) as broker, aclosing(events(broker)) as told, _busy(stage, lanes):
                await anext(told)
                for _ in range(rounds):
                    await _round(stage, broker, told, took, lambda target: _at_one(two, target))
                    refused += await _refused(two, took)
                await _apply(two, rounds, took)
    return {"refused": refused, **{name: _told(seconds) for name, seconds in took.items()}}


async def _round(stage: Stage, broker: Broker, told: Any, took: Took, mark: Mark) -> None:
    """One revocation, and a stream that it cuts."""
    held, door = await stage.held(), Door(broker)
    asking = asyncio.create_task(door.ask(held))
    await door.app.streaming.wait()
    await asyncio.sleep(0.7)  # the guard listens after half a second
    target = f"txn:{held.txn}"
    began = time.perf_counter()
    marking = asyncio.create_task(mark(target))
    for task, name in ((marking, "answered_ms"), (asking, "cut_ms")):
        task.add_done_callback(
            lambda _, name=name, began=began: took[name].append(time.perf_counter() - began)
        )
    async for each in told:
        if isinstance(each, FeedMark) and each.digest == target_digest(target):
            took["heard_ms"].append(time.perf_counter() - began)
            break
    await asyncio.gather(asking, marking)


async def _refused(two: Fleet, took: Took) -> bool:
    """One more, and whether the other broker refuses as soon as the first has answered."""
    held = await two.stage.held()
    began = time.perf_counter()
    await _at_one(two, f"txn:{held.txn}")
    took["answered_ms"].append(time.perf_counter() - began)
    return (await held.redeem()).code == "revoked"


async def _at_one(two: Fleet, target: str) -> Reply:
    with two.at(two.one):
        return await two.stage.mark("revoke", target)


async def _apply(two: Fleet, rounds: int, took: Took) -> None:
    """Limits of one broker, and the next step at the other."""
    stage = two.stage
    text = (stage.folder / "limits.yaml").read_text()
    for number in range(rounds):
        began = time.perf_counter()
        with two.at(two.one):
            (await stage.apply("limits", f"{text}\n# {number}\n")).ok()
        answered = time.perf_counter()
        took["applied_ms"].append(answered - began)
        await stage.opened()
        took["decided_ms"].append(time.perf_counter() - answered)


@asynccontextmanager
async def _busy(stage: Stage, lanes: int) -> AsyncGenerator[None]:
    """Callers that do not stop."""

    async def redeem() -> None:
        while True:
            (await (await stage.held()).redeem()).ok()

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(redeem()) for _ in range(lanes)]
        yield
        for each in callers:
            each.cancel()


def _told(seconds: list[float]) -> dict[str, float]:
    each = sorted(1000 * one for one in seconds)
    return {
        "p50": round(statistics.median(each), 1),
        "p99": round(each[min(len(each) - 1, int(0.99 * len(each)))], 1),
        "max": round(each[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.revocations", description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=30)
    parser.add_argument("--fleet", action="store_true")
    parser.add_argument("--lanes", type=int, default=0)
    given = parser.parse_args()
    hush()
    run = of_fleet(given.rounds, given.lanes) if given.fleet else embedded(given.rounds)
    print(json.dumps(asyncio.run(run)))


if __name__ == "__main__":
    main()
