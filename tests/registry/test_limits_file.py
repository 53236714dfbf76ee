"""limits.yaml: what it means, its caps, and edits of one rate."""

from __future__ import annotations

import pytest
from tests.registry.files import LIMITS

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.registry.limits_file import compile_limits, load_limits, set_rate


def problems(old: str, new: str) -> str:
    load_limits(LIMITS, name="limits.yaml")
    assert old in LIMITS
    with pytest.raises(Malformed) as refused:
        load_limits(LIMITS.replace(old, new, 1), name="limits.yaml")
    return refused.value.reason


def test_the_file_means_what_it_says() -> None:
    stored, limits = load_limits(LIMITS, name="limits.yaml")
    one, other = limits.rates
    assert (one.name, one.on, one.per, one.count, one.period_s, one.burst) == (
        "per-workload", "credentials", ("workload",), 600, 60.0, 100,
    )  # fmt: skip
    assert one.text == "600/min"
    assert (other.on, other.match) == ("steps", (("origin", "server"),))
    assert limits.concurrency[0].most == 100
    assert (limits.transaction.steps, limits.transaction.server_steps) == (200, 20)
    assert (limits.lives.step_token_s, limits.lives.accepted_s, limits.lives.intent_s) == (
        60.0,
        900.0,
        3600.0,
    )
    assert compile_limits(stored.doc, 3).version == 3


def test_a_life_that_is_not_said_has_the_conservative_default() -> None:
    silent = "\n".join(line for line in LIMITS.splitlines() if not line.startswith("life")) + "\n"
    lives = load_limits(silent, name="l")[1].lives
    assert (lives.step_token_s, lives.credential_s, lives.waiting_s) == (60.0, 60.0, 900.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("step_token: 60s", "step_token: 301s", "limits.yaml:8:8: life.step_token: must be 1 to 300 seconds"),
        ("credential: 60s", "credential: 16m", "life.credential: must be 1 to 900 seconds"),
        ("accepted: 15m", "accepted: 1h", "life.accepted: must be 1 to 900 seconds"),
        ("waiting: 15m", "waiting: 2d", "life.waiting: must be 1 to 86400 seconds"),
        ("credential: 60s", "credential: 0s", "life.credential: must be 1 to 900 seconds"),
        ("credential: 60s", "credentiall: 60s", "did you mean credential?"),
        ("rate: 600/min", "rate: 0/min", "must be a rate such as 10/s"),
        ("rate: 600/min", "rate: -1/min", "must be a rate such as 10/s"),
        ("burst: 100", "burst: 0", "burst: must be at least 1"),
        ("max: 100", "max: 0", "max: must be at least 1"),
        ("steps: 200", "steps: 0", "transaction.steps: must be at least 1"),
        ("count: 2", "count: 3", "count: says 3, but there are 2 rates"),
        ("name: server-origin", "name: per-workload", "per-workload names another limit already"),
        ("name: outstanding-per-workload", "name: per-workload", "per-workload names another limit already"),
        (
            "per: [workload], rate: 600",
            "per: [workloads], rate: 600",
            "per[0]: must be one of workload, tool",
        ),
        ("match: {origin: server}", "match: {kind: server}", "match.kind: does not belong here"),
        ("match: {origin: server}", "match: {}", "match: needs at least 1"),
    ],
)
def test_a_wrong_line_is_refused_with_its_reason(old: str, new: str, said: str) -> None:
    assert said in problems(old, new)


def test_no_rate_at_all_is_refused() -> None:
    empty = (
        "version: 1\nrates: []\ntransaction: {steps: 1, depth: 1, fan_out: 1, server_steps: 0}\ncount: 0\n"
    )
    with pytest.raises(Malformed, match="rates: needs at least 1"):
        load_limits(empty, name="l")


def test_one_rate_is_edited_and_nothing_else() -> None:
    stored, before = load_limits(LIMITS, name="l")
    after = compile_limits(set_rate(stored.doc, "per-workload", "10/min").doc, 2)
    assert (after.rates[0].text, after.rates[0].burst) == ("10/min", 100)
    assert after.rates[1:] == before.rates[1:]
    assert compile_limits(set_rate(stored.doc, "per-workload", "10/min", 5).doc, 2).rates[0].burst == 5
    assert set_rate(stored.doc, "per-workload", "600/min") == stored


@pytest.mark.parametrize(
    ("name", "rate", "burst"),
    [("per-worklod", "1/s", None), ("per-workload", "1", None), ("per-workload", "1/s", 0)],
)
def test_an_edit_that_does_not_fit_is_refused(name: str, rate: str, burst: int | None) -> None:
    stored, _ = load_limits(LIMITS, name="l")
    assert set_rate(stored.doc, "per-workload", "1/s", 1)
    with pytest.raises(Malformed, match=r"did you mean per-workload|must be"):
        set_rate(stored.doc, name, rate, burst)
