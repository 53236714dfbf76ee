from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwrit_broker.core.limits import Denied, RateLimit, spend
from stepwrit_broker.core.slices import (
    CLOCKS_APART_S,
    LIFE_S,
    Ask,
    Pace,
    fills_since,
    give_back,
    next_wanted,
    question,
    slice_of,
    take,
)

START = 1_790_000_000.0
LIMIT = RateLimit(name="r", on="credentials", per=("workload",), match=(), count=10, period_s=60.0, burst=5)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "leases.json").read_text())


def _ask(limit: RateLimit, now: float, *, wanted: int = 1, life: float = 0.0, since: float = 0.0) -> Ask:
    interval = limit.period_s / limit.count
    return Ask(interval=interval, burst=limit.burst, wanted=wanted, life=life, since=since, now=now)


_TIMES = st.one_of(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]), st.floats(0.0, 2.0))
tight = st.builds(
    lambda count, burst: replace(LIMIT, count=count, period_s=1.0, burst=burst),
    st.integers(1, 20),
    st.integers(1, 12),
)
limits = st.builds(
    lambda count, period, burst: replace(LIMIT, count=count, period_s=period, burst=burst),
    st.integers(1, 50),
    st.sampled_from([1.0, 60.0]),
    st.integers(1, 40),
)


@dataclass
class _Bucket:
    """One bucket as an engine keeps it, through epochs; and the cells that brokers took out of it."""

    limit: RateLimit
    epoch: int = 0
    began: float = 0.0
    tat: float | None = None
    uses: list[tuple[int, float]] = field(default_factory=list)
    back: list[tuple[float, int]] = field(default_factory=list)
    """Given back, and on the way: it comes in after the next question."""

    def end_epoch(self, now: float) -> None:
        self.epoch, self.began, self.tat, self.back = self.epoch + 1, now, None, []

    def ask(self, message: _Message) -> None:
        if message.epoch != self.epoch:
            return  # another epoch stands: nothing is given
        taken = take(self.tat, message.ask(self.limit, self.began))
        if taken.cells:
            self.tat = taken.tat
        self._come_back()
        if message.is_lost:
            return  # the reply never came, or the broker died: what was taken is used by nobody
        used = [offset for offset in message.used_at[: taken.cells] if offset is not None]
        self.uses += [(self.epoch, message.sent + offset * message.life) for offset in used]
        if message.gives_back:
            self.back.append((taken.tat, taken.cells - len(used)))

    def _come_back(self) -> None:
        for known, cells in self.back:
            after = give_back(self.tat, known, cells, self.limit.period_s / self.limit.count)
            self.tat = self.tat if after is None else after
        self.back = []

    def committed(self, ends: list[float]) -> list[float]:
        """Uses of an epoch whose operations came before its end; a later one is refused."""
        return sorted(at for epoch, at in self.uses if epoch >= len(ends) or at < ends[epoch])


@dataclass(frozen=True)
class _Message:
    """A broker's question: sent at its own time, in the bucket whenever the network likes."""

    sent: float
    arrives: float
    epoch: int
    wanted: int
    life: float
    is_lost: bool
    gives_back: bool
    used_at: tuple[float | None, ...]

    def ask(self, limit: RateLimit, began: float) -> Ask:
        return _ask(limit, self.sent, wanted=self.wanted, life=self.life, since=began)


def _offsets(count: int) -> st.SearchStrategy[list[float | None]]:
    """When in its life each cell is used: all as late as can be, or at any time, or never."""
    one = st.one_of(st.none(), st.just(1.0), st.floats(0.0, 1.0))
    any_time = st.lists(one, min_size=count, max_size=count)
    return st.one_of(st.just([1.0] * count), st.just([1.0] * count), any_time)


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[_Message], list[float]]:
    """Questions of many brokers in the order in which they come in, and the ends of epochs."""
    ends = sorted(draw(st.lists(st.one_of(_TIMES, st.floats(0.0, 10.0)), max_size=2)))
    ends = [START + end for end in ends]
    sent, found = START, []
    for _ in range(draw(st.integers(1, 14))):
        sent += draw(st.one_of(_TIMES, st.just(5.0)))
        wanted = draw(st.integers(1, 12))
        found.append(
            _Message(
                sent=sent,
                arrives=sent + draw(_TIMES),
                epoch=sum(end <= sent for end in ends),
                wanted=wanted,
                life=draw(_TIMES),
                is_lost=draw(st.integers(0, 9)) == 0,
                gives_back=draw(st.booleans()),
                used_at=tuple(draw(_offsets(wanted))),
            )
        )
    return sorted(found, key=lambda message: message.arrives), ends


@st.composite
def hurried(draw: st.DrawFn) -> tuple[list[_Message], list[float]]:
    """Everybody wants all there is, at once; some give part of it back; one epoch ends in the midst."""
    end, sent, found = START + draw(st.sampled_from([0.1, 0.3])), START, []
    for _ in range(draw(st.integers(2, 10))):
        sent += draw(st.sampled_from([0.0, 0.05, 0.1, 0.2]))
        wanted = draw(st.sampled_from([1, 2, 4, 12]))
        kept = draw(st.integers(0, wanted))
        found.append(
            _Message(
                sent=sent,
                arrives=sent,
                epoch=int(end <= sent),
                wanted=wanted,
                life=0.0,
                is_lost=False,
                gives_back=True,
                used_at=(1.0,) * kept + (None,) * (wanted - kept),
            )
        )
    return found, [end]


def _play(limit: RateLimit, asked: list[_Message], ends: list[float]) -> list[float]:
    bucket, left = _Bucket(limit), list(ends)
    for message in asked:
        while left and left[0] <= message.arrives:
            bucket.end_epoch(left.pop(0))
        bucket.ask(message)
    return bucket.committed(ends)


def _most_over(limit: RateLimit, uses: list[float]) -> float:
    """By how many cells the worst window is above what the limit allows."""
    interval = limit.period_s / limit.count
    return max(
        (
            last - first + 1 - limit.burst - (uses[last] - uses[first]) / interval
            for first in range(len(uses))
            for last in range(first, len(uses))
        ),
        default=0.0,
    )


@settings(max_examples=300, deadline=None)
@given(tight, st.one_of(messages(), hurried()))
def test_a_fleet_never_uses_more_than_one_broker_would_let_pass(
    limit: RateLimit, played: tuple[list[_Message], list[float]]
) -> None:
    uses = _play(limit, *played)
    assert _most_over(limit, uses) <= 2e-3
    tat, interval = 0.0, limit.period_s / limit.count
    for at in uses:  # and core.limits itself, asked in the order of the uses, lets each pass
        outcome = spend(limit, tat, at)
        if isinstance(outcome, Denied):
            assert outcome.retry_after <= interval * 3e-3
        tat = max(tat, at) + interval


HOT = replace(LIMIT, count=10, period_s=1.0, burst=10)


def _late(sent: float, wanted: int, life: float, at: float, epoch: int = 0) -> _Message:
    return _Message(
        sent=START + sent,
        arrives=START + sent,
        epoch=epoch,
        wanted=wanted,
        life=life,
        is_lost=False,
        gives_back=False,
        used_at=(at,) * wanted,
    )


def test_the_worst_case_of_cells_used_late_beside_fresh_ones_is_within_the_limit() -> None:
    """And it fills the limit to the cell: the rule gives away nothing here."""
    asked = [_late(0.0, 5, 0.5, 1.0), _late(0.5, 10, 0.0, 0.0)]
    uses = _play(HOT, asked, [])
    assert len(uses) == 10
    assert uses == [START + 0.5] * 10


def test_a_bucket_that_counted_a_late_use_when_it_was_taken_would_be_over(monkeypatch: Any) -> None:
    """The check itself can fail: with the life left out of the rule, the same messages are too many."""
    asked = [_late(0.0, 5, 0.5, 1.0), _late(0.5, 10, 0.0, 0.0)]
    assert _most_over(HOT, _play(HOT, asked, [])) <= 2e-3
    monkeypatch.setattr(
        _Message, "ask", lambda self, limit, began: _ask(limit, self.sent, wanted=self.wanted)
    )
    assert _most_over(HOT, _play(HOT, asked, [])) >= 4


def test_a_new_epoch_gives_no_second_burst_and_a_fresh_fleet_has_its_first() -> None:
    asked = [_late(0.0, 10, 0.0, 0.0), _late(0.3, 10, 0.0, 0.0, epoch=1), _late(0.7, 10, 0.0, 0.0, epoch=1)]
    uses = _play(HOT, asked, [START + 0.1])
    assert [round(at - START, 1) for at in uses] == [0.0] * 10 + [0.3] * 2 + [0.7] * 4
    assert fills_since(1, START, START + 9) == 0.0
    assert fills_since(2, START, 0.0) == 0.0  # nothing was ever used
    assert fills_since(2, START, START - 9) == START - 9
    assert fills_since(2, START, START + 9) == START + CLOCKS_APART_S  # a broker that came later


@settings(max_examples=200)
@given(limits, st.floats(0.0, 1000.0), st.integers(0, 60))
def test_taken_one_by_one_it_is_the_embedded_rule_to_the_bit(
    limit: RateLimit, offset: float, spent: int
) -> None:
    now, interval = START + offset, limit.period_s / limit.count
    stored = now + interval * spent * 0.7
    taken, outcome = take(stored, _ask(limit, now)), spend(limit, stored, now)
    if isinstance(outcome, Denied):
        assert (taken.cells, taken.tat) == (0, stored)
        assert taken.retry_after == pytest.approx(outcome.retry_after, abs=1e-6)
    else:
        assert (taken.cells, taken.tat) == (1, outcome.tat)


@settings(max_examples=200)
@given(limits, st.floats(0.0, 100.0), st.integers(1, 60), st.floats(0.0, 2.0))
def test_a_refused_asker_gets_a_cell_once_it_has_waited(
    limit: RateLimit, offset: float, wanted: int, life: float
) -> None:
    """Liveness: whatever was taken and lost before, the time that is named is enough."""
    now, tat = START + offset, None
    for _ in range(3):
        lost = take(tat, _ask(limit, now, wanted=wanted, life=life))
        tat = lost.tat if lost.cells else tat
    one = take(tat, _ask(limit, now))
    later = take(tat, _ask(limit, now + one.retry_after))
    assert one.cells == 1 or one.retry_after > 0.0
    assert later.cells == 1


@settings(max_examples=200)
@given(limits, st.integers(1, 40), st.integers(0, 40), st.floats(0.0, 2.0))
def test_what_is_given_back_at_once_was_never_taken(
    limit: RateLimit, wanted: int, back: int, life: float
) -> None:
    taken = take(None, _ask(limit, START, wanted=wanted, life=life))
    back = min(back, taken.cells)
    interval = limit.period_s / limit.count
    left = take(None, _ask(limit, START, wanted=max(1, taken.cells - back), life=life))
    if taken.cells > back:
        assert give_back(taken.tat, taken.tat, back, interval) == pytest.approx(left.tat)
    moved = take(taken.tat, _ask(limit, START + 1000.0))
    assert give_back(moved.tat, taken.tat, back, interval) is None
    assert give_back(None, taken.tat, back, interval) is None


@given(limits)
@example(replace(LIMIT, count=1, period_s=86400.0, burst=10_000))
def test_a_slice_leaves_most_of_the_burst_to_others(limit: RateLimit) -> None:
    slice_, interval = slice_of(limit), limit.period_s / limit.count
    assert (slice_.most == 1) is (limit.burst < 16) is (slice_.life == 0.0)
    assert slice_.life <= LIFE_S
    if slice_.most > 1:
        assert slice_.life + slice_.most * interval <= limit.burst * interval / 4 * (1 + 1e-9)
        assert take(None, question(limit, slice_.most, 0.0, START)).cells == slice_.most


def test_what_is_asked_for_follows_demand() -> None:
    hot = slice_of(replace(LIMIT, count=1000, period_s=1.0, burst=1000))
    assert (hot.most, hot.life) == (125, 0.125)
    cases = [
        (Pace(wanted=1, at=START, used=1), START, 2),
        (Pace(wanted=1, at=START, used=1), START + 0.001, 2),
        (Pace(wanted=8, at=START, used=8), START + 0.01, 16),
        (Pace(wanted=100, at=START, used=100), START + 0.01, 125),
        (Pace(wanted=100, at=START, used=100), START + 0.1, 62),
        (Pace(wanted=100, at=START, used=3), START + 0.125, 1),
        (Pace(wanted=100, at=START, used=0), START + 0.125, 1),
        (Pace(wanted=4, at=START, used=4), START - 1.0, 8),
    ]
    assert [next_wanted(pace, hot, now) for pace, now, _ in cases] == [most for _, _, most in cases]
    low = slice_of(LIMIT)
    assert next_wanted(Pace(wanted=1, at=START, used=1), low, START) == 1


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any]) -> None:
    stored: float | None = None
    for step in case["steps"]:
        if "give_back" in step:
            after = give_back(stored, step["known"], step["give_back"], case["interval"])
            assert after == step["tat"]
            stored = stored if after is None else after
            continue
        taken = take(
            stored, Ask(interval=case["interval"], burst=case["burst"], since=case["since"], **step["ask"])
        )
        assert (taken.cells, taken.tat, taken.retry_after) == (
            step["cells"],
            step["tat"],
            step["retry_after"],
        )
        stored = taken.tat if taken.cells else stored
