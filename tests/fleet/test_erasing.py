"""Erasing where several brokers have copies: none of them keeps one, and none of them brings it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.contracts.store_suite_erasing import DECISION
from tests.fakes.fleet import MemorySwift
from tests.fleet.test_two_brokers import Fleet, code

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ports import Evidence, Happening
from stepwrit_broker.ports_ledger import EraseCommand
from stepwrit_broker.store import ruling
from stepwrit_broker.store.fleet.erasing import OUTSIDE
from stepwrit_broker.store.fleet.seams import Snapshot, Told
from stepwrit_broker.store.fleet.store import FleetStore


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.close()


def command(fleet: Fleet, name: str) -> EraseCommand:
    ref = fleet.make.ref()
    return EraseCommand(
        name=name, txn=name, tenant="acme", reason="r 1", by="ops", ref=ref, now=fleet.make.now
    )


async def over(fleet: Fleet, store: FleetStore) -> str:
    root = await store.open(fleet.make.open(fleet.make.root_step()))
    evidence = Evidence(facts={}, decision=DECISION)
    await store.open(fleet.make.open(fleet.make.child_step(root), evidence=evidence))
    await store.mark(fleet.make.mark(f"txn:{root.step.txn}"))
    await store.reap(fleet.make.now)
    return root.step.txn


def salts(store: FleetStore) -> dict[str, bytes]:
    """Of all transactions that this broker has a copy of; decoded ones too."""
    state = store._state
    found = dict(state.conn.execute("SELECT txn, salt FROM salts").fetchall())
    for txn, salt in found.items():
        known = state.txns.newest(txn)
        assert known is None or known.salt == salt
    return found


async def test_no_broker_keeps_a_copy_with_the_salt(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    txn, other = await over(fleet, one), await over(fleet, one)
    for name in (txn, other):
        assert await two.knows(name)
    assert fleet.truth.salts[txn] == salts(one)[txn] == salts(two)[txn]
    await one.erase(command(fleet, txn))
    assert txn not in salts(one)
    while txn in salts(two):
        await asyncio.sleep(0.001)
    assert other in salts(two), "a copy of another is as it was"
    held = next(shard.txns[txn] for shard in fleet.swift.shards if txn in shard.txns)
    assert not [row for row in held.rows if row.field.startswith("salts:")]
    known = await fleet.truth.transaction(txn)
    assert known is not None
    assert not [row for row in known.rows if row.field.startswith("salts:")]
    assert await two.knows(txn)


async def test_who_hears_nothing_looks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    txn = await over(fleet, one)
    assert await two.knows(txn)
    real = MemorySwift.tell

    async def mute(self: MemorySwift, message: Told) -> None:
        if message.kind == "erased":
            raise Unavailable("unavailable", "no connection", rule="store")
        await real(self, message)

    monkeypatch.setattr(MemorySwift, "tell", mute)
    await one.erase(command(fleet, txn))
    while txn in salts(two):
        await asyncio.sleep(0.01)


async def test_a_copy_that_cannot_be_made_anew_is_dropped(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    txn = await over(fleet, one)
    assert await two.knows(txn)
    real = MemorySwift.fetch

    async def away(self: MemorySwift, epoch: str, name: str, known: int) -> object:
        if fleet.truth.salts[txn] is None:
            raise Unavailable("unavailable", "no connection", rule="store")
        return await real(self, epoch, name, known)

    monkeypatch.setattr(MemorySwift, "fetch", away)
    await one.erase(command(fleet, txn))
    while txn in salts(two):
        await asyncio.sleep(0.001)


async def test_a_broker_that_was_stopped_meanwhile_brings_nothing_back(fleet: Fleet) -> None:
    """It has what it read before: its rows, a copy to hold in the swift engine, an entry with a document."""
    one, two = await fleet.broker(), await fleet.broker()
    txn = await over(fleet, one)
    assert await two.knows(txn)
    before = await fleet.truth.transaction(txn)
    assert before is not None
    salt = salts(two)[txn]
    told = Happening(
        kind="refused",
        ref=fleet.make.ref(),
        tenant="acme",
        txn=txn,
        evidence=Evidence(facts={}, decision=DECISION),
        now=fleet.make.now,
    )
    state = two._state
    plan = two._scratch.plan("rules", lambda: ruling.record(state, told))
    kept = list(plan.kept)
    assert [each.name for each in kept] == [txn]
    await one.erase(command(fleet, txn))
    await fleet.truth.say(plan.said, kept, [])
    assert not [each for each in fleet.truth.kept.values() if each.name == txn]
    await fleet.swift.hold(two.epoch, before, 0)
    found = await fleet.swift.fetch(two.epoch, txn, 0)
    assert isinstance(found, Snapshot)
    assert salt not in b"".join(row.value for row in found.rows)
    fleet.swift.lose()
    assert await two.knows(txn)
    assert txn not in state.conn.execute("SELECT txn FROM salts").fetchall()
    assert fleet.truth.salts[txn] is None


async def test_what_may_have_landed_is_not_tried_twice_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    txn = await over(fleet, one)

    async def gone(*_: object, **__: object) -> None:
        raise Unavailable("unavailable", "no connection", rule="store")

    with monkeypatch.context() as cut:
        cut.setattr(MemorySwift, "commit", gone)
        assert await code(one.erase(command(fleet, txn))) == "unavailable"
    assert await code(two.erase(command(fleet, txn))) == "unavailable", "it may have landed"
    fleet.make.now += 16
    await two.erase(command(fleet, txn))
    assert [entry["kind"] for entry in fleet.truth.entries()].count("txn.erased") == 1
    assert await code(one.erase(command(fleet, txn))) == "not_found"


async def test_a_refusal_keeps_no_other_erasure_waiting(fleet: Fleet) -> None:
    one = await fleet.broker()
    root = await one.open(fleet.make.open(fleet.make.root_step()))
    assert await code(one.erase(command(fleet, root.step.txn))) == "wrong_state"
    await one.mark(fleet.make.mark(f"txn:{root.step.txn}"))
    await one.reap(fleet.make.now)
    await one.erase(command(fleet, root.step.txn))
    assert await code(one.erase(command(fleet, OUTSIDE))) == "not_found"
