"""The true engine with the fleet's own log in its transactions: the same contract, and a whole tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contracts import truth_suite
from tests.contracts.truth_suite import SHARDS, TruthHouse
from tests.fleet.conftest import connected
from tests.ledger.helpers import KEY

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.verify import verify_log
from stepwrit_broker.ledger.where import open_source
from stepwrit_broker.store.fleet.postgres.session import Session, connect
from stepwrit_broker.store.fleet.postgres.truth import open_truth

pytestmark = pytest.mark.live


@pytest.fixture
async def house(database, tmp_path: Path) -> AsyncIterator[TruthHouse]:
    session = Session(dsn=database("postgres"))
    log = PgLog()
    truths = [await open_truth(session, log, SystemClock(), shards=SHARDS) for _ in range(2)]

    async def entries() -> list[bytes]:
        async with connected(session.dsn) as conn:
            return [
                row[0] for row in await conn.fetch("SELECT body FROM stepwrit.ledger_bodies ORDER BY seq")
            ]

    yield TruthHouse(truths[0], truths[1], entries)
    for each in truths:
        await each.close()
    await _whole(session, log, tmp_path)


async def _whole(session: Session, log: PgLog, folder: Path) -> None:
    """Whatever a test did, what it left is a log that can be named, signed and verified by a stranger."""
    conn = await connect(session)
    await conn.execute("INSERT INTO ledger_meta (name, value) VALUES ('origin', $1)", KEY.name)
    await log.name_log(conn, KEY.name)
    anchor = AnchorFile(folder / "anchor.json")
    signed = await PgCheckpointer(KEY, anchor).sign(conn, epoch="epoch-one", high_water=1.0, at=1.0)
    await conn.close()
    report = await asyncio.to_thread(
        verify_log, lambda: open_source(session.dsn), "it", KEY.verifier.vkey, anchor=anchor.read()
    )
    assert (report.findings, report.size) == ((), signed.checkpoint.size)


class TestCommits(truth_suite.CommitContract):
    pass


class TestSaid(truth_suite.SayContract):
    pass


class TestRules(truth_suite.RuleContract):
    pass
