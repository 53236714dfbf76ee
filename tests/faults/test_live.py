"""A short run of each topology loses nothing, though much was broken, spent and replayed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.faults.embedded import Embedded
from tests.faults.fleet import whole_fleet
from tests.faults.harness import Asked, Outcome, run
from tests.faults.process import build_shim
from tests.faults.world import World

pytestmark = [pytest.mark.live, pytest.mark.slow]
SEED = 6


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    folder = Path(tempfile.mkdtemp(prefix="sw-"))  # short: Unix sockets live below it
    made = World(folder)
    await made.start()
    yield made
    await made.stop()
    shutil.rmtree(folder, ignore_errors=True)


def proved(outcome: Outcome) -> None:
    """Nothing was found, and not for want of anything to find."""
    assert outcome.findings == [], outcome.numbers(SEED)
    numbers = outcome.numbers(SEED)
    assert len(outcome.run.faults) == len(outcome.plan) > 0
    assert all(numbers[name] for name in ("redeemed", "effects", "replays_refused", "revocations", "cut"))
    assert len(outcome.run.checkpoints) > 0


async def test_the_embedded_broker_under_faults(world: World) -> None:
    topology = Embedded(world, build_shim(world.folder))
    proved(
        await run(world.folder, topology, Asked(seed=SEED, seconds=30.0, callers=16, kinds=topology.kinds))
    )


async def test_without_faults_nothing_is_cut(world: World) -> None:
    topology = Embedded(world, build_shim(world.folder))
    outcome = await run(world.folder, topology, Asked(seed=SEED, seconds=5.0, callers=8, kinds={}))
    assert outcome.findings == []
    numbers = outcome.numbers(SEED)
    assert numbers["cut"] == 0
    assert numbers["redeemed"] == numbers["effects"] != 0


async def test_a_fleet_under_faults() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sw-"))
    async with whole_fleet(folder, build_shim(folder)) as topology:
        asked = Asked(seed=SEED, seconds=30.0, callers=16, kinds=topology.kinds)
        outcome = await run(folder, topology, asked)
        proved(outcome)
    assert [seen.size > 0 for seen in outcome.run.checkpoints if seen.via == "the witness"] == [True]
    shutil.rmtree(folder, ignore_errors=True)
