"""Copies that are old, epochs that end, and tries whose end nobody knows, on engines in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from tests.contracts.store_suite import House
from tests.contracts.store_suite_approvals import ALICE, BOB, ask, deciding, proposing, signing
from tests.contracts.test_fleet_store import SHARDS
from tests.fakes.entropy import SeededEntropy
from tests.fakes.fleet import MemorySwift, MemoryTruth
from tests.fleet.order_suite import code
from tests.fleet.pair import Pair, memory_pair
from tests.fleet.test_two_brokers import Fleet, plan_of

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.store.common import KEEP_S
from stepwrit_broker.store.fleet.claiming import Claims
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.postgres.grouping import Group
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.seams import EpochOver, OpDone, Used
from stepwrit_broker.store.fleet.state import FleetState, Proof, Wanted
from stepwrit_broker.store.fleet.tables import shard_of_name


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with memory_pair() as made:
        yield made


async def test_what_came_of_an_epoch_that_is_over_is_not_taken_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were asked for before the epoch ended arrive after it. In them a credential is redeemed, by a
    work that the truth never had: a repeat of that would be answered once other works have its number.
    """
    control, grant = await pair.held(), await pair.held()
    assert await code(pair.two.redeem(pair.make.redeem(control))) == "done"
    assert await pair.told("grant.redeemed", control) == 1
    await pair.hold()
    command = pair.make.redeem(grant)
    first = asyncio.ensure_future(code(pair.two.redeem(command)))
    await pair.ordered()
    asked, goes_on = asyncio.Event(), asyncio.Event()
    fetch = pair.swifts[0].fetch

    async def slow(epoch: str, name: str, known: int) -> object:
        found = await fetch(epoch, name, known)
        asked.set()
        await goes_on.wait()
        return found

    with monkeypatch.context() as late:
        late.setattr(pair.swifts[0], "fetch", slow)
        read = asyncio.ensure_future(code(pair.one.grant(grant.id)))
        await asked.wait()
        over = pair.one.epoch
        await pair.one.epochs.renew(over)
        goes_on.set()
        await read
    assert await first == "unavailable"
    pair.carry()
    shard = shard_of_name(grant.txn, pair.one.shards)
    pair.make.epoch = pair.one.epoch
    while (await pair.truths[0].positions(pair.one.epoch)).get(shard, 0) < 16:
        await pair.two.open(pair.make.open(pair.make.root_step()))
    assert await code(pair.one.redeem(command)) == "expired"
    assert await pair.told("grant.redeemed", grant) == 0


async def test_a_root_whose_answer_is_forgotten_is_not_opened_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction forgets after half an hour; the truth, behind with its purges, still knows."""
    command = pair.make.open(pair.make.root_step())
    root = await pair.one.open(command)
    again = replace(command, step=pair.make.root_step())
    assert await pair.two.open(again) == root
    await pair.one.open(pair.make.open(pair.make.child_step(root)))
    epoch = pair.one.epoch

    async def behind(now: float, limit: int) -> int:
        return 0

    monkeypatch.setattr(pair.truths[0], "purge", behind)
    pair.make.now += KEEP_S + 60
    await pair.one.reap(pair.make.now)
    later = replace(again, now=pair.make.now)
    assert await code(pair.one.open(later)) == "expired"
    assert await code(pair.two.open(later)) == "expired"
    assert (await pair.truths[0].standing()).epoch == epoch


async def test_a_signature_that_counts_no_more_is_found_by_every_broker(pair: Pair) -> None:
    house = cast("House", SimpleNamespace(store=pair.two, make=pair.make, now=pair.make.now))
    states: list[str] = []
    for is_retired in (False, True):
        key = (await pair.two.approvals.propose(proposing(house))).id
        found = await pair.two.approvals.authenticator(key)
        assert found is not None
        await pair.two.approvals.decide(deciding(house, found))
        root = await pair.two.open(pair.make.open(pair.make.root_step()))
        until = pair.make.now + 600
        step = pair.make.child_step(root, approve_by=until, expires_at=until + 300)
        wanted = ask(pair.make, step, Terms(count=2, persons=frozenset({"bob"})))
        await pair.two.open(pair.make.open(step, ask=wanted))
        by_key = signing(pair.make, wanted.asked, ALICE, method="passkey", authenticator=key, sign_count=1)
        assert (await pair.two.approvals.sign(by_key)).state == "asked"
        if is_retired:
            await pair.one.approvals.decide(deciding(house, found, "retire"))
        states.append((await pair.two.approvals.sign(signing(pair.make, wanted.asked, BOB))).state)
    assert states == ["given", "asked"]


async def test_a_revocation_ends_what_another_broker_opened(pair: Pair) -> None:
    """Whoever follows it down has an older copy of the transaction."""
    root = await pair.two.open(pair.make.open(pair.make.root_step()))
    for opener in (pair.two, pair.one):
        child = await opener.open(pair.make.open(pair.make.child_step(root)))
        await pair.one.mark(pair.make.mark(f"step:{child.step.id}"))
        await pair.two.walk(pair.make.now)
        found = await pair.one.step(child.step.id)
        assert found is not None
        assert found.life.state == "revoked", opener


async def test_a_revocation_is_followed_down_to_what_was_on_its_way(pair: Pair) -> None:
    """A transaction that was ordered before the mark, and is in the truth only after the first walk."""
    known = await pair.one.open(pair.make.open(pair.make.root_step()))
    await pair.hold()
    step = pair.make.root_step()
    opening = asyncio.ensure_future(pair.one.open(pair.make.open(step)))
    await pair.ordered()
    marking = [
        asyncio.ensure_future(pair.one.mark(pair.make.mark(f"step:{each}")))
        for each in (known.step.id, step.id)
    ]
    while len((await pair.truths[0].rules()).marks) < 2:
        await asyncio.sleep(0.001)
    pair.two.set_patience(0.05)
    walking = asyncio.ensure_future(pair.two.walk(pair.make.now))
    await asyncio.wait([walking], timeout=0.5)
    pair.carry()
    await asyncio.gather(opening, walking, *marking)
    await pair.two.walk(pair.make.now)
    for each in (known.step.id, step.id):
        found = await pair.one.step(each)
        assert found is not None
        assert found.life.state == "revoked"


async def test_a_transaction_that_cannot_be_reached_is_walked_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await pair.one.open(pair.make.open(pair.make.root_step()))
    await pair.one.mark(pair.make.mark(f"step:{root.step.id}"))

    async def gone(*_: object, **__: object) -> None:
        raise Unavailable("unavailable", "no connection", rule="store")

    with monkeypatch.context() as cut:
        cut.setattr(pair.swifts[1], "commit", gone)
        await pair.two.walk(pair.make.now)
    await pair.two.walk(pair.make.now)
    found = await pair.one.step(root.step.id)
    assert found is not None
    assert found.life.state == "revoked"


async def test_what_the_truth_may_not_have_stays_in_the_swift_engine(pair: Pair) -> None:
    """A purge that is on its way: read again from the truth, the rows would be purged by two works."""
    await pair.one.open(pair.make.open(pair.make.root_step(expires_at=pair.make.now + 60)))
    pair.make.now += 3600
    await pair.one.reap(pair.make.now)
    epoch = pair.one.epoch
    await pair.hold()
    pair.one.durable.wait_s = 0.05
    pair.make.now += 3600
    await pair.one.reap(pair.make.now)
    sweep = asyncio.ensure_future(pair.two.reap(pair.make.now))
    await asyncio.sleep(0.05)
    pair.carry()
    await sweep
    assert (await pair.truths[0].standing()).epoch == epoch


async def test_who_asks_again_and_again_takes_no_more_room() -> None:
    durable = Durable(wait_s=0)
    durable.begin("e", {})
    for seq in (1, 2, 3) * 40:
        assert await code(durable.wait("e", 0, seq, b"work")) == "unavailable"
    assert durable.waiting == 3
    waits = [asyncio.ensure_future(Durable.wait(durable, "e", 0, seq, b"work")) for seq in (2, 1)]
    durable.advance("e", {0: 2})
    assert durable.waiting == 1
    durable.begin("f", {})
    assert durable.waiting == 0
    assert len(await asyncio.gather(*waits, return_exceptions=True)) == 2


@pytest.mark.parametrize(("lost", "times"), [(False, 1), (True, 1)])
async def test_what_may_have_been_done_is_not_done_again(*, lost: bool, times: int) -> None:
    """The server committed, and its answer was lost: told again, the ledger would say it twice."""
    done: list[str] = []

    async def run(items: Sequence[str]) -> Sequence[None]:
        await asyncio.sleep(0)
        done.extend(items)
        if lost:
            raise Unavailable("unavailable", "the answer was lost", rule="store")
        return [None for _ in items]

    group = Group[str, None](run)
    codes = await asyncio.gather(*(code(group.submit(name)) for name in ("a", "b", "c")))
    assert set(codes) == {"unavailable" if lost else "done"}
    assert sorted(done) == ["a", "b", "c"] * times


async def test_what_is_refused_in_a_group_is_refused_alone() -> None:
    done: list[str] = []

    async def run(items: Sequence[str]) -> Sequence[None]:
        await asyncio.sleep(0)
        if "bad" in items:
            raise EpochOver
        done.extend(items)
        return [None for _ in items]

    group = Group[str, None](run)
    ends = await asyncio.gather(*map(group.submit, ("a", "bad", "c")), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), EpochOver, type(None)]
    assert done == ["a", "c"]


async def test_no_answer_is_repeated_after_the_operator_was_told() -> None:
    """By a broker that hears nothing, and looks late."""
    fleet = Fleet()
    try:
        one, late = await fleet.broker(), await fleet.broker(is_late=True)
        record = await fleet.accepted(one, one)
        grant = (await one.reserve(fleet.make.reserve(fleet.make.grant(record)))).grant
        command = fleet.make.redeem(grant)
        assert await code(one.redeem(command)) == "done"
        late.durable.advance(late.epoch, await fleet.truth.positions(late.epoch))
        assert await code(late.redeem(command)) == "done"
        await one.mark(fleet.make.mark(f"grant:{grant.id}"))
        assert not late.marks()
        assert await code(late.redeem(command)) == "revoked"
    finally:
        await fleet.close()


async def test_a_long_lived_proof_that_an_epoch_before_used_is_a_replay() -> None:
    """Shown in its last minutes, in an epoch that is old by then: only the truth knows of it."""
    swift, truth = MemorySwift(SHARDS), MemoryTruth(SHARDS)
    standing = replace(await truth.standing(), began_at=-10_000.0)
    await swift.begin(standing.epoch, standing.order)
    shares, seen = Rates(swift), Used(b"u" * 16, 100.0)
    shares.drop(standing)
    await truth.pin(b"k" * 16, "a key", 100.0, [seen])

    async def take(kind: str, key: bytes) -> str:
        state = FleetState(SeededEntropy(1))
        wanted = Wanted(proofs={key: Proof(kind, seen.until)})
        claims = Claims(swift, truth, shares, state, "")
        return await code(claims.take(standing.epoch, plan_of(wanted, OpDone(key, "", "", 0.0)), standing))

    assert await take("id_jag", b"f" * 16) == "done"
    assert await take("id_jag", seen.key) == "replay"
    assert await take("invitation", seen.key) == "replay"
