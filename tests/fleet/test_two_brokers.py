"""Several brokers on one fleet's engines in memory: what one did, another knows; nothing is spent twice."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.test_fleet_store import SHARDS
from tests.fakes import build
from tests.fakes.build import Maker
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy
from tests.fakes.fleet import MemorySwift, MemoryTruth
from tests.fakes.workers import ended

from stepwrit_broker.core.errors import Problem, Refused, Unavailable
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.store.fleet.claiming import Claims
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.scratch import Plan
from stepwrit_broker.store.fleet.seams import EpochOver, OpDone, Told
from stepwrit_broker.store.fleet.sequencer import carried_of
from stepwrit_broker.store.fleet.state import FleetState, Proof, Wanted
from stepwrit_broker.store.fleet.store import RELOAD_EVERY, FleetStore


@dataclass
class Fleet:
    """Brokers that start and stop on the same engines."""

    swift: MemorySwift = field(default_factory=lambda: MemorySwift(SHARDS))
    truth: MemoryTruth = field(default_factory=lambda: MemoryTruth(SHARDS))
    make: Maker = field(default_factory=lambda: Maker(now=START))
    tasks: list[asyncio.Future[None]] = field(default_factory=list)
    stores: list[FleetStore] = field(default_factory=list)

    async def broker(self, *, me: str = "", is_late: bool = False) -> FleetStore:
        number = len(self.stores)
        store = FleetStore(
            self.swift,
            self.truth,
            Rates(self.swift),
            SeededEntropy(number + 5),
            me=me or f"broker {number}",
            now=lambda: 0.0,
        )
        await store.start()
        store.use(build.limits(), lambda: 0)
        self.stores.append(store)
        if not is_late:
            self.work(store)
        self.make.epoch = store.epoch
        return store

    def work(self, store: FleetStore) -> None:
        """What it does beside answering; a broker that is late hears nothing until then."""
        self.tasks += [asyncio.ensure_future(run()) for run in store.runs()]

    async def close(self) -> None:
        await ended(self.tasks)

    async def accepted(self, store: FleetStore, other: FleetStore) -> StepRecord:
        """Opened here, accepted there."""
        root = await store.open(self.make.open(self.make.root_step()))
        child = await other.open(self.make.open(self.make.child_step(root)))
        return (await store.accept(self.make.accept(child)))[0]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.close()


async def test_an_epoch_is_begun_on_one_server_alone(fleet: Fleet) -> None:
    """Two fail-overs while a broker stands still. It finds an epoch that another one made, that has works in
    the truth, and a server that knows nothing of it: numbers from 1 on would be taken for those works.
    """
    one, late = await fleet.broker(), await fleet.broker(is_late=True)
    fleet.swift.lose()
    with pytest.raises(EpochOver):
        await fleet.swift.join(one.epoch)
    for _ in range(SHARDS * 8):
        await opened(one, fleet.make)
    made = await fleet.truth.standing()
    assert max((await fleet.truth.positions(made.epoch)).values()) > SHARDS * 4
    fleet.tasks[0].cancel()
    await ended(fleet.tasks)
    fleet.swift.lose()
    fleet.work(late)
    for _ in range(SHARDS * 4):
        root = await opened(late, fleet.make)
        assert await fleet.truth.whose(f"steps:{root.step.id}") == root.step.txn
    assert (await fleet.truth.standing()).order == made.order + 1


async def opened(store: FleetStore, make: Maker) -> StepRecord:
    """A root, once its epoch stands."""
    while True:
        make.epoch = store.epoch
        try:
            return await store.open(make.open(make.root_step()))
        except Unavailable:
            await asyncio.sleep(0.01)


class Restless(MemoryTruth):
    """Another broker ends the epoch between a look at it and the next, so many times."""

    ends = 0

    async def positions(self, epoch: str) -> Mapping[int, int]:
        if self.ends:
            self.ends -= 1
            await self.next_epoch(epoch, f"{self.ends + 1:032x}")
        return await super().positions(epoch)


async def test_an_epoch_that_ends_while_a_broker_starts_is_not_its_end() -> None:
    truth = Restless(SHARDS)
    fleet = Fleet(truth=truth)
    truth.ends = 3
    one = await fleet.broker()
    assert truth.ends == 0
    assert one.epoch == (await truth.standing()).epoch
    await fleet.accepted(one, one)
    truth.ends = 1000
    with pytest.raises(Unavailable) as restless:
        await fleet.broker()
    assert restless.value.retry_after is not None
    await fleet.close()


async def code(call: object) -> str:
    try:
        await call  # type: ignore[misc]
    except Problem as problem:
        return problem.code
    return "done"


async def test_each_hop_of_a_step_may_come_to_another_broker(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    record = await fleet.accepted(one, two)
    reserved = await two.reserve(fleet.make.reserve(fleet.make.grant(record)))
    redeem = fleet.make.redeem(reserved.grant)
    assert (await one.redeem(redeem))[0].state == "redeemed"
    assert (await two.redeem(redeem))[0].state == "redeemed", "the same operation is answered by any"
    assert await code(two.redeem(fleet.make.redeem(reserved.grant))) == "replay"
    assert (await two.move(fleet.make.move(record, "close"))).record.life.state == "done"
    assert await code(one.move(fleet.make.move(record, "wait"))) == "already_done"
    assert [entry["kind"] for entry in fleet.truth.entries()].count("grant.redeemed") == 1


async def test_a_refusal_never_comes_of_an_old_copy(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    record = await fleet.accepted(one, two)
    waiting = fleet.make.move(record, "wait")
    await one.move(waiting)  # two still has it as opened
    before = dict(two.retries)
    again = await two.accept(fleet.make.accept(record, round=2))
    assert again[0].life.round == 2
    assert two.retries["version"] == before.get("version", 0) + 1


async def test_a_root_that_is_repeated_elsewhere_is_the_same_root(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    command = fleet.make.open(fleet.make.root_step())
    first = await one.open(command)
    again = replace(command, step=fleet.make.root_step(), proofs=())
    assert await two.open(again) == first
    fleet.swift.lose()
    assert await code(two.open(again)) in ("unavailable", "done")
    assert await one.open(again) == first
    other = replace(again, op=replace(again.op, digest="another"))
    assert await code(two.open(other)) == "operation_reused"


async def test_a_root_whose_first_try_came_to_nothing_is_opened_by_the_next(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    command = fleet.make.open(fleet.make.root_step())
    again = replace(command, step=fleet.make.root_step())

    async def gone(*_: object, **__: object) -> None:
        raise Unavailable("unavailable", "no connection", rule="store")

    with monkeypatch.context() as cut:  # before anything was sent: nothing of it stays claimed
        cut.setattr(MemorySwift, "lease", gone)
        assert await code(one.open(command)) == "unavailable"
    assert (await two.open(again)).step.txn == again.step.txn
    assert await two.open(command) == await one.open(again)

    command = fleet.make.open(fleet.make.root_step())
    again = replace(command, step=fleet.make.root_step())
    with monkeypatch.context() as cut:  # it may have landed: for a while nobody else may try
        cut.setattr(MemorySwift, "commit", gone)
        assert await code(one.open(command)) == "unavailable"
    assert await code(two.open(again)) == "unavailable"
    fleet.make.now += 16
    later = replace(again, now=fleet.make.now)
    assert (await two.open(later)).step.txn == again.step.txn


async def test_a_proof_is_good_once_on_all_brokers_and_in_all_epochs(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    command = fleet.make.open(fleet.make.root_step())
    await one.open(command)
    stolen = fleet.make.open(fleet.make.root_step(), proofs=command.proofs)
    assert await code(two.open(stolen)) == "replay"
    fleet.swift.lose()
    await two.open(fleet.make.open(fleet.make.root_step()))
    assert await code(two.open(stolen)) == "replay"


async def test_the_swift_engine_keeps_nothing_of_a_transaction_that_is_gone(fleet: Fleet) -> None:
    one = await fleet.broker()
    root = await one.open(fleet.make.open(fleet.make.root_step(expires_at=fleet.make.now + 60)))
    txn, held = root.step.txn, [name for shard in fleet.swift.shards for name in shard.txns]
    assert held == [txn]
    for _ in range(3):
        fleet.make.now += 3600
        await one.reap(fleet.make.now)
    assert not any(shard.txns for shard in fleet.swift.shards)
    assert not await one.knows(txn)


async def test_a_try_that_is_refused_gives_nothing_back_that_another_try_of_it_has_used() -> None:
    swift, truth = MemorySwift(SHARDS), MemoryTruth(SHARDS)
    standing = replace(await truth.standing(), began_at=-10_000.0)
    await swift.begin(standing.epoch, standing.order)
    shares = Rates(swift)
    shares.drop(standing)

    seeds = itertools.count(1)

    def claims(name: bytes) -> tuple[Claims, Plan[None]]:
        state = FleetState(SeededEntropy(next(seeds)))
        wanted = Wanted(proofs={b"p" * 16: Proof("dpop", 60.0)})
        return Claims(swift, truth, shares, state, "txn"), plan_of(wanted, OpDone(name, "digest", "", 0.0))

    used, plan = claims(b"a" * 16)
    await used.take(standing.epoch, plan, standing)  # and commits
    late, again = claims(b"a" * 16)
    await late.take(standing.epoch, again, standing)  # the same operation elsewhere: not a replay
    await late.refused(standing.epoch)
    thief, stolen = claims(b"b" * 16)
    with pytest.raises(Refused, match="this dpop proof was used before"):
        await thief.take(standing.epoch, stolen, standing)
    await used.refused(standing.epoch)  # had it not committed
    await thief.take(standing.epoch, stolen, standing)


def plan_of(wanted: Wanted, op: OpDone) -> Plan[None]:
    return Plan(
        answer=None, changes=(), said=(), kept=(), salts=(), erased=(), marks=(), lifted=(), version=None,
        op=op, uses=(), ended=(), wanted=wanted, rules=0, now=0.0,
    )  # fmt: skip


async def test_a_mark_stops_every_broker_before_it_is_acknowledged(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    record = await fleet.accepted(one, two)
    grant = (await two.reserve(fleet.make.reserve(fleet.make.grant(record)))).grant
    await one.mark(fleet.make.mark(f"step:{record.step.id}"))
    assert await code(two.redeem(fleet.make.redeem(grant))) == "revoked"


async def test_a_freeze_is_lifted_by_another_broker_than_set_it(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    for setter, lifter in ((one, two), (two, one), (one, two)):
        frozen = fleet.make.mark("tool:mail/send", "freeze")
        await setter.mark(frozen)
        assert (await fleet.truth.rules()).marks.keys() == {"tool:mail/send"}
        await lifter.mark(fleet.make.mark("tool:mail/send", "freeze", lift=True))
        assert not (await fleet.truth.rules()).marks
        assert not lifter.marks()


async def test_the_brake_works_without_the_swift_engine(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    record = await fleet.accepted(one, two)
    grant = (await two.reserve(fleet.make.reserve(fleet.make.grant(record)))).grant

    async def gone(*_: object) -> None:
        raise Unavailable("unavailable", "no connection", rule="store")

    with monkeypatch.context() as cut:
        for verb in ("rule", "fetch", "hold", "commit", "claim", "begin", "tell"):
            cut.setattr(MemorySwift, verb, gone)
        assert await one.step(record.step.id) == record
        assert await one.knows(record.step.txn)
        assert await one.grant(grant.id) is not None
        assert not await one.knows("txn_1" + "0" * 28)
        mark = await one.mark(fleet.make.mark(f"step:{record.step.id}"))
    assert mark.verb == "revoke"
    assert [said.txn for said in fleet.truth.entries_said() if said.kind == "mark.set"] == [record.step.txn]
    assert await code(two.redeem(fleet.make.redeem(grant))) in ("revoked", "unavailable")
    assert await code(one.redeem(fleet.make.redeem(grant))) in ("revoked", "unavailable")
    assert not any(entry["kind"] == "grant.redeemed" for entry in fleet.truth.entries())


async def test_a_forged_word_brings_no_answer_forward(fleet: Fleet) -> None:
    one = await fleet.broker()
    root = await one.open(fleet.make.open(fleet.make.root_step()))
    fleet.tasks[0].cancel()  # nobody carries anything to the truth any more
    child = asyncio.ensure_future(one.open(fleet.make.open(fleet.make.child_step(root))))
    await asyncio.sleep(0.05)
    carried = carried_of(fleet.swift._after({}))
    true = one.sequencer.seal.durable(one.epoch, carried)
    await fleet.swift.tell(Told("durable", b"\0" * 32 + true.body[32:]))
    await asyncio.sleep(0.05)
    assert not child.done()
    await fleet.swift.tell(true)
    assert (await child).step.parent == root.step.id


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_a_credential_is_spent_once_whoever_is_asked_and_whatever_is_lost(seed: int) -> None:
    """Three brokers, each credential shown to all at once, the swift engine emptied at any moment."""

    async def run() -> None:
        fleet, chance = Fleet(), random.Random(seed)
        brokers = [await fleet.broker() for _ in range(3)]
        spent: list[str] = []
        try:
            for _ in range(3):
                await _shown_to_all(fleet, brokers, chance, spent)
        finally:
            await fleet.close()
        told = [entry["grant"] for entry in fleet.truth.entries() if entry["kind"] == "grant.redeemed"]
        assert len(set(told)) == len(told)
        assert len(set(spent)) == len(spent)
        assert set(spent) <= set(told), "no go-ahead without its entry"

    asyncio.run(run())


async def _shown_to_all(
    fleet: Fleet, brokers: list[FleetStore], chance: random.Random, spent: list[str]
) -> None:
    try:
        record = await fleet.accepted(chance.choice(brokers), chance.choice(brokers))
        fleet.make.epoch = chance.choice(brokers).epoch
        at = chance.choice(brokers)
        grant = (await at.reserve(fleet.make.reserve(fleet.make.grant(record)))).grant
    except (Refused, Unavailable):
        return  # the epoch ended under it

    async def show(broker: FleetStore) -> None:
        await asyncio.sleep(chance.random() / 500)
        try:
            await broker.redeem(fleet.make.redeem(grant))
        except Problem:
            return
        spent.append(grant.id)

    async def lose() -> None:
        await asyncio.sleep(chance.random() / 300)
        if chance.random() < 0.5:
            fleet.swift.lose()

    await asyncio.gather(*(show(chance.choice(brokers)) for _ in range(6)), lose())


async def test_a_mark_on_what_is_gone_goes_from_every_broker(fleet: Fleet) -> None:
    one, two = await fleet.broker(), await fleet.broker()
    root = await one.open(fleet.make.open(fleet.make.root_step()))
    target, kept = f"txn:{root.step.txn}", "tool:mail/send"
    for each in (target, kept):
        await one.mark(fleet.make.mark(each))
    while set(two.marks()) != {target, kept}:
        await asyncio.sleep(0.001)
    for _ in range(2):
        fleet.make.now += 3600
        await one.reap(fleet.make.now)
    assert not await one.knows(root.step.txn)
    assert set((await fleet.truth.rules()).marks) == set(one.marks()) == {kept}
    assert set(two.marks()) == {target, kept}, "it is told nothing, as nothing is another"
    for _ in range(RELOAD_EVERY):
        await two.reap(fleet.make.now)
    assert set(two.marks()) == {kept}
