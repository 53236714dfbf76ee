"""What the log in PostgreSQL costs: appends by batch size, and each question of the view at a given size.

python -m tests.bench.postgres_log [ENTRIES]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.rigs.ledgers import AT, Cluster, PgLedger
from tests.rigs.postgres import postgres_server

from stepwrit_broker.core.entry import encode
from stepwrit_broker.ledger.tiles import LogTiles
from stepwrit_broker.ledger.view import LogView
from stepwrit_broker.ports_ledger import Said

MONTH_S = 31 * 86_400.0


def batch(first: int, count: int, at: float) -> list[Said]:
    """Entries as a broker writes them: 10 for each transaction, about 500 bytes each."""
    facts = {"step": "stp_100" + "A" * 26, "tool": "files/read", "impact": "low", "pad": "x" * 300}
    made = list[Said]()
    for n in range(first, first + count):
        ref = f"R{n:09d}"
        body = encode("step.opened", ref, at, {**facts, "n": n})
        made.append(Said(body, at, "step.opened", f"txn_{n // 10}", ref, "a"))
    return made


def append(ledger: PgLedger, size: int, entries: int) -> None:
    """Print how fast batches of one size are appended."""
    before = ledger.cluster.server.cpu_s()
    batches = [batch(at, min(size, entries - at), AT) for at in range(0, entries, size)]
    began, ours = time.perf_counter(), time.process_time()
    for each in batches:
        ledger.say(*each)
    took, ours = time.perf_counter() - began, time.process_time() - ours
    server = ledger.cluster.server.cpu_s() - before
    print(
        f"append, {size} a batch: {entries / took:8.0f}/s, {took / len(batches) * 1000:6.2f} ms a batch;"
        f" CPU an entry: {ours / entries * 1e6:5.1f} µs here, {server / entries * 1e6:5.1f} µs PostgreSQL"
    )


def ask(name: str, question: Callable[[int], object], numbers: Sequence[int]) -> None:
    """Print how long a question takes."""
    times = list[float]()
    for number in numbers:
        began = time.perf_counter()
        question(number)
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    print(f"{name:24} p50 {statistics.median(times):7.2f} ms, p99 {times[int(len(times) * 0.99)]:7.2f} ms")


def fill(ledger: PgLedger, entries: int) -> None:
    """Over six months, so that six partitions are asked."""
    have = ledger.size
    for first in range(have, entries, 5000):
        ledger.say(*batch(first, min(5000, entries - first), AT + first / entries * 6 * MONTH_S))


def main(entries: int) -> None:
    """On a server with fsync on."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        context = postgres_server()
        server = runner.run(context.__aenter__())
        try:
            measured(PgLedger(Cluster(runner, server), Path(folder)), entries)
        finally:
            runner.run(context.__aexit__(None, None, None))


def measured(ledger: PgLedger, entries: int) -> None:
    """Append, fill, ask."""
    append(ledger, 64, 2_000)  # warm
    for size in (64, 512):
        append(ledger, size, 20_000)
    fill(ledger, entries)
    ledger.execute("ANALYZE")
    ledger.sign()
    view = LogView(ledger.source)
    tiles = LogTiles(ledger.source, lambda: None)
    size = ledger.size
    spread = [(n * 7919) % (size - 1000) for n in range(200)]
    print(f"{size} entries in {ledger.value('SELECT count(*) FROM ledger_months')} months")
    ask("by_ref", lambda n: view.by_ref(f"R{n:09d}", "a"), spread)
    ask("of_txn", lambda n: view.of_txn(f"txn_{n // 10}"), spread)
    ask("tail, 100", lambda n: view.tail(n, 100, (), None), spread)
    ask("body", view.body, spread)
    ask("head", lambda _: view.head(), spread)
    ask("inclusion", view.inclusion, spread)
    ask("tile of hashes", lambda n: tiles.hashes(0, n // 256 * 256, n // 256 * 256 + 256), spread)
    ask("bundle of entries", lambda n: tiles.bodies(n // 256 * 256, n // 256 * 256 + 256), spread)
    ask("sign, unchanged head", lambda _: ledger.sign(), spread[:50])
    ledger.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
