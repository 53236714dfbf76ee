"""What a step that is over leaves in PostgreSQL, by table, once all that has its time has been purged.

    python -m tests.fleet.measure_bytes [transactions]

Each transaction has a root and three steps, each with a credential that is redeemed; `VACUUM FULL` before
each measurement, so that it counts what is there and not what could be used again.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
from tests.contracts.store_suite import House
from tests.fakes.build import Maker
from tests.fleet.test_store_contract import Engines, Fleet
from tests.rigs.postgres import postgres_server
from tests.rigs.redis import redis_server

from stepwrit_broker.ports import Evidence

STEPS = 3
_SIZES = (
    "SELECT coalesce((SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent"
    " WHERE i.inhrelid = c.oid), c.relname) AS name, sum(pg_total_relation_size(c.oid)) AS bytes"
    " FROM pg_class c WHERE c.relnamespace = 'stepwrit'::regnamespace AND c.relkind = 'r' GROUP BY 1"
)
_AGE = (
    "UPDATE stepwrit.works SET at = at - interval '3 days';"
    " UPDATE stepwrit.uses SET at = at - interval '3 days';"
    " UPDATE stepwrit.txns SET empty_at = empty_at - 7200"
)
DECISION = {"verdict": "permit", "question": {"tool": "mail/send", "args": "x" * 300}, "rules": ["allow"] * 3}


async def cycle(house: House) -> None:
    root = await house.root()
    for _ in range(STEPS):
        step = house.make.child_step(root)
        evidence = Evidence(facts={"svid": "01"}, decision=DECISION)
        record = await house.store.open(house.make.open(step, evidence=evidence))
        running, _ = await house.store.accept(house.make.accept(record))
        await house.spent(running)
        await house.store.move(house.make.move(running, "close"))
    await house.store.move(house.make.move(root, "close"))


async def sizes(conn: asyncpg.Connection) -> dict[str, int]:
    await conn.execute("VACUUM FULL")
    return {row["name"]: int(row["bytes"]) for row in await conn.fetch(_SIZES)}


def tell(title: str, before: dict[str, int], after: dict[str, int], steps: int) -> None:
    more = {name: bytes_ - before.get(name, 0) for name, bytes_ in after.items()}
    grown = {name: each / steps for name, each in more.items() if each > 0}
    print(f"{title}: {sum(grown.values()):.0f} bytes a step")  # noqa: T201
    for name, each in sorted(grown.items(), key=lambda item: -item[1]):
        print(f"  {name:20} {each:7.0f}")  # noqa: T201


async def main(transactions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            redis_server(Path(folder), appendonly="no") as redis,
            postgres_server(fsync=False) as server,
        ):
            engines = Engines(redis, server, ThreadPoolExecutor(1))
            await engines.prepare()
            fleet = Fleet(engines, await engines.database())
            store = await fleet.open()
            house = House(store=store, entries=fleet.entries, restart=fleet.restart)
            house.make = Maker(now=time.time() - 6 * 3600)
            house.make.epoch = store.epoch
            conn = await asyncpg.connect(fleet.dsn)
            empty = await sizes(conn)
            for _ in range(transactions):
                await cycle(house)
                house.pass_time(1)
            steps = transactions * STEPS
            tell("just over", empty, await sizes(conn), steps)
            for hours in (4, 2, 0):
                await store.reap(time.time() - hours * 3600)
            await conn.execute(_AGE)
            await store.reap(time.time())
            tell("purged", empty, await sizes(conn), steps)
            await conn.close()
            await fleet.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
