"""What a permit may demand: a closed set, read strictly, and of several the strictest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import build

from stepwrit_broker.core.obligations import (
    EVERY_FACT,
    Obligation,
    cap,
    handed_down,
    proved,
    read,
    redacted,
    shown,
    strictest,
    texts,
    unmet,
)
from stepwrit_broker.core.workload import Workload


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("max_life", "5", ["5"]),
        ("max_life", "900", ["900"]),
        ("fan_out", "0", ["0"]),
        ("fan_out", "1000", ["1000"]),
        ("require", "dpop", ["dpop"]),
        ("require", "x509,mtls,dpop", ["x509", "mtls", "dpop"]),
        ("redact", "iban,to_1", ["iban", "to_1"]),
    ],
)
def test_what_is_of_the_set_is_read(name: str, value: str, values: list[str]) -> None:
    assert read("p", name, value) == tuple(Obligation(name, each, "p") for each in values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("life", "30"),
        ("max_life ", "30"),
        ("max_life", "4"),
        ("max_life", "901"),
        ("max_life", " 30"),
        ("max_life", "30\n"),
        ("max_life", "+30"),
        ("max_life", "1" * 5000),
        ("fan_out", "1001"),
        ("fan_out", "-0"),
        ("require", "X509"),
        ("require", "x509 mtls"),
        ("redact", "a,,b"),
        ("redact", "a,a"),
        ("redact", ",".join(f"f{number}" for number in range(33))),
        ("redact", EVERY_FACT),
    ],
)
def test_what_is_not_of_the_set_is_not_read(name: str, value: str) -> None:
    assert read("p", "max_life", "30")
    with pytest.raises(ValueError, match="obligation"):
        read("p", name, value)


STATED = st.lists(
    st.one_of(
        st.builds(Obligation, st.just("max_life"), st.integers(5, 900).map(str), st.sampled_from("abc")),
        st.builds(Obligation, st.just("fan_out"), st.integers(0, 1000).map(str), st.sampled_from("abc")),
        st.builds(Obligation, st.just("require"), st.sampled_from(["x509", "dpop"]), st.sampled_from("abc")),
        st.builds(Obligation, st.just("redact"), st.sampled_from("xyz"), st.sampled_from("abc")),
    )
)


@given(STATED, st.randoms())
def test_together_they_are_as_strict_as_the_strictest_whatever_their_order(
    stated: list[Obligation], random: object
) -> None:
    shuffled = sorted(stated, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = strictest(shuffled)
    assert found == strictest(stated) == strictest(found)
    assert set(found) <= set(stated)
    for name in ("max_life", "fan_out"):
        values = [int(each.value) for each in stated if each.name == name]
        most = cap(found, name)
        assert (None if most is None else int(most.value)) == min(values, default=None)
    for name in ("require", "redact"):
        assert {e.value for e in found if e.name == name} == {e.value for e in stated if e.name == name}


def test_as_texts_they_are_what_a_policy_would_write() -> None:
    found = (*read("a", "require", "mtls,dpop"), *read("b", "max_life", "60"), *read("a", "max_life", "9"))
    assert texts(found) == {"max_life": "9", "require": "dpop,mtls"}
    assert str(cap(found, "max_life")) == "a obligation max_life=9"


def test_lives_and_redactions_go_down_the_chain_and_the_rest_does_not() -> None:
    stated = [("max_life", "9"), ("fan_out", "1"), ("require", "mtls"), ("redact", "to")]
    found = [each for pair in stated for each in read("a", *pair)]
    assert {each.name for each in handed_down(found)} == {"max_life", "redact"}
    assert redacted(found) == {"to"}


def workload(attested_by: str = "x509", *, via: bool = False) -> Workload:
    proxy = build.SERVER if via else None
    return Workload(id=build.AGENT, attested_by=attested_by, expires_at=0.0, serial="1", via=proxy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("who", "jkt", "met"),
    [
        (workload(), "k", {"x509", "mtls", "dpop"}),
        (workload(), None, {"x509", "mtls"}),
        (workload(via=True), "k", {"x509", "dpop"}),
        (workload("jwt"), "k", {"dpop"}),
        (workload("jwt"), None, set()),
    ],
)
def test_what_a_caller_meets(who: Workload, jkt: str | None, met: set[str]) -> None:
    assert proved(who, jkt) == met
    for demand in ("x509", "mtls", "dpop"):
        missed = unmet(read("a", "require", demand), proved(who, jkt))
        assert (missed is None) == (demand in met)


def test_an_obligation_that_nobody_here_knows_is_never_met() -> None:
    assert unmet(read("a", "max_life", "9"), frozenset()) is None
    strange = Obligation("tell_the_owner", "now", "a")
    assert unmet((strange,), frozenset({"x509", "mtls", "dpop"})) == strange


def test_what_is_not_to_be_kept_is_left_out() -> None:
    facts = {"to": "bob", "amount": 5}
    assert shown(facts, frozenset()) == facts
    assert shown(facts, frozenset({"to", "other"})) == {"amount": 5}
    assert shown(facts, frozenset({EVERY_FACT})) == {}
