"""What came back from the broker, read strictly: an answer's shape, or the refusal.

Members that a newer minor version added are dropped before reading: within a version they may be ignored.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from stepwrit import shape
from stepwrit.digest import DigestError, parse_json
from stepwrit.wire import ACCEPTED_VERSIONS, DOC_BASE, Refusal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")


class Garbled(ValueError):  # noqa: N818  reads as a state
    """The bytes are not what the broker would send; what it did is unknown."""


def json_object(body: bytes) -> dict[str, object]:
    """The JSON object in `body`. Raises Garbled."""
    try:
        value = parse_json(body)
    except DigestError as bad:
        raise Garbled(f"not JSON: {bad}") from None
    if not isinstance(value, dict):
        raise Garbled("not a JSON object")
    return typing.cast("dict[str, object]", value)


def answer(cls: type[T], members: Mapping[str, object]) -> T:
    """A `cls` from an answer's members. Raises Garbled, also for a version that is not understood."""
    if members.get("v", 1) not in ACCEPTED_VERSIONS:
        raise Garbled("an answer of a version that this SDK does not understand: upgrade it")
    try:
        return shape.read(cls, _known(cls, members))
    except shape.ShapeError as bad:
        raise Garbled(str(bad)) from None


def refusal(body: bytes) -> Refusal:
    """The refusal in a body that is not a success. Raises Garbled."""
    members = json_object(body).get("refusal")
    if not isinstance(members, Mapping):
        raise Garbled("no refusal in it")
    return answer(Refusal, typing.cast("Mapping[str, object]", members))


def local(code: str, reason: str, *, retry_after: float | None = None, ref: str | None = None) -> Refusal:
    """A refusal made here and not by the broker."""
    return Refusal(code=code, reason=reason, retry_after=retry_after, ref=ref, doc=DOC_BASE + code)


def _known(cls: type, members: Mapping[str, object]) -> dict[str, object]:
    kept = _nested(cls)
    return {name: _prune(kept[name], value) for name, value in members.items() if name in kept}


def _prune(cls: type | None, value: object) -> object:
    if cls is None:
        return value
    if isinstance(value, list):
        return [_prune(cls, each) for each in typing.cast("list[object]", value)]
    return _known(cls, typing.cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value


@lru_cache(maxsize=64)
def _nested(cls: type) -> dict[str, type | None]:
    """Member -> the shape in it, or in its array; None for anything else."""
    hints = typing.get_type_hints(cls)
    return {field.name: _shape_in(hints[field.name]) for field in dataclasses.fields(cls)}


def _shape_in(hint: object) -> type | None:
    for each in (hint, *typing.get_args(hint)):
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            return each
    return None
