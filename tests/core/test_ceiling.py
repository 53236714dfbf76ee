from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit.wire import CeilingSpec, Impact
from stepwrit_broker.core.ceiling import TOOLS_MAX, Ceiling, covers, impact_within, lower
from stepwrit_broker.core.errors import Malformed

IMPACTS: tuple[Impact, ...] = get_args(Impact)
TOOLS = [f"{server}/{tool}" for server in ("a", "ab", "b") for tool in ("x", "xy", "y")]
PATTERNS = [*TOOLS, "a/*", "ab/*", "b/*", "*"]
impacts = st.sampled_from(IMPACTS)
tools = st.sampled_from(TOOLS)
ceilings = st.builds(Ceiling, tools=st.frozensets(st.sampled_from(PATTERNS), max_size=6), impact=impacts)


@pytest.mark.parametrize(
    ("pattern", "tool", "does"),
    [
        ("*", "a/x", True),
        ("a/x", "a/x", True),
        ("a/*", "a/x", True),
        ("a/*", "a/*", True),
        ("a/*", "ab/x", False),
        ("a/*", "a", False),
        ("a/*", "*", False),
        ("a/x", "a/xy", False),
        ("a/x", "a/*", False),
        ("", "a/x", False),
        ("a", "a/x", False),
        ("A/*", "a/x", False),
    ],
)
def test_a_pattern_covers_a_tool_a_server_or_everything(pattern: str, tool: str, does: bool) -> None:
    assert covers(pattern, tool) is does


@given(ceilings, ceilings, tools, impacts)
def test_a_meet_allows_exactly_what_both_allow(
    one: Ceiling, other: Ceiling, tool: str, impact: Impact
) -> None:
    both = one.allows(tool, impact) and other.allows(tool, impact)
    assert one.meet(other).allows(tool, impact) is both


@given(ceilings, ceilings)
def test_a_meet_lies_within_both_and_does_not_care_about_the_order(one: Ceiling, other: Ceiling) -> None:
    met = one.meet(other)
    assert met.within(one)
    assert met.within(other)
    assert met == other.meet(one)
    assert met.meet(one) == met


@given(ceilings, ceilings, ceilings)
def test_within_is_reflexive_and_transitive(one: Ceiling, two: Ceiling, three: Ceiling) -> None:
    assert one.within(one)
    narrow = one.meet(two).meet(three)
    assert narrow.within(three)
    if one.within(two) and two.within(three):
        assert one.within(three)


@given(ceilings, ceilings, tools, impacts)
def test_what_lies_within_allows_nothing_more(
    one: Ceiling, other: Ceiling, tool: str, impact: Impact
) -> None:
    if one.within(other) and one.allows(tool, impact):
        assert other.allows(tool, impact)


@given(ceilings, tools)
def test_a_lower_impact_is_allowed_wherever_a_higher_one_is(ceiling: Ceiling, tool: str) -> None:
    allowed = [ceiling.allows(tool, impact) for impact in IMPACTS]
    assert allowed == sorted(allowed, reverse=True)


@given(impacts, impacts)
def test_lower_is_within_both(one: Impact, other: Impact) -> None:
    assert impact_within(lower(one, other), one)
    assert impact_within(lower(one, other), other)
    assert lower(one, other) in (one, other)


def test_an_empty_ceiling_allows_nothing_and_lies_within_every_other() -> None:
    empty = Ceiling(tools=frozenset(), impact="high")
    assert not any(empty.allows(tool, "low") for tool in TOOLS)
    assert empty.within(Ceiling(tools=frozenset(), impact="low"))


@given(ceilings)
def test_the_wire_and_back_is_the_same(ceiling: Ceiling) -> None:
    assert Ceiling.of(ceiling.spec()) == ceiling
    assert list(ceiling.spec().tools) == sorted(ceiling.tools)


def test_a_ceiling_of_very_many_tools_is_refused() -> None:
    assert Ceiling.of(CeilingSpec(tools=tuple(f"a/{n}" for n in range(TOOLS_MAX))))
    with pytest.raises(Malformed):
        Ceiling.of(CeilingSpec(tools=tuple(f"a/{n}" for n in range(TOOLS_MAX + 1))))
