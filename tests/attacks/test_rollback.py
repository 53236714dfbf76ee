"""Yesterday's database is put in the place of today's."""

from __future__ import annotations

import shutil

import pytest
from tests.fakes.stage import Stage, refused

from stepwrit_broker.core.errors import Unavailable


async def test_a_database_copied_back_is_refused_by_its_anchor() -> None:
    async with Stage() as stage:
        held = await stage.held()
        await stage.stop()
        shutil.copytree(stage.folder / "store", stage.folder / "yesterday")
        await stage.start()  # the very copy would be good now: nothing has happened since
        (await held.ledger.credential(held.step)).ok()
        await stage.stop()

        shutil.rmtree(stage.folder / "store")
        shutil.copytree(stage.folder / "yesterday", stage.folder / "store")
        with pytest.raises(Unavailable) as refusal:
            await stage.start()
        assert refusal.value.rule == "anchor"

        shutil.rmtree(stage.folder / "store")
        with pytest.raises(Unavailable) as refusal:  # an empty one is older still
            await stage.start()
        assert refusal.value.rule == "anchor"

        shutil.rmtree(stage.folder / "store", ignore_errors=True)
        (stage.folder / "anchor" / "anchor.json").unlink()
        await stage.start()  # nothing to hold it to, nothing in it: a new log
        refused(stage, await held.redeem(), "not_found", "invalid_token")


async def test_a_database_without_its_anchor_is_refused() -> None:
    async with Stage() as stage:
        await stage.held()
        await stage.stop()
        kept = (stage.folder / "anchor" / "anchor.json").read_bytes()
        (stage.folder / "anchor" / "anchor.json").unlink()
        with pytest.raises(Unavailable) as refusal:
            await stage.start()
        assert refusal.value.rule == "anchor"
        (stage.folder / "anchor" / "anchor.json").write_bytes(kept)
        await stage.start()


async def test_a_second_broker_on_the_same_database_is_refused() -> None:
    async with Stage() as stage:
        first = stage.broker
        with pytest.raises(Unavailable) as refusal:
            await stage.start()
        assert refusal.value.rule == "store lock"
        stage.broker = first
        (await (await stage.held()).redeem()).ok()
