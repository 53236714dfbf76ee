"""The traces that take such designs down, played on real engines, each with what goes on well beside it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.faults.relay import Behaviour
from tests.faults.scene import Scene, restored, scene
from tests.faults.wire import Said
from tests.rigs.redis import until

pytestmark = [pytest.mark.live, pytest.mark.slow]


def refused(said: Said, *codes: str) -> None:
    assert said.exchange.result == "refused", said
    assert said.exchange.code in codes, said


async def test_a_to_b_to_a_spends_nothing_twice(tmp_path: Path) -> None:
    """The first primary comes back as the same process with what it knew; the use is not among that."""
    async with scene(tmp_path) as it:
        await it.spent("b1")
        it.rig.redis["redis-a"].pause()
        await it.rig.failed_over("redis-b")
        it.rig.redis["redis-a"].resume()
        await it.follows("redis-a")
        _, grant = await it.issued("b1")
        await it.follows("redis-a")
        it.rig.relays["redis-b"].misbehave(Behaviour("cut"), "redis-a")  # what comes now it will not hear of
        spent = await it.ok("redeem", "b1", grant=grant)
        await it.fail_over("redis-b", "redis-a")
        for via in it.fleet.brokers:
            await it.spent(via)
            refused(await it.tell("redeem", via, grant=grant), "replay", "expired")
        assert spent.ok
        assert await it.findings() == []


async def test_a_paused_sequencer_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        leader = await it.leader()
        others = [name for name in it.fleet.brokers if name != leader]
        busy = [asyncio.create_task(it.spent(name)) for name in (*others, *others)]
        await asyncio.sleep(0.05)
        it.fleet.brokers[leader].process.send(signal.SIGSTOP)
        await asyncio.gather(*busy)  # another one carries the streams
        for name in others:
            await it.spent(name)

        async def led() -> bool:
            return any([(await it.status(name))["leads"] for name in others])

        await until(led, "another leads")
        it.fleet.brokers[leader].process.send(signal.SIGCONT)
        await it.spent(leader)
        assert await it.findings() == []


async def test_a_mark_that_was_acknowledged_outlives_a_fail_over_that_lost_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        step, grant = await it.issued("b1")
        other = await it.accepted("b1")
        await it.follows("redis-b")
        it.part_replica()
        assert (await it.tell("revoke", "b1", target=f"step:{step}")).ok
        await it.fail_over("redis-a", "redis-b")
        for via in it.fleet.brokers:
            fresh = (await it.ok("credential", via, step=other)) if via == "b1" else None
            refused(await it.tell("credential", via, step=step), "revoked")
            refused(await it.tell("redeem", via, grant=grant), "revoked")
            if fresh is not None:  # the step beside it goes on
                assert (await it.tell("redeem", "b2", grant=fresh.exchange.grant)).ok
        assert await it.findings() == []


async def test_a_restored_snapshot_is_found(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        _, grant = await it.issued("b1")

        async def meanwhile() -> None:
            for name in it.fleet.brokers:  # PostgreSQL was restarted, and nothing was set back: all goes on
                await it.spent(name)
            await it.ok("revoke", "b1", target=f"grant:{grant}")
            for name in it.fleet.brokers:

                async def signed(name: str = name) -> bool:
                    return "note" in (await it.tell("checkpoint", name)).body

                await until(signed, "a checkpoint that this broker remembers")

        await restored(it, meanwhile)
        for name, broker in it.fleet.brokers.items():
            assert not (await it.tell("redeem", name, grant=grant)).ok
            await broker.process.kill()
            await broker.process.start()
            await asyncio.wait_for(broker.process.ended(), 160.0)  # it refuses to serve
            assert "anchor" in broker.process.last_words()


async def test_two_primaries_make_one_go_ahead(tmp_path: Path) -> None:
    """The old primary is cut off from the Sentinels and its replica, and one broker still writes to it."""
    async with scene(tmp_path) as it:
        for via in it.fleet.brokers:
            await it.spent(via)
        grants = [(await it.issued("b1"))[1] for _ in range(4)]
        await it.follows("redis-b")
        relay = it.rig.relays["redis-a"]
        for source in ("redis-b", "sentinel-1", "sentinel-2", "sentinel-3", "b2", "b3"):
            relay.misbehave(Behaviour("cut"), source)
        async with it.rig.redis["redis-a"].client() as client:
            assert (await client.info("replication"))["role"] == "master"
        await it.rig.failed_over("redis-b")
        async with it.rig.redis["redis-a"].client() as client:
            assert (await client.info("replication"))["role"] == "master"  # two of them now
        await twice(it, grants)
        await it.spent("b2")
        relay.heal()
        for source in ("redis-b", "sentinel-1", "sentinel-2", "sentinel-3", "b2", "b3"):
            relay.heal(source)
        for via in it.fleet.brokers:
            await it.spent(via)
        assert await it.findings() == []


async def twice(it: Scene, grants: list[str]) -> None:
    """Each at a broker of either primary, at once: one go-ahead at most."""
    for grant in grants:
        both = await asyncio.gather(*(it.tell("redeem", via, grant=grant) for via in ("b1", "b2")))
        assert sum(said.ok for said in both) <= 1, both
