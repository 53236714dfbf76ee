"""Facts of the arguments that policy may read: named by the registry, taken by JSON pointer, forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from stepwrit_broker.core.errors import Malformed

STRING_MAX = 256
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")  # RFC 6901 section 4: no sign, no leading zero


Fact = tuple[str, str | int | bool]


def extract(pointers: Sequence[tuple[str, str]], args: Mapping[str, object]) -> tuple[Fact, ...]:
    """Each fact that the arguments have; a missing one is left out, so that policy can ask for its presence.

    Raises Malformed(`invalid_arguments`) for a value that is no string, whole number or boolean.
    """
    found = ((name, _at(args, pointer)) for name, pointer in pointers)
    return tuple((name, _plain(name, value)) for name, value in found if value is not None)


def _at(value: object, pointer: str) -> object:
    """RFC 6901; None when there is nothing."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = cast("Mapping[str, object]", value).get(key)
        elif isinstance(value, list) and _INDEX.match(key) and int(key) < len(cast("list[object]", value)):
            value = cast("list[object]", value)[int(key)]
        else:
            return None
    return value


def _plain(name: str, value: object) -> str | int | bool:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= STRING_MAX):
        return value
    raise Malformed("invalid_arguments", f"fact {name}: must be a short string, a whole number or a boolean")
