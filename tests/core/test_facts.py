from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.facts import STRING_MAX, extract

ARGS = {
    "to": "bob",
    "amount": 5,
    "half": 2.0,
    "urgent": True,
    "list": [{"id": "first"}, 2],
    "a/b": "slash",
    "m~n": "tilde",
    "none": None,
    "": "empty",
    "0": "zero",
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/to", "bob"),
        ("/amount", 5),
        ("/half", 2),
        ("/urgent", True),
        ("/list/0/id", "first"),
        ("/list/1", 2),
        ("/a~1b", "slash"),
        ("/m~0n", "tilde"),
        ("/", "empty"),
        ("/0", "zero"),
    ],
)
def test_a_fact_is_what_the_pointer_finds(pointer: str, value: object) -> None:
    found = extract((("f", pointer),), ARGS)
    assert found == (("f", value),)
    assert type(found[0][1]) is type(value)


@pytest.mark.parametrize(
    "pointer",
    [
        "/none",
        "/absent",
        "/to/x",
        "/list/2",
        "/list/-",
        "/list/01",
        "/list/-1",
        "/list/²",
        "/list/٠",
        "/list/" + "9" * 5000,
    ],
)
def test_what_is_not_there_is_left_out(pointer: str) -> None:
    assert extract((("f", pointer), ("to", "/to")), ARGS) == (("to", "bob"),)


@pytest.mark.parametrize("bad", [1.5, [1], {"a": 1}, "x" * (STRING_MAX + 1)])
def test_a_fact_that_policy_could_not_read_is_refused(bad: object) -> None:
    assert extract((("f", "/v"),), {"v": "x" * STRING_MAX})
    with pytest.raises(Malformed) as refused:
        extract((("f", "/v"),), {"v": bad})
    assert refused.value.code == "invalid_arguments"
    assert "x" * 20 not in refused.value.reason


@given(
    st.text(max_size=30).map(lambda rest: "/" + rest),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    ),
)
def test_no_pointer_into_no_arguments_does_anything_but_find_or_refuse(pointer: str, value: object) -> None:
    try:
        found = extract((("f", pointer),), {"": value, "a": value})
    except Malformed:
        return
    assert len(found) <= 1
