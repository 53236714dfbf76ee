from __future__ import annotations

import pytest

from stepwrit.errors import (
    ConfigurationError,
    IdentityUnavailable,
    OutcomeUnknownError,
    RefusedError,
    StepwritError,
    UnavailableError,
    describe,
    for_model,
)
from stepwrit.wire import Refusal

FULL = Refusal(
    code="limit",
    reason="10/min of credentials per workload spent",
    rule="limits v3 bank",
    retry_after=2.5,
    who_can_change_it="the operator",
    ref="REF0000000",
    doc="https://stepwrit.dev/docs/refusals#limit",
)
BARE = Refusal(code="policy", reason="no")


def test_a_person_reads_what_why_who_when_and_where_to_ask() -> None:
    assert describe(FULL) == (
        "refused: limit: 10/min of credentials per workload spent; rule limits v3 bank; retry in 2.5 s;"
        " ask the operator; stepwrit explain REF0000000"
    )
    assert describe(BARE) == "refused: policy: no"


def test_a_model_reads_neither_reason_nor_rule() -> None:
    assert for_model(FULL) == "refused: limit. retry in 2.5 s. ref REF0000000"
    assert for_model(BARE) == "refused: policy."


def test_a_retry_right_away_is_said_too() -> None:
    now = Refusal(code="unavailable", reason="in doubt", retry_after=0.0)
    assert "retry in 0 s" in describe(now)
    assert "retry in 0 s" in for_model(now)


def test_a_refused_error_carries_its_refusal() -> None:
    error = RefusedError(FULL)
    assert (error.code, error.ref, error.refusal) == ("limit", "REF0000000", FULL)
    assert str(error) == describe(FULL)
    assert RefusedError(BARE).ref is None


def test_a_lost_reply_names_the_grant_and_warns_against_repeating() -> None:
    error = OutcomeUnknownError("grt_1")
    assert error.grant == "grt_1"
    assert "grt_1" in str(error)
    assert "before repeating" in str(error)


@pytest.mark.parametrize(
    "kind", [RefusedError, UnavailableError, OutcomeUnknownError, IdentityUnavailable, ConfigurationError]
)
def test_one_root_catches_every_error(kind: type[Exception]) -> None:
    assert issubclass(kind, StepwritError)


def test_doubt_is_a_refusal_but_a_lost_reply_is_not() -> None:
    assert issubclass(UnavailableError, RefusedError)
    assert not issubclass(OutcomeUnknownError, RefusedError)
