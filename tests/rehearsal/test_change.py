"""How two answers differ to who asked."""

from __future__ import annotations

import pytest

from stepwrit_broker.rehearsal.change import Change, Effect, Kind, by_initiator, by_tool, effect, ordered
from stepwrit_broker.rehearsal.expected import Answer, Word


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


def kind(effect: Effect, tool: str | None, initiator: str = "a") -> Kind:
    return Kind(
        effect=effect,
        asking="open_step",
        who="w",
        initiator=initiator,
        tool=tool,
        was="permit",
        now="deny",
        policies=(),
        says="",
        obligations=((), ()),
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


def test_the_first_and_the_last_ref_are_kept() -> None:
    change = Change()
    for ref in ("R1", "R2", "R3"):
        change.add(ref)
    assert (change.count, change.first, change.last) == (3, "R1", "R3")
