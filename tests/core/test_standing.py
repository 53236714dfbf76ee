"""Whether a credential would open its door now."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from tests.fakes.build import Maker

from stepwrit_broker.core import grant, standing, step
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.step import Life, StepRecord

NOW, EPOCH = 1_000.0, "epoch"
CODES = {"reserved": "wrong_state", "redeemed": "replay"}


def life(state: step.State) -> Life:
    return Life(
        state=state,
        round=1,
        performer=None,
        accepted_at=NOW,
        beat_at=NOW,
        waiting_at=NOW,
        children=0,
        ended_at=0,
    )


def record(state: step.State = "accepted") -> StepRecord:
    return StepRecord(step=Maker(NOW).root_step(), life=life(state))


def granted(state: grant.State = "issued", *, ends: float = NOW + 60, epoch: str = EPOCH) -> GrantRecord:
    made = Maker(NOW).grant(record(), expires_at=ends, epoch=epoch)
    return GrantRecord(grant=made, state=state, redeemed_by="", redeemed_at=0)


@pytest.mark.parametrize("state", get_args(grant.State))
def test_only_an_issued_grant_stands(state: grant.State) -> None:
    standing.check_grant(granted(), EPOCH, NOW)
    if state == "issued":
        return
    with pytest.raises(Problem) as no:
        standing.check_grant(granted(state), EPOCH, NOW)
    assert no.value.code == CODES.get(state, state)


def test_it_stands_in_its_epoch_until_its_very_end() -> None:
    standing.check_grant(granted(ends=NOW + 0.001), EPOCH, NOW)
    for bad in (granted(ends=NOW), granted(epoch="another")):
        with pytest.raises(Problem) as no:
            standing.check_grant(bad, EPOCH, NOW)
        assert no.value.code == "expired"


@pytest.mark.parametrize("state", get_args(step.State))
def test_it_stands_on_any_step_that_has_not_ended(state: step.State) -> None:
    if state not in step.FINAL:
        standing.check_step(record(state), ends_at=NOW + 1, txn_ends_at=NOW + 1, now=NOW)
        return
    with pytest.raises(Problem):
        standing.check_step(record(state), ends_at=NOW + 1, txn_ends_at=NOW + 1, now=NOW)


@pytest.mark.parametrize(("ends_at", "txn_ends_at"), [(NOW, NOW + 1), (NOW + 1, NOW)])
def test_each_clock_ends_it(ends_at: float, txn_ends_at: float) -> None:
    standing.check_step(record(), ends_at=NOW + 1, txn_ends_at=NOW + 1, now=NOW)
    with pytest.raises(Problem) as no:
        standing.check_step(record(), ends_at=ends_at, txn_ends_at=txn_ends_at, now=NOW)
    assert no.value.code == "expired"


def test_a_root_for_one_call_has_one_child() -> None:
    own = record()
    intent = replace(own.step.intent, without_step="mail/ping")
    own = replace(own, step=replace(own.step, intent=intent))
    standing.within_step(own)
    with pytest.raises(Refused, match="one step"):
        standing.within_step(replace(own, life=replace(own.life, children=1)))
    standing.within_step(replace(record(), life=replace(own.life, children=1)))
