from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.limits import (
    Allowed,
    Charge,
    ConcurrencyLimit,
    Denied,
    Limits,
    Lives,
    RateLimit,
    TransactionLimits,
    charge,
    outstanding_keys,
    spend,
    within_transaction,
)

START = 1_790_000_000.0
RATE = RateLimit(name="r", on="credentials", per=("workload",), match=(), count=10, period_s=60.0, burst=5)
LIMITS = Limits(
    version=3,
    rates=(RATE,),
    concurrency=(),
    transaction=TransactionLimits(steps=5, depth=3, fan_out=2, server_steps=1),
    lives=Lives(step_token_s=60, accepted_s=900, waiting_s=900, credential_s=60, intent_s=3600),
    by="ops",
)
A, B = (Charge(on="credentials", values={"workload": name}) for name in "ab")


def _run(limit: RateLimit, arrivals: list[float]) -> list[float]:
    """The times at which a cell was granted."""
    tat, granted = 0.0, []
    for now in arrivals:
        outcome = spend(limit, tat, now)
        if isinstance(outcome, Allowed):
            tat = outcome.tat
            granted.append(now)
    return granted


arrivals = st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=80).map(
    lambda gaps: [START + sum(gaps[: n + 1]) / 10 for n in range(len(gaps))]
)


@settings(max_examples=150)
@given(
    arrivals,
    st.integers(1, 20),
    st.sampled_from([1.0, 60.0, 3600.0]),
    st.integers(1, 8),
)
def test_no_window_is_ever_over_granted(times: list[float], count: int, period: float, burst: int) -> None:
    limit = replace(RATE, count=count, period_s=period, burst=burst)
    granted, interval = _run(limit, times), period / count
    for first, began in enumerate(granted):
        for last in range(first, len(granted)):
            length = granted[last] - began
            assert last - first + 1 <= burst + length / interval + 1e-3


@settings(max_examples=150)
@given(arrivals, st.integers(1, 20), st.integers(1, 8))
def test_a_bucket_that_leaks_at_the_same_rate_grants_the_same(
    times: list[float], count: int, burst: int
) -> None:
    """The oracle: a bucket of `burst` cells, filled at the rate; what is within a hair counts either way."""
    limit = replace(RATE, count=count, burst=burst)
    tat, level, last = 0.0, float(burst), times[0]
    for now in times:
        level, last = min(float(burst), level + (now - last) * count / 60.0), now
        outcome = spend(limit, tat, now)
        if abs(level - 1.0) > 2e-3:
            assert isinstance(outcome, Allowed) is (level >= 1.0)
        if isinstance(outcome, Allowed):
            tat, level = outcome.tat, level - 1.0


@given(st.integers(1, 100), st.integers(1, 20), st.floats(0, 1000))
def test_after_the_time_that_a_denial_names_the_next_try_is_allowed(
    count: int, burst: int, offset: float
) -> None:
    limit, now, tat = replace(RATE, count=count, burst=burst), START + offset, 0.0
    for _ in range(burst):
        outcome = spend(limit, tat, now)
        assert isinstance(outcome, Allowed)
        tat = outcome.tat
    denied = spend(limit, tat, now)
    assert isinstance(denied, Denied)
    assert denied.retry_after > 0
    assert isinstance(spend(limit, tat, now + denied.retry_after), Allowed)


def test_a_clock_that_went_back_grants_nothing_more() -> None:
    granted = _run(replace(RATE, burst=1), [START, START - 3600, START - 1, START, START + 5.9, START + 6.0])
    assert granted == [START, START + 6.0]


def test_a_charge_counts_each_limit_that_speaks_of_it_under_its_own_key() -> None:
    every = replace(RATE, name="all", per=())
    other = replace(RATE, name="steps", on="steps")
    matched = replace(RATE, name="m", match=(("origin", "server"),))
    limits = replace(LIMITS, rates=(RATE, every, other, matched))
    assert set(charge(limits, A, {}, START)) == {"r\x1fa", "all"}
    server = Charge(on="credentials", values={"workload": "a", "origin": "server"})
    assert set(charge(limits, server, {}, START)) == {"r\x1fa", "all", "m\x1fa"}
    assert charge(limits, Charge(on="intents"), {}, START) == {}


def test_one_callers_tries_do_not_burn_anothers_bucket_and_a_refusal_stores_nothing() -> None:
    tats: dict[str, float] = {}
    for _ in range(RATE.burst):
        tats |= charge(LIMITS, A, tats, START)
    before = dict(tats)
    with pytest.raises(Refused) as refused:
        charge(LIMITS, A, tats, START)
    assert tats == before
    assert refused.value.code == "limit"
    assert refused.value.rule == "limits v3 r"
    assert refused.value.retry_after == pytest.approx(6.0, abs=0.002)
    assert refused.value.who_can_change_it == "ops"
    assert "10/min of credentials per workload" in refused.value.reason
    assert charge(LIMITS, B, tats, START)


def test_the_limit_that_is_spent_for_longest_is_named_and_no_other_is_charged() -> None:
    slow = replace(RATE, name="slow", count=1, period_s=3600.0, burst=1)
    quick = replace(RATE, name="quick", count=60, burst=1)
    limits = replace(LIMITS, rates=(quick, slow, replace(RATE, name="wide", burst=100)))
    tats = charge(limits, A, {}, START)
    with pytest.raises(Refused) as refused:
        charge(limits, A, tats, START)
    assert refused.value.rule == "limits v3 slow"
    swapped = replace(limits, rates=(slow, quick))
    with pytest.raises(Refused) as refused:
        charge(swapped, A, tats, START)
    assert refused.value.rule == "limits v3 slow"


def test_what_a_refusal_says_to_wait_is_never_a_moment_too_early() -> None:
    limits = replace(LIMITS, rates=(replace(RATE, count=7, period_s=1.0, burst=1, per=()),))
    tats = charge(limits, A, {}, START)
    with pytest.raises(Refused) as refused:
        charge(limits, A, tats, START)
    assert "per broker" in refused.value.reason
    assert refused.value.retry_after is not None
    assert charge(limits, A, tats, START + refused.value.retry_after)


def test_without_any_rate_limit_nothing_is_issued() -> None:
    assert charge(LIMITS, A, {}, START)
    with pytest.raises(Refused) as refused:
        charge(replace(LIMITS, rates=()), A, {}, START)
    assert refused.value.code == "limit"


@pytest.mark.parametrize(
    ("period", "text"),
    [(1.0, "10/s"), (60.0, "10/min"), (3600.0, "10/h"), (86400.0, "10/day"), (7.0, "10/7s")],
)
def test_a_rate_reads_as_an_operator_writes_it(period: float, text: str) -> None:
    assert replace(RATE, period_s=period).text == text


def test_concurrency_counts_outstanding_credentials_per_key() -> None:
    most = ConcurrencyLimit(name="c", per=("workload",), match=(), most=2)
    server = ConcurrencyLimit(name="s", per=(), match=(("origin", "server"),), most=1)
    limits = replace(LIMITS, concurrency=(most, server))
    assert outstanding_keys(limits, A, {}) == ("c\x1fa",)
    assert outstanding_keys(limits, A, {"c\x1fa": 1, "c\x1fb": 2, "s": 5}) == ("c\x1fa",)
    for what, live, rule in (
        (A, {"c\x1fa": 2}, "limits v3 c"),
        (Charge(on="credentials", values={"workload": "z", "origin": "server"}), {"s": 1}, "limits v3 s"),
    ):
        with pytest.raises(Refused) as refused:
            outstanding_keys(limits, what, live)
        assert (refused.value.code, refused.value.rule) == ("limit", rule)


@pytest.mark.parametrize(
    ("name", "at_bound"),
    [
        ("steps", {"steps": 5}),
        ("depth", {"depth": 4}),
        ("fan_out", {"children": 2}),
        ("server_steps", {"server_steps": 1}),
    ],
)
def test_a_transactions_bounds_are_counts_and_hold_to_the_last_one(
    name: str, at_bound: dict[str, int]
) -> None:
    below: dict[str, Any] = {"steps": 4, "server_steps": 0, "depth": 3, "children": 1, "is_server": True}
    within_transaction(LIMITS, **below)
    with pytest.raises(Refused) as refused:
        within_transaction(LIMITS, **below | at_bound)
    assert (refused.value.code, refused.value.rule) == ("limit", f"limits v3 transaction.{name}")


def test_server_steps_are_counted_for_server_steps_only() -> None:
    within_transaction(LIMITS, steps=1, server_steps=9, depth=1, children=0, is_server=False)


def test_a_limit_that_is_set_wider_is_wider_at_once() -> None:
    strict, wide = replace(RATE, count=1, burst=5), replace(RATE, count=600, burst=5)
    tat = 0.0
    for _ in range(5):
        outcome = spend(strict, tat, START)
        assert isinstance(outcome, Allowed)
        tat = outcome.tat
    assert isinstance(spend(strict, tat, START), Denied)
    waits = spend(wide, tat, START)
    assert isinstance(waits, Denied)
    assert waits.retry_after <= 0.21, "two intervals of the wide limit, not minutes of the strict one"


def test_a_refusal_names_whoever_set_the_limits_and_no_bare_file() -> None:
    limits = replace(LIMITS, by="uid 0")
    assert limits.owner == "uid 0"
    assert replace(limits, by="file").owner == "the operator (limits.yaml)"
