"""The schedule is a function of its seed, has something of everything, and heals in time."""

from __future__ import annotations

from tests.faults.embedded import BROKER_KINDS
from tests.faults.plan import QUIET_S, schedule

KINDS = {kind: (bounds, ("b1", "b2", "b3")) for kind, bounds in BROKER_KINDS.items()}


def test_the_same_seed_makes_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(7, 120.0, KINDS) == schedule(7, 120.0, KINDS)
    assert schedule(7, 120.0, KINDS) != schedule(8, 120.0, KINDS)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = schedule(7, 60.0, KINDS), schedule(7, 300.0, KINDS)
    assert long[: len(short)] == short


def test_every_kind_and_every_target_has_its_turn() -> None:
    for seed in range(20):
        plan = schedule(seed, 300.0, KINDS)
        assert {each.kind for each in plan} == KINDS.keys()
        assert {each.target for each in plan} == {"b1", "b2", "b3"}


def test_all_is_healed_when_the_time_is_over() -> None:
    for seed in range(20):
        plan = schedule(seed, 60.0, KINDS)
        assert plan
        assert all(each.at >= QUIET_S and each.at + each.seconds <= 60.0 for each in plan)


def test_without_kinds_nothing_happens() -> None:
    assert schedule(7, 60.0, {}) == []
