"""`python -m tests.bench.profiled OUT PROGRAM ARGUMENTS…`: a Python program under cProfile, by CPU time.

With the usual clock a server's waiting would be most of what is shown.
`python -m tests.bench.profiled --read OUT CYCLES` prints microseconds per cycle by part.
"""

from __future__ import annotations

import cProfile
import pstats
import runpy
import sys
import time
from collections import Counter
from typing import Any, Final, cast

PARTS: Final = (
    ("the fleet's store: plan, claims, codec", ("store/fleet/",)),
    ("the store's verbs", ("stepwrit_broker/store/",)),
    ("the ledger", ("stepwrit_broker/ledger/",)),
    ("core, flows, policy, tokens", ("stepwrit_broker/", "stepwrit/", "cedarpy")),
    ("PostgreSQL's client", ("asyncpg",)),
    ("Redis' client", ("site-packages/redis/", "hiredis")),
    ("HTTP and TLS", ("uvicorn", "httptools", "ssl", "_ssl", "asyncio/sslproto")),
    ("signatures", ("cryptography", "openssl")),
    ("SQLite", ("sqlite3",)),
    ("JSON and MessagePack", ("msgspec", "json")),
    ("metrics", ("prometheus",)),
    ("asyncio", ("asyncio", "contextlib", "uvloop")),
)


def part_of(where: tuple[str, int, str]) -> str:
    """Which part a function is of: by its file, or its name where it is not Python's."""
    name = f"{where[0]} {where[2]}"
    return next((part for part, marks in PARTS if any(mark in name for mark in marks)), "the rest of Python")


def parts(stats: pstats.Stats, cycles: int) -> dict[str, float]:
    """CPU microseconds per cycle, by part, dearest first. The profiler's own cost is in it."""
    spent: Counter[str] = Counter()
    for where, (_, _, own, _, _) in cast(Any, stats).stats.items():
        spent[part_of(where)] += own
    return {part: round(own / cycles * 1e6, 1) for part, own in spent.most_common()}


def main(given: list[str]) -> None:
    if given[0] == "--read":
        for part, each in parts(pstats.Stats(given[1]), int(given[2])).items():
            print(f"{part:40} {each:8,.0f}")
        return
    out, *sys.argv = given
    profile = cProfile.Profile(time.thread_time)
    try:
        profile.runcall(runpy.run_path, sys.argv[0], run_name="__main__")
    finally:
        profile.dump_stats(out)


if __name__ == "__main__":
    main(sys.argv[1:])
