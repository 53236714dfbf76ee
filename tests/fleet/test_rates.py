from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.buckets import MemoryBuckets

from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.limits import Charge, Limits, Lives, RateLimit, TransactionLimits, charge
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.seams import EpochOver, Standing

START = 1_790_000_000.0
RATE = RateLimit(name="r", on="credentials", per=("workload",), match=(), count=10, period_s=60.0, burst=5)
TENANT = replace(RATE, name="t", per=("tenant",))
LIMITS = Limits(
    version=3,
    rates=(RATE,),
    concurrency=(),
    transaction=TransactionLimits(steps=5, depth=3, fan_out=2, server_steps=1),
    lives=Lives(step_token_s=60, accepted_s=900, waiting_s=900, credential_s=60, intent_s=3600),
    by="ops",
)
A, B = (Charge(on="credentials", values={"workload": name, "tenant": "t"}) for name in "ab")
HOT = replace(RATE, count=1000, period_s=1.0, burst=1000)


def _standing(epoch: str = "e1", order: int = 1, began_at: float = START) -> Standing:
    return Standing(epoch=epoch, order=order, began_at=began_at, rules=0, shards=1, high=began_at + 100.0)


def _broker(buckets: MemoryBuckets, standing: Standing) -> Rates:
    rates = Rates(buckets)
    rates.drop(standing)
    return rates


def _of(*rates: RateLimit) -> Limits:
    return replace(LIMITS, rates=rates)


def _fleet(count: int = 1) -> tuple[MemoryBuckets, list[Rates]]:
    buckets = MemoryBuckets("e1")
    return buckets, [_broker(buckets, _standing()) for _ in range(count)]


async def _passes(rates: Rates, limits: Limits, now: float, what: Charge = A) -> bool:
    return await _refusal(rates, limits, now, what) is None


async def _refusal(rates: Rates, limits: Limits, now: float, what: Charge) -> Refused | None:
    try:
        await rates.charge(limits, what, now)
    except Refused as refused:
        return refused
    return None


def _expected(limits: Limits, tats: dict[str, float], now: float, what: Charge) -> Refused | None:
    try:
        tats |= charge(limits, what, tats, now)
    except Refused as refused:
        return refused
    return None


def _words(refused: Refused) -> tuple[str | None, ...]:
    return refused.code, refused.reason, refused.rule, refused.who_can_change_it


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 20.0), st.sampled_from([A, B])), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 15)), min_size=1, max_size=3),
)
async def test_one_broker_with_small_bursts_answers_as_the_embedded_rule(
    tries: list[tuple[float, Charge]], rates: list[tuple[int, int]]
) -> None:
    """The same goes through, and a refusal has the same words, rule and time."""
    pers = (("workload",), ("tenant",), ())
    limits = _of(
        *(
            replace(RATE, name=f"l{n}", per=pers[n], count=count, burst=burst)
            for n, (count, burst) in enumerate(rates)
        )
    )
    _, (mine,) = _fleet()
    tats: dict[str, float] = {}
    now = START
    for gap, what in tries:
        now += gap
        expected, got = _expected(limits, tats, now, what), await _refusal(mine, limits, now, what)
        if expected is None:
            assert got is None
            continue
        assert got is not None
        assert _words(got) == _words(expected)
        assert got.retry_after == pytest.approx(expected.retry_after, abs=0.0021)


async def test_without_issuance_limits_nothing_is_let_pass() -> None:
    _, (rates,) = _fleet()
    assert await _passes(rates, LIMITS, START)
    with pytest.raises(Refused) as refused:
        await rates.charge(_of(replace(RATE, on="questions")), A, START)
    assert refused.value.rule == "limits"


async def test_a_refusal_takes_nothing_of_the_other_limits() -> None:
    buckets, (mine, other) = _fleet(2)
    narrow = replace(RATE, burst=1)
    limits = _of(replace(TENANT, burst=3), narrow)
    assert await _passes(mine, limits, START)
    assert not await _passes(other, limits, START)  # asks, finds `narrow` spent, gives back
    assert not await _passes(other, limits, START)  # knows
    tenant_only = _of(replace(TENANT, burst=3))
    assert [await _passes(other, tenant_only, START, B) for _ in range(3)] == [True, True, False]
    assert len(buckets.asked) == 6


async def test_a_spent_limit_is_refused_without_asking_until_its_time() -> None:
    buckets, (rates,) = _fleet()
    assert [await _passes(rates, LIMITS, START) for _ in range(50)].count(True) == 5
    assert len(buckets.asked) == 5
    assert not await _passes(rates, LIMITS, START + 5.9)
    assert await _passes(rates, LIMITS, START + 6.0)
    assert len(buckets.asked) == 6


async def test_a_hot_limit_costs_few_questions_and_a_low_one_is_asked_one_by_one() -> None:
    buckets, (rates,) = _fleet()
    assert all([await _passes(rates, _of(HOT), START + n / 1000) for n in range(2000)])
    assert len(buckets.asked) < 100
    assert max(ask.wanted for ask in buckets.asked) > 30
    buckets.asked.clear()
    assert all([await _passes(rates, _of(HOT), START + 10.0 + n) for n in range(20)])
    assert [ask.wanted for ask in buckets.asked[-10:]] == [1] * 10


async def test_what_is_asked_ahead_comes_before_it_is_needed() -> None:
    buckets, (rates,) = _fleet()
    waited = 0
    for n in range(2000):
        before = len(buckets.asked)
        assert await _passes(rates, _of(HOT), START + n / 1000)
        waited += len(buckets.asked) > before
        await asyncio.sleep(0)  # the question ahead is asked here
    assert waited < 20 < len(buckets.asked)
    await rates.close()


async def test_many_at_once_ask_together() -> None:
    buckets, (rates,) = _fleet()

    async def slow() -> None:
        await asyncio.sleep(0.001)

    buckets.before = slow
    for n in range(4):
        assert all(await asyncio.gather(*(_passes(rates, _of(HOT), START + n / 100) for _ in range(100))))
    assert len(buckets.asked) < 60


async def test_a_limit_that_was_changed_leaves_no_cells_of_the_old_one() -> None:
    _, (rates,) = _fleet()
    for n in range(200):
        assert await _passes(rates, _of(HOT), START + n / 1000)
    none_left = replace(HOT, count=1, period_s=60.0, burst=1)
    assert not await _passes(rates, _of(none_left), START + 0.2)
    assert await _passes(rates, _of(HOT), START + 0.2)


async def test_a_new_epoch_forgets_what_was_had_and_gives_no_second_burst() -> None:
    buckets, (rates,) = _fleet()
    assert [await _passes(rates, LIMITS, START) for _ in range(6)].count(True) == 5
    buckets.begin("e2")
    with pytest.raises(EpochOver):
        await rates.charge(LIMITS, A, START + 7.0)
    rates.drop(_standing("e2", 2, START + 7.0))
    assert not await _passes(rates, LIMITS, START + 7.0)
    assert not await _passes(rates, LIMITS, START + 13.2)
    assert await _passes(rates, LIMITS, START + 13.25)


async def test_a_charge_that_an_epoch_overtook_is_over() -> None:
    buckets, (rates,) = _fleet()
    assert await _passes(rates, LIMITS, START)

    async def new_epoch() -> None:
        rates.drop(_standing("e2", 2))

    buckets.after = new_epoch
    with pytest.raises(EpochOver):
        await rates.charge(LIMITS, A, START)


async def test_an_engine_that_does_not_answer_lets_nothing_pass_and_leaves_the_rest_as_it_was() -> None:
    buckets, (rates,) = _fleet()
    limits = _of(RATE, TENANT)
    assert await _passes(rates, limits, START)

    async def down() -> None:
        raise Unavailable("unavailable", "gone", rule="store")

    buckets.before = down
    with pytest.raises(Unavailable):
        await rates.charge(limits, A, START)
    buckets.before = MemoryBuckets("").before
    assert [await _passes(rates, limits, START) for _ in range(5)].count(True) == 4


async def test_those_who_wait_for_a_question_that_fails_fail_with_it() -> None:
    buckets, (rates,) = _fleet()
    tries = 0

    async def timeout() -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.001)
        raise Unavailable("unavailable", "no answer", rule="store")

    assert await _passes(rates, _of(HOT), START)
    buckets.before = timeout
    ends = await asyncio.gather(
        *(rates.charge(_of(HOT), A, START) for _ in range(20)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [Unavailable] * 20
    assert tries == 1


async def test_a_limit_that_is_asked_one_by_one_makes_nobody_wait_for_another() -> None:
    buckets, (rates,) = _fleet()
    under_way = most = 0

    async def slow() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    buckets.before = slow
    answers = await asyncio.gather(*(_passes(rates, LIMITS, START) for _ in range(8)))
    assert (answers.count(True), most) == (5, 8)


@dataclass
class _Fleet:
    """Brokers that run on one clock, with a network between them and the buckets that delays and loses."""

    random: Random
    limit: RateLimit
    now: float = START
    epochs: list[float] = field(default_factory=list)
    uses: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets, self.brokers = _fleet(3)
        self.buckets.before = self.buckets.after = self.network

    async def network(self) -> None:
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
            self.now += self.random.choice([0.0, 0.001, 0.01, 0.3])
        if self.random.random() < 0.05:
            raise Unavailable("unavailable", "lost", rule="store")

    async def caller(self, tries: int) -> None:
        for _ in range(tries):
            broker, at, epoch = self.random.randrange(3), self.now, len(self.epochs)
            try:
                await self.brokers[broker].charge(_of(self.limit, TENANT_WIDE), A, at)
            except EpochOver:
                self.brokers[broker].drop(self.standing())
            except (Refused, Unavailable):
                self.now += 0.001
            else:
                if len(self.epochs) == epoch:  # a later epoch does not take the commit
                    self.uses.append((epoch, at))
            if self.random.random() < 0.02:
                self.brokers[broker] = _broker(self.buckets, self.standing())  # died; another began
            if self.random.random() < 0.004:
                self.epochs.append(self.now)
                self.buckets.begin(self.standing().epoch)
            self.now += self.random.choice([0.0, 0.0, 0.002, 0.05])

    def standing(self) -> Standing:
        order = len(self.epochs) + 1
        return _standing(f"e{order}", order, self.epochs[-1] if self.epochs else START)


TENANT_WIDE = replace(TENANT, count=1000, period_s=1.0, burst=1000)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 200))
async def test_a_fleet_of_brokers_never_lets_more_pass_than_the_limit(
    seed: int, count: int, burst: int
) -> None:
    fleet = _Fleet(Random(seed), replace(RATE, count=count, period_s=1.0, burst=burst))
    await asyncio.gather(*(fleet.caller(40) for _ in range(8)))
    for broker in fleet.brokers:
        await broker.close()
    uses, interval = sorted(at for _, at in fleet.uses), 1.0 / count
    for first, began in enumerate(uses):
        for last in range(first, len(uses)):
            assert last - first + 1 <= burst + (uses[last] - began) / interval + 2e-3
    fleet.buckets.before = fleet.buckets.after = MemoryBuckets("").before
    fresh = _broker(fleet.buckets, fleet.standing())
    assert await _passes(fresh, _of(fleet.limit), fleet.now + 2.0 + interval * (burst + 1))


async def test_shares_that_are_worth_nothing_are_forgotten() -> None:
    _, (rates,) = _fleet()
    assert await _passes(rates, LIMITS, START)
    assert rates.tats() == {"r\x1fa": START + 6.0}
    rates.prune(START + 5.9)
    assert rates.tats()
    rates.prune(START + 6.0)
    assert rates.tats() == {}


async def test_before_the_first_epoch_nothing_is_had() -> None:
    buckets, _ = _fleet()
    with pytest.raises(EpochOver):
        await Rates(buckets).charge(LIMITS, A, START)
