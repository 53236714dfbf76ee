"""A root is held to the step that caused it, also where no mark stands any more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.build import SERVER, Maker

from stepwrit_broker.core.causes import inherit, performer_of
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import Life, State, StepRecord


def cause(make: Maker, state: State) -> StepRecord:
    life = Life(
        state="accepted", round=1, performer=SERVER, accepted_at=0.0, beat_at=0.0, waiting_at=0.0, children=0,
        ended_at=0.0,
    )  # fmt: skip
    root = StepRecord(step=make.root_step(), life=life)
    return StepRecord(step=make.child_step(root), life=replace(life, state=state))


@pytest.mark.parametrize("state", ["accepted", "waiting", "done", "failed", "cancelled", "expired"])
def test_a_step_in_any_other_state_may_have_caused_it(state: State) -> None:
    make = Maker(now=0.0)
    assert inherit(make.root_step(), cause(make, state), steps=0, server_steps=0).intent.cause_txn


def test_a_revoked_step_causes_nothing() -> None:
    make = Maker(now=0.0)
    with pytest.raises(Refused) as no:
        inherit(make.root_step(), cause(make, "revoked"), steps=0, server_steps=0)
    assert no.value.code == "revoked"


def test_nobody_knows_a_cause_of_another_tenant() -> None:
    found = cause(Maker(now=0.0), "done")
    assert performer_of(found, "acme") == SERVER
    for record, tenant in ((found, "other"), (None, "acme")):
        with pytest.raises(Refused) as no:
            performer_of(record, tenant)
        assert no.value.code == "not_found"
