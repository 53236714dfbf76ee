"""Strict reading and writing of the wire's frozen dataclasses; standard library only.

`read` refuses unknown members, missing members, wrong types and values outside a `Literal`; it never
coerces. The checkers are built once per class, so that reading a request costs a few microseconds.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

Check = Callable[[object, str], object]
_NAME_MAX: typing.Final = 64  # of a name that came from outside, in a message


class ShapeError(ValueError):
    """The value is not of the shape; the message names the member and what was expected."""


def _scalar(kind: type, name: str) -> Check:
    def check(value: object, where: str) -> object:
        if type(value) is not kind:
            raise ShapeError(f"{where}: expected {name}")
        return value

    return check


def _number(value: object, where: str) -> object:
    if type(value) not in (int, float):
        raise ShapeError(f"{where}: expected a number")
    return float(typing.cast("float", value))


def _anything(value: object, where: str) -> object:  # noqa: ARG001  a Check's shape
    return value


def _object(value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ShapeError(f"{where}: expected an object")
    return value


def _literal(allowed: tuple[object, ...]) -> Check:
    def check(value: object, where: str) -> object:
        if value not in allowed or isinstance(value, bool):
            raise ShapeError(f"{where}: expected one of {', '.join(map(str, allowed))}")
        return value

    return check


def _array(inner: Check) -> Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, list | tuple):
            raise ShapeError(f"{where}: expected an array")
        return tuple(
            inner(each, f"{where}[{at}]") for at, each in enumerate(typing.cast("list[object]", value))
        )

    return check


def _union(inner: tuple[Check, ...], *, nullable: bool) -> Check:
    def check(value: object, where: str) -> object:
        if value is None and nullable:
            return None
        for each in inner[:-1]:
            try:
                return each(value, where)
            except ShapeError:
                continue
        return inner[-1](value, where)

    return check


_SCALARS: dict[object, Check] = {
    str: _scalar(str, "a string"),
    int: _scalar(int, "an integer"),
    bool: _scalar(bool, "true or false"),
    float: _number,
    object: _anything,
}


def _checker(hint: object) -> Check:
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return _literal(args)
    if origin is tuple:
        return _array(_checker(args[0]))
    if origin in (typing.Union, types.UnionType):
        kept = tuple(_checker(arg) for arg in args if arg is not type(None))
        return _union(kept, nullable=len(kept) < len(args))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value, where: read(hint, value, where)
    return _object


@lru_cache(maxsize=256)
def _plan(cls: type) -> tuple[dict[str, Check], frozenset[str]]:
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = {
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return {field.name: _checker(hints[field.name]) for field in fields}, frozenset(required)


def read(cls: type[T], value: object, where: str = "$") -> T:
    """A `cls` from parsed JSON.

    Raises:
        ShapeError: an unknown or missing member, or one of the wrong type; says which.
    """
    if not isinstance(value, Mapping):
        raise ShapeError(f"{where}: expected an object")
    checks, required = _plan(cls)
    members = typing.cast("Mapping[str, object]", value)
    for name in members:
        if name not in checks:
            raise ShapeError(f"{where}.{str(name)[:_NAME_MAX]}: unknown member")
    for name in required:
        if name not in members:
            raise ShapeError(f"{where}.{name}: missing")
    return cls(**{name: checks[name](each, f"{where}.{name}") for name, each in members.items()})


_NAMES: dict[type, tuple[str, ...] | None] = {}  # by class, so as many as there are shapes


def _names(cls: type) -> tuple[str, ...] | None:
    """A shape's members, in order; None for everything that is not a shape."""
    if cls not in _NAMES:
        is_shape = dataclasses.is_dataclass(cls)
        _NAMES[cls] = tuple(field.name for field in dataclasses.fields(cls)) if is_shape else None
    return _NAMES[cls]


def write(value: object) -> object:
    """Parsed JSON of a shape; members that are None are left out."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    names = _names(kind)
    if names is not None:
        return {name: write(each) for name in names if (each := getattr(value, name)) is not None}
    if isinstance(value, tuple | list):
        return [write(each) for each in typing.cast("list[object]", value)]
    if isinstance(value, frozenset | set):
        return sorted(typing.cast("set[str]", value))
    return value


_PLAIN: frozenset[type] = frozenset({str, int, float, bool, type(None), dict})
