"""The order of a revocation against work that is under way, once for every pair of engines.

A test module names a fixture `pair`.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.fleet.pair import Pair

from stepwrit_broker.clock import JUMP_S
from stepwrit_broker.core.errors import Problem, Refused, Unavailable
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.store.fleet.store import FleetStore


async def code(call: object) -> str:
    try:
        await call  # type: ignore[misc]
    except Problem as problem:
        return problem.code
    return "done"


class OrderSuite:
    """`one` is told; `two` is asked."""

    async def test_a_mark_waits_for_what_was_ordered_before_it(self, pair: Pair) -> None:
        under_way, later = await pair.held(), await pair.held()
        await pair.hold()
        redeem = asyncio.ensure_future(pair.two.redeem(pair.make.redeem(under_way)))
        await pair.ordered()
        mark = asyncio.ensure_future(pair.one.mark(pair.make.mark(f"grant:{under_way.id}")))
        other = asyncio.ensure_future(pair.one.mark(pair.make.mark(f"grant:{later.id}")))
        while not {f"grant:{each.id}" for each in (under_way, later)} <= set(pair.two.marks()):
            await asyncio.sleep(0.005)
        assert await code(pair.two.redeem(pair.make.redeem(later))) == "revoked", "in force at once"
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in (redeem, mark, other))
        assert await pair.told("grant.redeemed", under_way) == 0
        pair.carry()
        await mark
        assert await pair.told("grant.redeemed", under_way) == 1, "what came before is there when it returns"
        assert (await redeem)[0].state == "redeemed"
        await other
        assert await code(pair.two.redeem(pair.make.redeem(later))) == "revoked"

    async def test_what_is_not_carried_in_time_never_will_be(self, pair: Pair) -> None:
        grant, epoch = await pair.held(), pair.one.epoch
        pair.one.set_patience(0.3)
        await pair.hold()
        redeem = asyncio.ensure_future(pair.two.redeem(pair.make.redeem(grant)))
        await pair.ordered()
        await pair.one.mark(pair.make.mark(f"grant:{grant.id}"))
        assert (await pair.truths[0].standing()).epoch != epoch
        with pytest.raises(Unavailable):
            await redeem
        pair.carry()
        pair.make.epoch = (await pair.truths[0].standing()).epoch
        fresh = await _held(pair)
        assert (await pair.two.redeem(pair.make.redeem(fresh)))[0].state == "redeemed"
        assert await pair.told("grant.redeemed", grant) == 0
        assert await code(pair.two.redeem(pair.make.redeem(grant))) in ("revoked", "expired")

    async def test_a_mark_that_is_repeated_is_in_force_as_well(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first try was committed and came no further."""
        grant = await pair.held()
        command = pair.make.mark(f"grant:{grant.id}")
        with monkeypatch.context() as cut:
            for truth in pair.truths[:1]:
                cut.setattr(truth, "next_epoch", _gone)
            cut.setattr(pair.swifts[0], "rule", _gone)
            assert await code(pair.one.mark(command)) == "unavailable"
        asked: list[int] = []
        rule = pair.swifts[0].rule

        async def noted(epoch: str, number: int) -> object:
            asked.append(number)
            return await rule(epoch, number)

        monkeypatch.setattr(pair.swifts[0], "rule", noted)
        await pair.one.mark(command)
        assert asked
        assert asked[-1] >= (await pair.truths[0].standing()).rules
        assert await code(pair.two.redeem(pair.make.redeem(grant))) == "revoked"

    async def test_no_epoch_that_began_before_a_mark_outlives_its_fall_back(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another broker began one meanwhile, and this one cannot reach Redis."""
        began: list[str] = []
        rule = pair.truths[0].rule

        async def late(change: object) -> int:
            standing = await pair.truths[0].standing()
            began.append((await pair.truths[0].next_epoch(standing.epoch, "e" * 32)).epoch)
            return await rule(change)  # type: ignore[arg-type]

        with monkeypatch.context() as cut:
            cut.setattr(pair.truths[0], "rule", late)
            for verb in ("rule", "begin", "tell"):
                cut.setattr(pair.swifts[0], verb, _gone)
            await pair.one.mark(pair.make.mark("tool:anything"))
        assert began == ["e" * 32]
        assert (await pair.truths[0].standing()).epoch != "e" * 32

    async def test_nothing_is_waited_for_where_nothing_is_under_way(self, pair: Pair) -> None:
        await pair.held()
        await pair.hold()
        await asyncio.wait_for(pair.one.mark(pair.make.mark("tool:anything")), 2)


async def _held(pair: Pair) -> Grant:
    """In an epoch that begins under it, whose rate limits are empty at first."""
    while True:
        try:
            return await pair.held()
        except (Unavailable, Refused):
            pair.make.now += 1
            await asyncio.sleep(0.05)
            pair.make.epoch = pair.two.epoch


async def _gone(*_: object, **__: object) -> None:
    raise Unavailable("unavailable", "no connection", rule="store")


class EpochSuite:
    """A broker that is late with what the others have long done."""

    async def test_a_broker_that_is_late_to_begin_an_epoch_ends_none(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It made one, slept, and begins it where a later one has begun: the other did not wait."""
        before = pair.one.epoch
        asleep, awake = asyncio.Event(), asyncio.Event()
        begin = pair.swifts[0].begin

        async def late(epoch: str, order: int) -> None:
            asleep.set()
            await awake.wait()
            await begin(epoch, order)

        with monkeypatch.context() as cut:
            cut.setattr(pair.swifts[0], "begin", late)
            renewing = asyncio.ensure_future(pair.one.epochs.renew(before))
            await asleep.wait()
            first = (await pair.truths[0].standing()).epoch
            await pair.two.epochs.renew(before)
            second = pair.two.epoch
            grant = await _held_by(pair, pair.two)
            awake.set()
            await renewing
        assert (await pair.truths[0].standing()).epoch == second != first
        assert pair.one.epoch == pair.two.epoch == second
        assert (await pair.one.redeem(pair.make.redeem(grant)))[0].state == "redeemed"


async def _held_by(pair: Pair, store: FleetStore) -> Grant:
    """Where the other one sleeps."""
    pair.make.epoch = store.epoch
    both, pair.stores = pair.stores, [store, store]
    try:
        return await _held(pair)
    finally:
        pair.stores = both


class ClockSuite:
    """A broker whose clock goes wrong while it serves."""

    @pytest.mark.parametrize("seconds", [3.0, -3.0, 30.0])
    async def test_it_grants_nothing_until_it_is_right_again(self, pair: Pair, seconds: float) -> None:
        first, second = await pair.held(), await pair.held()
        await pair.one.clock.look()
        await pair.one.redeem(pair.make.redeem(first))
        pair.skew(0, seconds)
        await pair.one.clock.look()
        with pytest.raises(Unavailable) as doubt:
            await pair.one.redeem(pair.make.redeem(second))
        assert doubt.value.rule == "clock"
        assert await code(pair.one.open(pair.make.open(pair.make.root_step()))) == "unavailable"
        assert pair.one.clock.doubt() is not None
        assert (await pair.two.redeem(pair.make.redeem(second)))[0].state == "redeemed", "it is this one's"
        await pair.one.mark(pair.make.mark("tool:anything"))
        pair.skew(0, 0.0)
        if seconds < JUMP_S:
            await pair.one.clock.look()
            assert pair.one.clock.doubt() is None
            await pair.one.open(pair.make.open(pair.make.root_step()))

    async def test_a_little_is_lived_with(self, pair: Pair) -> None:
        pair.skew(0, 0.5)
        await pair.one.clock.look()
        await pair.one.redeem(pair.make.redeem(await pair.held()))


class LossSuite:
    """The swift engine loses all that it had."""

    async def test_every_transaction_that_was_confirmed_goes_on(self, pair: Pair) -> None:
        """Credentials that were not used die with the epoch; what they were for is asked for again."""
        grants = [await pair.held() for _ in range(10)]
        await pair.one.redeem(pair.make.redeem(grants[0]))
        records = {each.id: await pair.two.step(each.step) for each in grants}
        over = pair.one.epoch
        await pair.lose()
        fresh = await _held(pair)
        assert (await pair.two.redeem(pair.make.redeem(fresh)))[0].state == "redeemed"
        assert (await pair.truths[0].standing()).epoch != over
        pair.make.epoch = pair.two.epoch
        for grant in grants:
            record = records[grant.id]
            assert record is not None
            assert await pair.two.step(grant.step) == record
            spent = grant is grants[0]
            dead = await code(pair.one.redeem(pair.make.redeem(grant)))
            assert dead == ("replay" if spent else "expired")
            reserve = pair.make.reserve(pair.make.grant(record))
            if spent:
                assert await code(pair.two.reserve(reserve)) == "plan", "its one use is not forgotten"
                continue
            again = (await pair.two.reserve(reserve)).grant
            assert (await pair.one.redeem(pair.make.redeem(again)))[0].state == "redeemed"
            assert (await pair.two.move(pair.make.move(record, "close"))).record.life.state == "done"
