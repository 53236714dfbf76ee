"""Two brokers on real Redis and PostgreSQL: one flow across both, and what one of them says is so on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fakes.feed import Door, client
from tests.rigs.engines import Fleet, fleet

from stepwrit_broker.core.ids import shard_of
from stepwrit_broker.wiring.broker import Broker

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(Path(tmp_path_factory.mktemp("fleet"))) as made:
        yield made


async def test_one_flow_across_both_brokers(two: Fleet) -> None:
    stage = two.stage
    await two.to(two.one)
    opened = await stage.opened()
    await two.to(two.two)
    ledger = await stage.actor("mcp-server/ledger")
    (await ledger.accept(opened)).ok()
    await two.to(two.one)
    got = (await ledger.credential(opened.step)).ok()
    await two.to(two.two)
    bank = await stage.actor("resource/bank/1")
    (await bank.redeem(got["access_token"], ledger)).ok()
    await two.to(two.one)
    again = await bank.redeem(got["access_token"], ledger)
    assert (again.status, again.code) == (403, "replay")
    (await ledger.close(opened.step)).ok()


async def test_transactions_are_spread_over_the_shards(two: Fleet) -> None:
    await two.to(two.one)
    opened = [await two.stage.opened() for _ in range(12)]
    assert len({shard_of(each.step) for each in opened}) > 1
    assert {shard_of(each.step) for each in opened} <= {f"{n:02x}" for n in range(two.one.store.shards)}


async def test_a_no_of_one_broker_is_one_of_the_other_when_it_has_answered(two: Fleet) -> None:
    stage = two.stage
    await two.to(two.two)
    held = await stage.held()
    spared = await stage.held()
    with two.at(two.one):
        (await stage.mark("revoke", f"txn:{held.txn}")).ok()
    assert (await held.redeem()).code == "revoked"
    (await spared.redeem()).ok()


async def test_a_version_of_one_broker_is_in_force_on_the_other(two: Fleet) -> None:
    stage = two.stage
    before = two.two.live.now_in_force().versions.limits
    await two.to(two.one)
    text = (stage.folder / "limits.yaml").read_text()
    applied = (await stage.apply("limits", text)).ok()
    assert applied["version"] == before + 1
    while two.two.live.now_in_force().versions.limits != before + 1:
        await asyncio.sleep(0.01)
    await two.to(two.two)
    held = await stage.held()
    (await held.redeem()).ok()


async def test_the_next_step_at_the_other_broker_is_decided_under_it(two: Fleet) -> None:
    """Nobody waits for it, and nobody is told that the other broker is behind."""
    stage = two.stage
    await two.to(two.two)
    text = (stage.folder / "limits.yaml").read_text()
    for number in range(5):
        with two.at(two.one):
            applied = (await stage.apply("limits", f"{text}\n# {number}\n")).ok()
        await stage.opened()
        assert two.two.live.now_in_force().versions.limits == applied["version"]


def documents(broker: Broker) -> tuple[int, int, int]:
    """What is in force there; the generation of bundles is each broker's own."""
    versions = broker.live.now_in_force().versions
    return versions.registry, versions.limits, versions.policy


async def test_a_file_of_one_broker_does_not_undo_what_another_put_in_force(two: Fleet) -> None:
    """Unchanged files leave later versions in force, also those of a broker that starts."""
    before = documents(two.one)
    three = await two.start("three")
    assert documents(three) == before
    await three.files.apply_all()
    await three.__aexit__(None, None, None)
    assert documents(two.one) == before


async def test_both_publish_the_same_keys(two: Fleet) -> None:
    now = two.stage.now()
    shown = [
        {key["kid"] for ring in broker.housed.rings for key in ring.jwks(now)}
        for broker in (two.one, two.two)
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]) >= 6  # and those of a third that has ended, until its last token is dead


async def test_a_running_performer_and_a_guard_hear_of_what_another_broker_ended(two: Fleet) -> None:
    stage = two.stage
    await two.to(two.two)
    async with client(stage, "mcp-server/ledger") as performer, client(stage) as bank:
        first = await performer.ended(None)
        held, door = await stage.held(), Door(bank)
        async with asyncio.TaskGroup() as group:
            told = group.create_task(performer.ended(first.after, 25))
            cut = group.create_task(door.ask(held))
            await door.app.streaming.wait()
            with two.at(two.one):
                (await stage.mark("revoke", f"txn:{held.txn}")).ok()
            assert held.step in {each.step for each in (await told).steps}
            await cut
    assert door.body == b"one"


async def test_both_ledgers_are_one(two: Fleet) -> None:
    stage = two.stage
    await two.to(two.one)
    held = await stage.held()
    await two.to(two.two)
    (await held.redeem()).ok()
    for broker in (two.one, two.two):
        kinds = [entry.kind for entry in broker.ledger.of_txn(held.txn)]
        assert "grant.redeemed" in kinds, kinds
    await two.one.backing.sign()
    await two.two.backing.sign()
    assert two.one.backing.vkey == two.two.backing.vkey
    assert two.one.ledger.head() == two.two.ledger.head()


async def test_the_brake_holds_while_redis_is_away_and_after_it_is_back(two: Fleet) -> None:
    stage, redis = two.stage, two.engines.redis
    await two.to(two.one)
    stopped, spared = await stage.held(), await stage.held()
    redis.kill()
    assert (await stopped.redeem()).code == "unavailable", "without Redis nothing is spent"
    (await stage.mark("revoke", f"step:{stopped.step}")).ok()
    (await stage.mark("freeze", "tool:ledger/transfer")).ok()
    await redis.start()
    answer = await spared.redeem()
    while answer.code == "unavailable":
        answer = await spared.redeem()
    assert answer.code == "frozen"
    (await stage.mark("unfreeze", "tool:ledger/transfer")).ok()
    assert (await stopped.redeem()).code == "revoked"
    (await (await stage.held()).redeem()).ok()
