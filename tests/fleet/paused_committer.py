"""A process that commits one work and says when it is in the middle of it; for tests that stop it there.

    python -m tests.fleet.paused_committer DSN SHARDS

It reads a line before it begins, prints `holding` inside its transaction, waits, and then what became of it;
after each further line it tries the same again.
"""

from __future__ import annotations

import asyncio
import sys

from tests.contracts.truth_suite import new, said, work
from tests.fakes.fleet_log import SmallLog

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth
from stepwrit_broker.store.fleet.seams import Contradiction, EpochOver, Numbered

WORK = work(new("txn_paused"), entries=(said("paused"),), uses=("grt_paused",))


def tell(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class SlowLog(SmallLog):
    """It holds everything that a commit locks for a while, the head included."""

    async def append(self, conn, entries):
        await super().append(conn, entries)
        tell("holding")
        await asyncio.sleep(0.5)


async def main(dsn: str, shards: int) -> None:
    truth = await open_truth(Session(dsn=dsn, idle_s=1.0), SlowLog(), SystemClock(), shards=shards)
    epoch = (await truth.standing()).epoch
    tell("ready")
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            await truth.commit(epoch, [(Numbered(1, 1, encode(WORK)), WORK)])
        except (Problem, Contradiction, EpochOver) as error:
            tell(type(error).__name__)
        else:
            tell("committed")
    await truth.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
