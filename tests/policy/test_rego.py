"""Rego files as one module: what is refused without OPA, how lines are told, and what a digest names."""

from __future__ import annotations

import pytest

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.policy.breaker import Breaker
from stepwrit_broker.policy.files import engine_of, load
from stepwrit_broker.policy.rego import module, problems, unfit

GOOD = '# hello\npackage stepwrit # us\n\nimport rego.v1\n\npermit contains "yes" if true\n'


def test_a_good_file_loads_and_keeps_its_lines() -> None:
    assert not problems({"a.rego": GOOD})
    made = module({"a.rego": GOOD, "b.rego": GOOD.replace("yes", "no")})
    rows = made.text.split("\n")
    for name, word in (("a.rego", '"yes"'), ("b.rego", '"no"')):
        row = next(at for at, line in enumerate(rows, 1) if word in line)
        assert made.place(row) == f"{name}:6"
        assert made.find(word) == f"{name}:6"
    assert made.place(1) == "policy"
    assert made.find("nowhere") == "policy"


def test_the_name_follows_the_text_and_nothing_else() -> None:
    one = module({"a.rego": GOOD})
    assert one == module({"a.rego": GOOD})
    assert one.name != module({"a.rego": GOOD + "\n"}).name
    assert one.text.startswith(f"package stepwrit.{one.name}\n")
    assert one.path.startswith(f"stepwrit/{one.name}/")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a.rego:1: must begin"),
        (GOOD.replace("stepwrit", "other"), "a.rego:2: must begin"),
        (GOOD.replace("stepwrit", "stepwrit.v1"), "a.rego:2: must begin"),
        (GOOD.replace("rego.v1", "data.other"), "a.rego:4: only"),
        (GOOD.replace("rego.v1", "input.action as act"), "a.rego:4: only"),
        (GOOD + "stepwrit_answer := 1\n", "a.rego:7: stepwrit_answer"),
        (GOOD + 'stepwrit_files contains "b.rego"\n', "a.rego:7: stepwrit_answer"),
        (GOOD + "a\rb\n", "a.rego:7: a carriage return"),
    ],
)
def test_what_is_wrong_without_asking_opa_is_said_with_its_line(text: str, what: str) -> None:
    assert load({"a.rego": GOOD})
    with pytest.raises(Malformed) as caught:
        load({"a.rego": text})
    assert what in caught.value.reason


def test_a_folder_is_for_one_engine() -> None:
    cedar = {"a.cedar": '@id("yes") permit (principal, action, resource);'}
    assert engine_of(load(cedar) and cedar) == "cedar"
    assert engine_of(load({"a.rego": GOOD}) and {"a.rego": GOOD}) == "opa"
    with pytest.raises(Malformed, match="Cedar and Rego"):
        load({"a.rego": GOOD, **cedar})


def _var(name: str) -> dict[str, object]:
    return {"type": "var", "value": name}


def _ref(head: str, *words: str) -> dict[str, object]:
    return {"type": "ref", "value": [_var(head), *({"type": "string", "value": each} for each in words)]}


def test_what_is_outside_the_document_or_left_to_chance_is_unfit() -> None:
    made = module({"a.rego": GOOD + "\nx if data.users.alice\n"})
    own = _ref("data", "stepwrit", made.name, "permit")
    good = {"rules": [{"body": [own, _ref("input", "now"), _ref("time", "clock")]}]}
    assert unfit(made, good) == []
    for bad, said in (
        (_ref("data", "users"), "a.rego:8: data may not"),
        (_ref("data"), "data may not"),
        (_ref("data", "stepwrit", "vother", "permit"), "data may not"),
        (_var("data"), "data may not"),
        ({"type": "ref", "value": [_var("input"), _ref("data", "users")]}, "data may not"),
        (_ref("http", "send"), "http.send may not"),
        (_ref("opa", "runtime"), "opa.runtime may not"),
        (_ref("time", "now_ns"), "time.now_ns may not"),
    ):
        found = unfit(made, {"rules": [own, {"else": [{"terms": bad}]}]})
        assert len(found) == 1
        assert said in found[0]


def test_the_breaker_counts_failures_in_a_row() -> None:
    breaker = Breaker(2, 10.0)
    for _ in range(5):
        breaker.failed(0.0)
        assert breaker.wait_s(0.0) == 0.0
        breaker.succeeded()
    breaker.failed(0.0)
    breaker.failed(1.0)
    assert breaker.is_open
    assert breaker.wait_s(4.0) == 7.0
    assert breaker.wait_s(11.0) == 0.0
    assert breaker.wait_s(11.0) == 10.0, "the one that was let through may never come back"
    assert breaker.wait_s(21.0) == 0.0
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.wait_s(21.0) == 0.0
