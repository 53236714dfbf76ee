"""JSON with exactly one meaning: strict parsing, and the canonical bytes of RFC 8785.

Standard library and `rfc8785` only, no I/O. Import these names from `stepwrit.digest`.

JCS hashes numbers as doubles, so two numbers that a program tells apart could share one digest. Every
number that a double cannot hold exactly is therefore refused, with the advice to send it as a string.
`1` and `1.0`, and `0` and `-0`, are equal numbers and stay the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias, cast

import rfc8785

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH: Final = 64
MAX_SAFE_INTEGER: Final = 2**53 - 1
_AS_STRING: Final = "send such numbers as strings"


class DigestError(ValueError):
    """The input has no safe digest; the message says why and never repeats the input."""


# --- parsing


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise DigestError("an object names a member twice")
    return made


def _integer(text: str) -> int:
    # the length is judged first: turning a long text into an int is quadratic
    if len(text) > 17 or not -MAX_SAFE_INTEGER <= (value := int(text)) <= MAX_SAFE_INTEGER:
        raise DigestError(f"an integer is beyond ±(2^53-1); {_AS_STRING}")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise DigestError(f"a number is beyond ±(2^53-1); {_AS_STRING}")
    if repr(value) != text and not _same_number(text, value):
        raise DigestError(f"a number does not fit a double exactly; {_AS_STRING}")
    return value


def _same_number(text: str, value: float) -> bool:
    try:
        return Decimal(text) == Decimal(repr(value))
    except InvalidOperation:  # an exponent beyond what even Decimal holds
        return False


def _constant(_: str) -> float:
    raise DigestError("NaN and Infinity are not JSON numbers")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_decode = cast("Callable[[str], JsonValue]", _DECODER.decode)
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes | str, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """The value of a JSON text that has exactly one meaning (RFC 8259, I-JSON RFC 7493).

    Raises:
        DigestError: not UTF-8, not JSON, a member named twice, NaN or Infinity, a lone surrogate, a number
            that a double does not hold exactly, or nesting deeper than `max_depth` arrays and objects.
    """
    text = _text(raw)
    try:
        value = _decode(text)
    except json.JSONDecodeError as bad:
        raise DigestError(f"not JSON: {bad.msg} at character {bad.pos}") from None
    except RecursionError:
        raise DigestError(f"nested deeper than {max_depth}") from None
    if text.count("[") + text.count("{") > max_depth:  # fewer brackets than that cannot nest too deep
        _refuse_depth(value, max_depth)
    if _SURROGATE_ESCAPE.search(text):
        _refuse_surrogates(value)
    return value


def _text(raw: bytes | str) -> str:
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        if not text.isascii():
            text.encode()
    except UnicodeError:
        raise DigestError("not UTF-8, or a lone surrogate") from None
    return text


def _refuse_depth(value: JsonValue, left: int) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise DigestError("nested too deep")
        for each in value.values() if isinstance(value, dict) else value:
            _refuse_depth(each, left - 1)


def _refuse_surrogates(value: JsonValue) -> None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        raise DigestError("a string holds a lone surrogate") from None


# --- checking and canonical form


def check_value(value: object) -> JsonValue:
    """The same value, now known to be JSON that `parse_json` could have given.

    Raises:
        DigestError: another type (tuple, bytes, a subclass, a non-string member name), a non-finite number,
            an integral number beyond ±(2^53-1), a lone surrogate, a cycle or nesting deeper than 64.
    """
    _plain(value, MAX_DEPTH)
    return cast("JsonValue", value)


def _plain(value: object, left: int) -> bool:
    """Whether `json`'s own encoder writes this checked value exactly as RFC 8785 wants it."""
    leaf = _LEAVES.get(type(value))
    if leaf is not None:
        return leaf(value)
    if left == 0:
        raise DigestError("nested too deep")
    if type(value) is dict:
        return _plain_object(cast("dict[object, object]", value), left - 1)
    if type(value) is list:
        plain = True
        for each in cast("list[object]", value):
            plain &= _plain(each, left - 1)
        return plain
    raise DigestError(f"{type(value).__name__} is not a JSON type")


def _plain_object(members: dict[object, object], left: int) -> bool:
    plain = True
    for name, each in members.items():
        if type(name) is not str:
            raise DigestError("a member name is not a string")
        if not name.isascii():  # JCS sorts by UTF-16 units, Python by code points
            _plain_string(name)
            plain = False
        leaf = _LEAVES.get(type(each))
        plain &= _plain(each, left) if leaf is None else leaf(each)
    return plain


def _plain_string(value: str) -> bool:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DigestError("a string holds a lone surrogate") from None
    return True


def _plain_integer(value: int) -> bool:
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise DigestError(f"an integer is beyond ±(2^53-1); {_AS_STRING}")
    return True


def _plain_float(value: float) -> bool:
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:  # also false for NaN
        reason = f"a number is beyond ±(2^53-1); {_AS_STRING}"
        raise DigestError(reason if math.isfinite(value) else "NaN and Infinity are not JSON numbers")
    # repr and ECMAScript agree on fractions in this range; below it repr takes an exponent earlier
    return abs(value) >= 1e-4 and not value.is_integer()


def _always(_: object) -> bool:
    return True


_LEAVES: Final = cast(
    "dict[type, Callable[[object], bool]]",
    {str: _plain_string, int: _plain_integer, float: _plain_float, bool: _always, type(None): _always},
)
_encode: Final = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False
).encode


def canonical(value: object) -> bytes:
    """The RFC 8785 bytes of a JSON value.

    Raises:
        DigestError: what `check_value` refuses.
    """
    if _plain(value, MAX_DEPTH):
        return _encode(value).encode()
    return rfc8785.dumps(cast("None", value))
