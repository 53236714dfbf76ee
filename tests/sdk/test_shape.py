from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit import wire
from stepwrit.shape import ShapeError, read, write


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    name: str
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    text: str
    count: int
    flag: bool
    ratio: float
    kind: Literal["a", "b"]
    inner: Inner
    maybe: str | None = None
    either: str | int = "x"
    nested: Inner | None = None
    many: tuple[Inner, ...] = ()
    open: dict[str, object] = field(default_factory=dict)
    anything: object = None
    made: int = field(default=7, init=False)


GOOD: dict[str, Any] = {
    "text": "t",
    "count": 1,
    "flag": True,
    "ratio": 1,
    "kind": "a",
    "inner": {"name": "n"},
}


def test_a_good_value_becomes_the_shape_and_is_never_coerced() -> None:
    made = read(Outer, GOOD)
    assert made == Outer(text="t", count=1, flag=True, ratio=1.0, kind="a", inner=Inner(name="n"))
    assert type(made.ratio) is float


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"text": 1}, "$.text: expected a string"),
        ({"text": None}, "$.text: expected a string"),
        ({"count": True}, "$.count: expected an integer"),
        ({"count": 1.0}, "$.count: expected an integer"),
        ({"count": "1"}, "$.count: expected an integer"),
        ({"flag": 1}, "$.flag: expected true or false"),
        ({"flag": "true"}, "$.flag: expected true or false"),
        ({"ratio": True}, "$.ratio: expected a number"),
        ({"ratio": "1"}, "$.ratio: expected a number"),
        ({"kind": "c"}, "$.kind: expected one of a, b"),
        ({"kind": True}, "$.kind: expected one of a, b"),
        ({"kind": []}, "$.kind: expected one of a, b"),
        ({"inner": []}, "$.inner: expected an object"),
        ({"inner": {}}, "$.inner.name: missing"),
        ({"inner": {"name": "n", "x": 1}}, "$.inner.x: unknown member"),
        ({"maybe": 1}, "$.maybe: expected a string"),
        ({"either": None}, "$.either: expected an integer"),
        ({"either": []}, "$.either: expected an integer"),
        ({"nested": 1}, "$.nested: expected an object"),
        ({"many": {}}, "$.many: expected an array"),
        ({"many": "x"}, "$.many: expected an array"),
        ({"many": [{"name": "n"}, {"name": 2}]}, "$.many[1].name: expected a string"),
        ({"open": []}, "$.open: expected an object"),
        ({"made": 7}, "$.made: unknown member"),
        ({"other": 1}, "$.other: unknown member"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name(change: dict[str, Any], where: str) -> None:
    assert read(Outer, GOOD)
    with pytest.raises(ShapeError) as refused:
        read(Outer, GOOD | change)
    assert str(refused.value) == where


@pytest.mark.parametrize("name", ["text", "count", "flag", "ratio", "kind", "inner"])
def test_a_missing_member_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ShapeError, match=rf"\$\.{name}: missing"):
        read(Outer, {each: value for each, value in GOOD.items() if each != name})


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_what_is_no_object_is_refused_where_it_stands(value: object) -> None:
    with pytest.raises(ShapeError, match="body: expected an object"):
        read(Outer, value, "body")


def test_optional_members_take_each_of_their_kinds() -> None:
    made = read(
        Outer,
        GOOD
        | {
            "maybe": None,
            "either": 5,
            "nested": {"name": "m", "size": 2},
            "many": [{"name": "o"}],
            "open": {"any": [1]},
            "anything": [None],
        },
    )
    assert (made.maybe, made.either, made.nested, made.many, made.open, made.anything) == (
        None,
        5,
        Inner(name="m", size=2),
        (Inner(name="o"),),
        {"any": [1]},
        [None],
    )


def test_a_message_does_not_repeat_a_long_name_that_came_from_outside() -> None:
    with pytest.raises(ShapeError) as refused:
        read(Inner, {"name": "n", "x" * 10_000: 1})
    assert len(str(refused.value)) < 100


def test_writing_leaves_out_what_is_none_and_reads_back_the_same() -> None:
    made = read(Outer, GOOD | {"many": [{"name": "o"}], "nested": None})
    told = write(made)
    assert isinstance(told, dict)
    assert "maybe" not in told
    assert told["many"] == [{"name": "o", "size": 1}]
    told.pop("made")
    assert read(Outer, told) == made


def test_sets_are_written_in_order_and_plain_values_as_they_are() -> None:
    assert write(frozenset({"b", "a"})) == ["a", "b"]
    assert write({"k": 1}) == {"k": 1}
    assert write((1, None)) == [1, None]


def test_a_class_is_not_a_value() -> None:
    assert write(Inner) is Inner


SHAPES = [each for _, each in inspect.getmembers(wire, dataclasses.is_dataclass) if isinstance(each, type)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@given(data=st.data())
def test_every_shape_of_the_wire_survives_writing_and_reading(shape: type, data: st.DataObject) -> None:
    made: Any = data.draw(st.from_type(shape).filter(lambda value: value == value))
    assert read(shape, write(made)) == made
