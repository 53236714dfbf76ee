"""How long a "no" takes until it is heard: `python -m tests.bench.revocations [ROUNDS]`, one line of JSON.

answered_ms: from asking the broker to revoke until it has answered. heard_ms: until a follower of the feed
has it. cut_ms: until a guard has cut the stream. All from the moment of asking, on one machine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from contextlib import aclosing

from tests.fakes.feed import Door, client, events
from tests.fakes.stage import Stage

from stepwrit.wire_feed import FeedMark, target_digest


async def main(rounds: int) -> dict[str, dict[str, float]]:
    took: dict[str, list[float]] = {"answered_ms": [], "heard_ms": [], "cut_ms": []}
    async with Stage() as stage, client(stage) as broker, aclosing(events(broker)) as told:
        await anext(told)
        for _ in range(rounds):
            held, door = await stage.held(), Door(broker)
            asking = asyncio.create_task(door.ask(held))
            await door.app.streaming.wait()
            await asyncio.sleep(0.7)  # the guard listens after half a second
            target = f"txn:{held.txn}"
            began = time.perf_counter()
            marking = asyncio.create_task(stage.mark("revoke", target))
            for task, name in ((marking, "answered_ms"), (asking, "cut_ms")):
                task.add_done_callback(
                    lambda _, name=name, began=began: took[name].append(time.perf_counter() - began)
                )
            async for each in told:
                if isinstance(each, FeedMark) and each.digest == target_digest(target):
                    took["heard_ms"].append(time.perf_counter() - began)
                    break
            await asyncio.gather(asking, marking)
    return {name: _told(seconds) for name, seconds in took.items()}


def _told(seconds: list[float]) -> dict[str, float]:
    each = sorted(1000 * one for one in seconds)
    return {"p50": round(statistics.median(each), 1), "max": round(each[-1], 1)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))))
