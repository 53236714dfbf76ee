"""What a fail-over of a fleet's Redis costs: one line of JSON.

    python -m tests.bench.failover [ROUNDS] [--down-ms N]

A primary, a replica and three Sentinels, which call a primary lost that is silent for N ms (default 1000); a
PostgreSQL; two brokers' stores. Each round opens transactions, reserves a credential in each, kills the
primary and goes on with each. again_ms: from the kill until the next credential was reserved and redeemed.
kept: transactions that went on, of all. dead: credentials of before that were refused, as all must be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench.calls import hush
from tests.fleet.order_suite import code
from tests.fleet.pair import Pair, real_pair
from tests.rigs.fleet import Engines, engines

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.step import StepRecord

TRANSACTIONS = 20


async def run(rounds: int, down_ms: int) -> dict[str, object]:
    """All rounds, each on a rig of its own."""
    took, kept, dead = list[float](), 0, 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            async with (
                engines(Path(folder), down_ms=down_ms) as rig,
                real_pair(rig.redis["redis-a"], rig.postgres, url=rig.redis_url) as pair,
            ):
                again, lived, died = await _round(rig, pair)
                took.append(again)
                kept, dead = kept + lived, dead + died
    of = rounds * TRANSACTIONS
    return {
        "again_ms": {"p50": round(1000 * statistics.median(took)), "max": round(1000 * max(took))},
        "kept": kept, "dead": dead, "of": of, "down_ms": down_ms,
    }  # fmt: skip


async def _round(rig: Engines, pair: Pair) -> tuple[float, int, int]:
    records = [await pair.accepted() for _ in range(TRANSACTIONS)]
    grants = [(await pair.two.reserve(pair.make.reserve(pair.make.grant(each)))).grant for each in records]
    began = time.perf_counter()
    rig.redis["redis-a"].kill()
    first = await _goes_on(pair, records[0])
    again = time.perf_counter() - began
    lived = 1 + sum([await _goes_on(pair, each) for each in records[1:]])
    died = [await code(pair.two.redeem(pair.make.redeem(each))) == "expired" for each in grants]
    return again, lived - (not first), sum(died)


async def _goes_on(pair: Pair, record: StepRecord) -> bool:
    """Try until it does; limits of a new epoch are empty at first, and the makers' clock stands still."""
    while True:
        pair.make.epoch, pair.make.now = pair.two.epoch, pair.make.now + 0.1
        try:
            grant = (await pair.two.reserve(pair.make.reserve(pair.make.grant(record)))).grant
            return (await pair.two.redeem(pair.make.redeem(grant)))[0].state == "redeemed"
        except Problem:
            await asyncio.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.failover", description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--down-ms", type=int, default=1000)
    given = parser.parse_args()
    hush()
    print(json.dumps(asyncio.run(run(given.rounds, given.down_ms))))


if __name__ == "__main__":
    main()
