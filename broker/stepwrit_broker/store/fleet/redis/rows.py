"""A transaction's rows as the fields of one hash: 8 bytes of their order, then the value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stepwrit_broker.store.fleet.redis.wire import Word
from stepwrit_broker.store.fleet.seams import Change, Row

_OWN = frozenset((b"v", b"s", b"m"))  # version, seq and seal; a row's field has a colon


def row_words(rows: Iterable[Row]) -> list[Word]:
    """Field and value of each."""
    words: list[Word] = []
    for row in rows:
        if row.field.encode() in _OWN:
            raise ValueError("a row's field is TABLE:KEY")
        words += (row.field, row.ord.to_bytes(8, "big") + row.value)
    return words


def rows_of(fields: Sequence[Any]) -> tuple[Row, ...]:
    """The rows of HGETALL's answer, in their order."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    rows = [_row(name, value) for name, value in pairs if name not in _OWN]
    return tuple(sorted(rows, key=lambda row: (row.ord, row.field)))


def seal_of(fields: Sequence[Any]) -> bytes:
    """The seal in HGETALL's answer."""
    return next((value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == b"m"), b"")


def _row(name: bytes, value: bytes) -> Row:
    return Row(name.decode(), int.from_bytes(value[:8], "big"), value[8:])


def change_words(changes: Sequence[Change], seals: Sequence[bytes]) -> list[Word]:
    """As `commit` reads them."""
    words: list[Word] = []
    for change, seal in zip(changes, seals or [b""] * len(changes), strict=True):
        put = row_words(change.put)
        words += (change.version, seal, len(put), *put, len(change.drop), *change.drop)
    return words
