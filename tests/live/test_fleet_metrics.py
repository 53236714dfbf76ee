"""What an operator sees of a fleet in an incident, on real engines: each metric moves with what it tells."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.rigs.engines import Fleet, fleet

from stepwrit_broker.wiring.broker import Broker

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(Path(tmp_path_factory.mktemp("fleet"))) as made:
        yield made


def shown(broker: Broker, name: str, **labels: str) -> float:
    """As Prometheus would scrape it; 0 for what was never counted."""
    return broker.metrics.registry.get_sample_value(f"stepwrit_{name}", labels) or 0.0


async def gauged(two: Fleet) -> None:
    for broker in (two.one, two.two):
        await broker.backing.gauge()


async def until(two: Fleet, name: str, value: float, broker: Broker | None = None, **labels: str) -> None:
    of = broker or two.one
    async with asyncio.timeout(60):
        while shown(of, name, **labels) != value:
            await asyncio.sleep(0.05)
            await of.backing.gauge()


async def test_one_leads_and_what_it_does_is_counted(two: Fleet) -> None:
    await two.to(two.one)
    (await (await two.stage.held()).redeem()).ok()
    await gauged(two)
    both = (two.one, two.two)
    assert sum(shown(each, "fleet_leads") for each in both) == 1
    leader = next(each for each in both if shown(each, "fleet_leads"))
    other = next(each for each in both if each is not leader)
    assert shown(leader, "fleet_committed") > 0
    assert shown(leader, "fleet_commit_seconds_count") > 0
    assert shown(other, "fleet_commit_seconds_count") == shown(other, "fleet_commit_age_seconds") == 0
    assert shown(two.one, "fleet_truth_seconds_count") > 0
    for each in both:
        await until(two, "fleet_reachable", 1, each, engine="redis")
        await until(two, "fleet_reachable", 1, each, engine="postgresql")
        assert shown(each, "fleet_accepted", setting="postgres.role=superuser") == 1
    await until(two, "fleet_backlog", 0)


async def test_rules_are_counted_here_and_there(two: Fleet) -> None:
    await gauged(two)
    before = shown(two.one, "fleet_rules", at="here")
    (await two.stage.mark("freeze", "tool:ledger/wipe")).ok()
    await until(two, "fleet_rules", before + 1, two.two, at="here")
    await until(two, "fleet_rules", before + 1, two.two, at="postgresql")
    (await two.stage.mark("unfreeze", "tool:ledger/wipe")).ok()


async def test_redis_that_is_away_and_what_it_lost(two: Fleet) -> None:
    await two.to(two.one)
    await gauged(two)
    epochs = shown(two.one, "fleet_epochs")
    ended = [shown(each, "fleet_epochs_ended_total", why="redis") for each in (two.one, two.two)]
    two.engines.redis.kill()
    await until(two, "fleet_reachable", 0, engine="redis")
    assert shown(two.one, "fleet_reachable", engine="postgresql") == 1
    await two.engines.redis.start()
    await until(two, "fleet_reachable", 1, engine="redis")
    await until(two, "fleet_epochs", epochs + 1)
    await until(two, "fleet_epochs", epochs + 1, two.two)
    after = [shown(each, "fleet_epochs_ended_total", why="redis") for each in (two.one, two.two)]
    assert sum(after) == sum(ended) + 1, "by one of them"


async def test_a_mark_that_ends_an_epoch_is_told(two: Fleet) -> None:
    await two.to(two.one)  # the admin socket is its
    await gauged(two)
    before = shown(two.one, "fleet_epochs_ended_total", why="rule")
    two.engines.redis.kill()
    (await two.stage.mark("freeze", "tool:ledger/wipe")).ok()
    await two.one.backing.gauge()
    assert shown(two.one, "fleet_epochs_ended_total", why="rule") == before + 1
    await two.engines.redis.start()
    await until(two, "fleet_reachable", 1, engine="redis")
    (await two.stage.mark("unfreeze", "tool:ledger/wipe")).ok()


async def test_postgres_that_does_not_answer(two: Fleet) -> None:
    await until(two, "fleet_reachable", 1, engine="postgresql")
    pids = [two.engines.postgres.process.pid, *two.engines.postgres.backends()]
    for pid in pids:  # the first makes new ones
        os.kill(pid, signal.SIGSTOP)
    try:
        await until(two, "fleet_reachable", 0, engine="postgresql")
        assert shown(two.one, "fleet_truth_age_seconds") > 2
        assert shown(two.one, "fleet_reachable", engine="redis") == 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await until(two, "fleet_reachable", 1, engine="postgresql")
