"""The true engine with the fleet's own log: one transaction, and a role that cannot unsay an entry."""

from __future__ import annotations

import asyncpg
import pytest
from tests.contracts.truth_suite import SHARDS, new, said, work
from tests.fleet.conftest import connected

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.postgres.schema import migrate
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth
from stepwrit_broker.store.fleet.seams import Contradiction, Kept, Numbered

pytestmark = pytest.mark.live


async def test_a_works_entries_are_in_the_log_or_nothing_is(database):
    async with connected(database("postgres")) as conn:
        await conn.execute("CREATE ROLE writer LOGIN")
        for _ in range(2):
            await migrate(conn, PgLog(), shards=SHARDS, brokers=["writer"])
    truth = await open_truth(Session(dsn=database("writer")), PgLog(), SystemClock(), shards=SHARDS)
    epoch = (await truth.standing()).epoch
    one = work(
        new("txn_1"), entries=(said("1"), said("2")), uses=("grt_1",), salts=(("txn_1", b"s" * 16),),
        kept=(Kept("digest", "txn_1", b"{}"),),
    )  # fmt: skip
    await truth.say([said("3")], [], [])
    await truth.commit(epoch, [(Numbered(1, 1, encode(one)), one)])
    again = work(entries=(said("4"),), uses=("grt_1",))
    with pytest.raises(Contradiction, match="grant"):
        await truth.commit(epoch, [(Numbered(1, 2, encode(again)), again)])
    async with connected(database("writer")) as conn:
        await conn.execute("SET search_path = stepwrit")
        assert await conn.fetchval("SELECT count(*) FROM ledger_entries") == 3
        assert await conn.fetchval("SELECT count(*) FROM ledger_bodies") == 3
        for statement in ("DELETE FROM ledger_entries", "UPDATE ledger_entries SET seq = 9"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    await truth.close()
