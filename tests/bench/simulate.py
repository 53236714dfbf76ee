"""`python -m tests.bench.simulate`: how long a call waits for the truth, by how busy the sequencer is.

One sequencer takes all that waits, commits it, and takes again. A commit of n works lasts a fixed time and a
time for each work (`python -m tests.bench.fleet_parts truth` measures both). Cycles arrive by chance; each
has five works, one after the other, with a little time of its broker between. Seeded, and no I/O: for loads
that no machine at hand can make.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.report import percentile, table

WORKS = 5
HEAD = ("of the ceiling", "cycles/s", "works a commit", "wait p50 ms", "p99", "cycle p50 ms", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """fixed, each: seconds of a commit, and for each work in it. between: of the broker and the caller.
    most: works of one commit; 0 is any number.
    """

    fixed: float
    each: float
    between: float = 0.002
    most: int = 0

    @property
    def ceiling(self) -> float:
        """Cycles a second at which the sequencer never rests, in batches of any size."""
        return 1 / (self.each * WORKS)


@dataclass(slots=True)
class Seen:
    """Seconds that each work waited, and each cycle took; works of each commit."""

    waits: list[float] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


def run(model: Model, rate: float, cycles: int, seed: int = 1) -> Seen:
    """`rate` cycles arrive a second. What was seen of the second half, when the queue has its length."""
    chance, seen = random.Random(seed), Seen()
    # (when it reaches the stream, its place, when its cycle came, which work of it)
    coming = list(_arrivals(chance, model, rate, cycles))
    heapq.heapify(coming)
    place, now = cycles, 0.0
    while coming:
        now = max(now, coming[0][0])
        batch = _taken(coming, now, model.most)
        done = now + model.fixed + model.each * len(batch)
        seen.batches.append(len(batch))
        for at, _, came, nth in batch:
            seen.waits.append(done - at)
            if nth + 1 < WORKS:
                place += 1
                heapq.heappush(coming, (done + chance.expovariate(1 / model.between), place, came, nth + 1))
            else:
                seen.cycles.append(done - came)
        now = done
    return Seen(seen.waits[len(seen.waits) // 2 :], seen.cycles[cycles // 2 :], seen.batches)


_Work = tuple[float, int, float, int]


def _arrivals(chance: random.Random, model: Model, rate: float, cycles: int) -> Iterator[_Work]:
    came = 0.0
    for at in range(cycles):
        came += chance.expovariate(rate)
        yield (came + model.between, at, came, 0)


def _taken(coming: list[_Work], now: float, most: int) -> list[_Work]:
    batch: list[_Work] = []
    while coming and coming[0][0] <= now and (not most or len(batch) < most):
        batch.append(heapq.heappop(coming))
    return batch


def rows(model: Model, shares: Sequence[float], cycles: int) -> list[tuple[str, ...]]:
    """One for each share of the ceiling."""
    made: list[tuple[str, ...]] = []
    for share in shares:
        seen = run(model, model.ceiling * share, cycles)
        spread = [
            f"{percentile(each, at) * 1e3:.1f}" for each in (seen.waits, seen.cycles) for at in (0.5, 0.99)
        ]
        size = sum(seen.batches) / len(seen.batches)
        made.append((f"{share:.0%}", f"{model.ceiling * share:,.0f}", f"{size:.1f}", *spread))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulate", description=__doc__)
    parser.add_argument("--fixed-ms", type=float, default=4.0, help="of a commit (default 4)")
    parser.add_argument("--work-us", type=float, default=150.0, help="for each work in it (default 150)")
    parser.add_argument("--cycles", type=int, default=20_000)
    asked = parser.parse_args()
    model = Model(fixed=asked.fixed_ms / 1e3, each=asked.work_us / 1e6)
    print(table(HEAD, rows(model, (0.05, 0.25, 0.5, 0.75, 0.9, 0.97), asked.cycles)))


if __name__ == "__main__":
    main()
