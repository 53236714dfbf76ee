"""The bytes of a work: what goes in comes out, and whatever else is there is refused by name."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.store.fleet.codec import MAX_BYTES, VERSION, Garbled, decode, encode
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

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
maybe = st.none() | texts
times = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(0, 2**63 - 1)
keys = st.binary(min_size=16, max_size=16)


def some(one):
    return st.lists(one, max_size=3).map(tuple)


changes = st.builds(
    Change,
    txn=texts,
    version=numbers,
    put=some(st.builds(Row, texts, numbers, st.binary(max_size=60))),
    drop=some(texts),
)
works = st.builds(
    Work,
    at=times,
    changes=some(changes),
    entries=some(st.builds(Said, st.binary(max_size=60), times, texts, maybe, maybe, maybe)),
    salts=some(st.tuples(texts, st.binary(max_size=16))),
    kept=some(st.builds(Kept, texts, maybe, st.binary(max_size=60))),
    proofs=some(st.builds(Used, keys, times)),
    ops=some(st.builds(OpDone, keys, texts, texts, times)),
    uses=some(texts),
    ended=some(st.tuples(texts, texts, texts, texts)),
    erased=some(texts),
)
ONE = Work(
    at=1.5,
    changes=(Change(txn="txn_1", version=0, put=(Row("txns:txn_1", 1, b"\x90"),), drop=("ops:x",)),),
    entries=(Said(b"{}", 1.5, "intent.opened", "txn_1", "ref", None),),
    uses=("grt_1",),
)


@given(works)
def test_round_trip(work):
    raw = encode(work)
    again = decode(raw)
    assert again == work
    assert [type(each) for each in again.proofs] == [Used] * len(work.proofs)
    assert all(isinstance(row, Row) for change in again.changes for row in change.put)
    assert encode(again) == raw


@given(st.binary(max_size=300))
def test_garbage(raw):
    for each in (raw, bytes((VERSION,)) + raw):
        with contextlib.suppress(Garbled):  # any other error fails
            encode(decode(each))


def test_garbled_ends_the_epoch():
    assert issubclass(Garbled, Contradiction)


@given(works, st.data())
def test_one_byte_changed_is_a_work_or_garbled(work, data):
    raw = bytearray(encode(work))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Garbled):
        decode(bytes(raw))


def test_versions_and_cuts():
    raw = encode(ONE)
    assert decode(raw) == ONE
    for cut in range(len(raw)):
        with pytest.raises(Garbled):
            decode(raw[:cut])
    with pytest.raises(Garbled, match="version 2"):
        decode(b"\x02" + raw[1:])
    with pytest.raises(Garbled):
        decode(raw + b"\x00")


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": float("nan")},
        {"at": float("inf")},
        {"uses": ("grt\0",)},
        {"uses": ("\ud800",)},
        {"proofs": (Used(b"k" * 16, float("nan")),)},
        {"entries": (Said(b"", 1.0, "k", None, "a\0b", None),)},
        {"changes": (Change(txn="t", version=2**70, put=()),)},
        {"changes": (Change(txn="t", version=0, put=(Row("signatures:" + "ü" * 1000, 1, b""),)),)},
        {"kept": (Kept("d", None, b"x" * MAX_BYTES),)},
    ],
)
def test_what_could_never_be_stored_is_refused_before_the_stream(wrong):
    assert encode(ONE)
    with pytest.raises(Malformed):
        encode(dataclasses.replace(ONE, **wrong))
