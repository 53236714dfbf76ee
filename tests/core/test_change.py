"""How two answers differ to who asked."""

from __future__ import annotations

import json

import pytest

from stepwrit_broker.core.answer import Answer, Word, answer_from, answer_of
from stepwrit_broker.core.change import (
    Change,
    Effect,
    Kind,
    by_initiator,
    by_policy,
    by_tool,
    changes_json,
    effect,
    ordered,
)
from stepwrit_broker.core.obligations import read, strictest
from stepwrit_broker.core.terms import terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Verdict


def says(verdict: Word, *obligations: tuple[str, str]) -> Answer:
    return Answer(verdict=verdict, policies=(), obligations=obligations)


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (says("permit"), says("deny"), "newly refused"),
        (says("approval"), says("deny"), "newly refused"),
        (says("permit"), says("approval"), "now needs approval"),
        (says("deny"), says("approval"), "now needs approval"),
        (says("deny"), says("permit"), "newly permitted"),
        (says("approval"), says("permit"), "newly permitted"),
        (says("permit", ("a", "1")), says("permit", ("a", "2")), "obligations changed"),
        (says("permit", ("a", "1"), ("b", "")), says("permit", ("b", ""), ("a", "1")), None),
        (says("deny"), Answer(verdict="deny", policies=("other",), reason="other"), None),
    ],
)
def test_an_effect_is_what_changes_for_who_asked(was: Answer, now: Answer, told: Effect | None) -> None:
    assert effect(was, now) == told


def kind(effect: Effect, tool: str | None, initiator: str = "a", policies: tuple[str, ...] = ()) -> Kind:
    return Kind(
        effect=effect,
        asking="open_step",
        who="w",
        initiator=initiator,
        tool=tool,
        was="permit",
        now="deny",
        policies=policies,
        says="",
        demands=((), ()),
    )


def test_what_takes_away_stands_first_then_the_most_frequent() -> None:
    changes = {
        kind("newly permitted", "s/a"): Change(count=9),
        kind("newly refused", "s/b"): Change(count=1),
        kind("newly refused", "s/c"): Change(count=2),
        kind("newly refused", None, "b"): Change(count=2),
    }
    assert [each.tool for each, _ in ordered(changes)] == [None, "s/c", "s/b", "s/a"]
    assert by_tool(changes) == {
        "(an intent)": {"newly refused": 2},
        "s/a": {"newly permitted": 9},
        "s/b": {"newly refused": 1},
        "s/c": {"newly refused": 2},
    }
    assert by_initiator(changes) == {
        "a": {"newly permitted": 9, "newly refused": 3},
        "b": {"newly refused": 2},
    }


def test_a_decision_of_two_policies_counts_for_both() -> None:
    changes = {
        kind("newly refused", "s/a", policies=("p1", "p2")): Change(count=2),
        kind("newly refused", "s/b"): Change(count=1),
    }
    assert by_policy(changes) == {
        "(no policy)": {"newly refused": 1},
        "p1": {"newly refused": 2},
        "p2": {"newly refused": 2},
    }


def test_of_many_kinds_the_first_are_told_one_by_one_and_the_rest_counted() -> None:
    changes = {kind("newly refused", f"s/{at}"): Change(count=at) for at in range(1, 6)}
    told = changes_json(changes, 2)
    assert [each["tool"] for each in told["changes"]] == ["s/5", "s/4"]
    assert told["changes_left_out"] == 3
    assert told["effects"] == {"newly refused": 15}
    assert changes_json(changes)["changes_left_out"] == 0


def test_the_first_refs_and_the_last_are_kept() -> None:
    change = Change()
    for at in range(1, 6):
        change.add(f"R{at}")
    assert (change.count, change.examples, change.last) == (5, ["R1", "R2", "R3"], "R5")


@pytest.mark.parametrize(
    "verdict",
    [
        Permit(
            policies=("p",),
            obligations=strictest((*read("p", "redact", "to,iban"), *read("q", "max_life", "60"))),
        ),
        NeedsApproval(
            policies=("p", "q"),
            setting="p",
            terms=(terms(2, ("bob", "carol")), terms()),
            obligations=read("p", "fan_out", "3"),
        ),
        Deny(policies=(), reason="no"),
    ],
)
def test_a_kept_answer_is_the_answer(verdict: Verdict) -> None:
    answer = answer_of(verdict)
    assert answer_from(json.loads(json.dumps(answer.as_json))) == answer


def test_what_an_earlier_release_kept_says_as_much_as_it_knew() -> None:
    assert answer_from({"verdict": "permit", "policies": ["p"]}) == answer_of(Permit(policies=("p",)))
    old = {"verdict": "approval", "policies": ["p"], "setting": "p"}
    assert answer_from(old) == answer_of(NeedsApproval(policies=("p",), setting="p"))


def test_other_terms_for_an_approval_are_a_change() -> None:
    one = answer_of(NeedsApproval(policies=("p",), setting="p"))
    two = answer_of(NeedsApproval(policies=("p",), setting="p", terms=(terms(1, ("bob",)),)))
    assert effect(one, two) == "approval terms changed"
    assert effect(two, two) is None
