"""PostgreSQL keeps the contract of the true engine, also for a role that can change nothing that was said."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contracts import truth_suite
from tests.contracts.truth_suite import SHARDS, TruthHouse
from tests.fakes.fleet_log import SmallLog
from tests.fleet.conftest import connected

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.store.fleet.postgres.schema import migrate
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth

pytestmark = pytest.mark.live


@pytest.fixture
async def house(database) -> AsyncIterator[TruthHouse]:
    async with connected(database("postgres")) as conn:
        await conn.execute("DO $$BEGIN CREATE ROLE broker LOGIN; EXCEPTION WHEN duplicate_object THEN END$$")
        await migrate(conn, SmallLog(), shards=SHARDS, brokers=["broker"])
    session = Session(dsn=database("broker"))
    truths = [await open_truth(session, SmallLog(), SystemClock(), shards=SHARDS) for _ in range(2)]

    async def entries() -> list[bytes]:
        async with connected(session.dsn) as conn:
            return [row[0] for row in await conn.fetch("SELECT body FROM stepwrit.entries ORDER BY seq")]

    yield TruthHouse(truths[0], truths[1], entries)
    for each in truths:
        await each.close()


class TestEpochs(truth_suite.EpochContract):
    pass


class TestCommits(truth_suite.CommitContract):
    pass


class TestSaid(truth_suite.SayContract):
    pass


class TestRules(truth_suite.RuleContract):
    pass


class TestSearches(truth_suite.SearchContract):
    pass


class TestPurge(truth_suite.PurgeContract):
    pass
