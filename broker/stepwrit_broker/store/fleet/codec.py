"""A work as bytes, in the streams of the swift engine: one version byte, then MessagePack of arrays.

Positions are fixed. A broker reads the versions that it knows; a fleet is upgraded reader first, so that no
broker writes what another of the fleet cannot read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple

import msgspec

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.store.fleet.seams import (
    Change,
    Contradiction,
    Kept,
    OpDone,
    Row,
    Said,
    Used,
    Work,
)

VERSION: Final = 1
MAX_BYTES: Final = 8 * 1024 * 1024
FIELD_MAX: Final = 2000  # bytes: a row's name is in an index of the true engine
_Int = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Key = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Garbled(Contradiction):
    """Bytes in a stream that no broker of this fleet wrote, or that a newer one did."""


class _Row(NamedTuple):
    field: str
    ord: _Int
    value: bytes


class _Used(NamedTuple):
    key: _Key
    until: float


class _Op(NamedTuple):
    key: _Key
    digest: str
    answer: str
    at: float


class _Change(NamedTuple):
    txn: str
    version: _Int
    put: tuple[_Row, ...]
    drop: tuple[str, ...]


class _Work(NamedTuple):
    at: float
    changes: tuple[_Change, ...]
    entries: tuple[Said, ...]
    salts: tuple[tuple[str, bytes], ...]
    kept: tuple[Kept, ...]
    proofs: tuple[_Used, ...]
    ops: tuple[_Op, ...]
    uses: tuple[str, ...]
    ended: tuple[tuple[str, str, str, str], ...]
    erased: tuple[str, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Work).decode


def encode(work: Work) -> bytes:
    """As `decode` reads it. Raises Malformed for what the true engine could never keep: a text with a NUL or
    a lone surrogate, a time that is no number, more than MAX_BYTES.
    """
    changes = [(each.txn, each.version, each.put, each.drop) for each in work.changes]
    row = (
        work.at, changes, work.entries, work.salts, work.kept, work.proofs, work.ops, work.uses, work.ended,
        *((work.erased,) if work.erased else ()),
    )  # fmt: skip
    try:
        raw = bytes((VERSION,)) + _encode(row)
    except (UnicodeEncodeError, OverflowError, TypeError):
        raise Malformed("invalid_request", "a text or number that cannot be stored") from None
    if len(raw) > MAX_BYTES:
        raise Malformed("invalid_request", "one operation with more than can be stored at once")
    if not _is_storable(work):
        raise Malformed("invalid_request", "a text with a NUL character, or a time that is no number")
    return raw


def decode(raw: bytes) -> Work:
    """What `encode` wrote. Raises Garbled, never anything else."""
    if not 1 < len(raw) <= MAX_BYTES:
        raise Garbled(f"a work of {len(raw)} bytes")
    if raw[0] != VERSION:
        raise Garbled(f"a work of version {raw[0]}; this broker reads {VERSION}")
    try:
        work = _work(_decode(memoryview(raw)[1:]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Garbled("a work that is not what its version says") from None
    if not _is_storable(work):
        raise Garbled("a work with a text or a time that cannot be stored")
    return work


def _work(row: _Work) -> Work:
    return Work(
        at=row.at,
        changes=tuple(
            Change(txn=txn, version=version, put=tuple(Row(*each) for each in put), drop=drop)
            for txn, version, put, drop in row.changes
        ),
        entries=row.entries,
        salts=row.salts,
        kept=row.kept,
        proofs=tuple(Used(*each) for each in row.proofs),
        ops=tuple(OpDone(*each) for each in row.ops),
        uses=row.uses,
        ended=row.ended,
        erased=row.erased,
    )


def _is_storable(work: Work) -> bool:
    """PostgreSQL knows no NUL in a text; a NaN compares with nothing."""
    for change in work.changes:
        if any(len(row.field) > FIELD_MAX // 4 and len(row.field.encode()) > FIELD_MAX for row in change.put):
            return False
    return "\0" not in "".join(_texts(work)) and all(map(math.isfinite, _times(work)))


def _texts(work: Work) -> Iterator[str]:
    for change in work.changes:
        yield change.txn
        yield from (row.field for row in change.put)
        yield from change.drop
    for said in work.entries:
        yield from (said.kind, said.txn or "", said.ref or "", said.tenant or "")
    yield from (name for name, _ in work.salts)
    yield from (text for kept in work.kept for text in (kept.digest, kept.name or ""))
    yield from (text for op in work.ops for text in (op.digest, op.answer))
    yield from work.uses
    yield from work.erased


def _times(work: Work) -> Iterator[float]:
    yield work.at
    yield from (said.at for said in work.entries)
    yield from (proof.until for proof in work.proofs)
    yield from (op.at for op in work.ops)
