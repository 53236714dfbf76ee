"""The two transition tables: every pair of state and event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.build import Maker

from stepwrit_broker.core import grant, step
from stepwrit_broker.core.errors import Conflict, Problem, Refused
from stepwrit_broker.core.step import Life, StepRecord

STEP_MOVES = {
    "opened": {"accept": "accepted", "cancelled": "cancelled", "expire": "expired", "revoke": "revoked"},
    "approval_pending": {
        "approve": "opened",
        "cancelled": "cancelled",
        "expire": "expired",
        "revoke": "revoked",
    },
    "accepted": {
        "wait": "waiting",
        "done": "done",
        "failed": "failed",
        "cancelled": "cancelled",
        "expire": "expired",
        "revoke": "revoked",
    },
    "waiting": {"resume": "accepted", "cancelled": "cancelled", "expire": "expired", "revoke": "revoked"},
}
GRANT_MOVES = {
    "reserved": {"issue": "issued", "expire": "expired", "close": "closed", "revoke": "revoked"},
    "issued": {"redeem": "redeemed", "expire": "expired", "close": "closed", "revoke": "revoked"},
    "redeemed": {"close": "redeemed", "revoke": "revoked"},
}
STEP_CODES = {
    "done": "already_done",
    "failed": "already_done",
    "cancelled": "closed",
    "expired": "expired",
    "revoked": "revoked",
}
GRANT_CODES = {"redeemed": "replay", "expired": "expired", "closed": "closed", "revoked": "revoked"}


def _pairs(module: Any) -> list[tuple[str, str]]:
    return [(state, event) for state in get_args(module.State) for event in get_args(module.Event)]


@pytest.mark.parametrize(("state", "event"), _pairs(step))
def test_a_step_moves_as_the_table_says_or_not_at_all(state: step.State, event: step.Event) -> None:
    before = {each: dict(moves) for each, moves in step.TRANSITIONS.items()}
    expected = STEP_MOVES.get(state, {}).get(event)
    if expected is not None:
        assert step.move(state, event) == expected
    else:
        with pytest.raises(Problem) as refused:
            step.move(state, event)
        code, kind = (STEP_CODES[state], Refused) if state in STEP_CODES else ("wrong_state", Conflict)
        assert (refused.value.code, type(refused.value)) == (code, kind)
    assert before == step.TRANSITIONS


@pytest.mark.parametrize(("state", "event"), _pairs(grant))
def test_a_grant_moves_as_the_table_says_or_not_at_all(state: grant.State, event: grant.Event) -> None:
    expected = GRANT_MOVES.get(state, {}).get(event)
    if expected is not None:
        assert grant.move(state, event) == expected
        return
    with pytest.raises(Problem) as refused:
        grant.move(state, event)
    code, kind = (GRANT_CODES[state], Refused) if state in GRANT_CODES else ("wrong_state", Conflict)
    assert (refused.value.code, type(refused.value)) == (code, kind)


@given(st.lists(st.sampled_from(get_args(step.Event)), max_size=30))
def test_no_events_lead_out_of_a_final_state(events: list[step.Event]) -> None:
    state: step.State = "opened"
    for event in events:
        was = state
        try:
            state = step.move(state, event)
        except Problem:
            assert state == was
        if was in step.FINAL:
            assert state == was


@given(st.lists(st.sampled_from(get_args(grant.Event)), max_size=30))
def test_a_grant_is_redeemed_at_most_once(events: list[grant.Event]) -> None:
    state: grant.State = "reserved"
    redeemed = 0
    for event in events:
        try:
            state = grant.move(state, event)
        except Problem:
            continue
        redeemed += event == "redeem"
    assert redeemed <= 1


def test_the_sets_of_ended_states_are_those_without_a_way_on() -> None:
    assert frozenset({"done", "failed", "cancelled", "expired", "revoked"}) == step.FINAL
    assert frozenset({"reserved", "issued"}) == grant.LIVE


# --- clocks

CLOCKS = {"accepted_s": 900.0, "waiting_s": 600.0, "lost_s": 60.0, "run_s": 3600.0}
LIFE = Life(
    state="opened", round=0, performer=None, accepted_at=0, beat_at=0, waiting_at=0, children=0, ended_at=0
)


def _records() -> tuple[StepRecord, StepRecord]:
    make = Maker(1000.0)
    root = StepRecord(
        step=make.root_step(), life=replace(LIFE, state="accepted", performer=make.root_step().performer)
    )
    child = StepRecord(step=make.child_step(root), life=LIFE)
    return root, child


def test_a_root_lives_until_its_own_end_whatever_else_runs() -> None:
    root, _ = _records()
    assert step.deadline(root, **CLOCKS) == root.step.expires_at


@pytest.mark.parametrize(
    ("life", "until"),
    [
        ({"state": "opened"}, 1300.0),
        ({"state": "approval_pending"}, 1300.0),
        ({"state": "accepted", "accepted_at": 1000.0, "beat_at": 1000.0}, 1060.0),
        ({"state": "accepted", "accepted_at": 1000.0, "beat_at": 1890.0}, 1900.0),
        ({"state": "waiting", "accepted_at": 1000.0, "beat_at": 1000.0, "waiting_at": 1500.0}, 2100.0),
    ],
)
def test_one_clock_runs_in_each_state_and_stops_the_step_to_the_second(
    life: dict[str, Any], until: float
) -> None:
    _, child = _records()
    record = replace(child, life=replace(LIFE, **life))
    assert step.deadline(record, **CLOCKS) == until
    assert not step.is_over(record, until - 0.001, **CLOCKS)
    assert step.is_over(record, until, **CLOCKS)


@pytest.mark.parametrize(
    ("life", "until"),
    [
        ({"state": "opened"}, 9000.0),
        ({"state": "accepted", "accepted_at": 1000.0, "beat_at": 1000.0}, 1060.0),
        ({"state": "accepted", "accepted_at": 1000.0, "beat_at": 4590.0}, 4600.0),
        ({"state": "accepted", "accepted_at": 8000.0, "beat_at": 8990.0}, 9000.0),
        ({"state": "waiting", "accepted_at": 1000.0, "beat_at": 1000.0, "waiting_at": 1500.0}, 9000.0),
    ],
)
def test_a_deferred_step_waits_until_its_end_and_each_run_has_its_own(
    life: dict[str, Any], until: float
) -> None:
    _, child = _records()
    later = replace(child.step, deferred=True, expires_at=9000.0)
    record = StepRecord(step=later, life=replace(LIFE, **life))
    assert step.deadline(record, **CLOCKS) == until


@pytest.mark.parametrize("state", sorted(step.FINAL))
def test_an_ended_step_is_not_over_again(state: step.State) -> None:
    _, child = _records()
    assert not step.is_over(replace(child, life=replace(LIFE, state=state)), 1e12, **CLOCKS)


def test_depth_counts_the_ancestors() -> None:
    root, child = _records()
    assert (root.step.depth, child.step.depth) == (0, 1)
