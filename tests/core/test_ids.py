from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core import ids

KINDS: tuple[ids.Kind, ...] = ("txn", "stp", "grt", "apr")
RAW = st.binary(min_size=ids.RANDOM_BYTES, max_size=ids.RANDOM_BYTES)
SHARDS = st.integers(0, 255).map(lambda number: f"{number:02x}")


@given(st.sampled_from(KINDS), SHARDS, RAW)
def test_every_made_id_is_one_of_its_kind_alone_and_holds_its_shard(
    kind: ids.Kind, shard: str, raw: bytes
) -> None:
    made = ids.make_id(kind, shard, raw)
    assert [other for other in KINDS if ids.is_id(other, made)] == [kind]
    assert ids.shard_of(made) == shard
    assert len(made) == 3 + 1 + 1 + 2 + 26


@given(RAW, RAW)
def test_ids_differ_when_any_of_the_used_bits_differ(one: bytes, other: bytes) -> None:
    used = (1 << 130) - 1
    same = (int.from_bytes(one, "big") & used) == (int.from_bytes(other, "big") & used)
    assert (ids.make_id("stp", "00", one) == ids.make_id("stp", "00", other)) is same


GOOD = "stp_100" + "0" * 26


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "stp",
        GOOD + "\n",
        GOOD + "0",
        GOOD[:-1],
        GOOD.lower().replace("0", "o"),
        "stp_200" + "0" * 26,
        "stp_10G" + "0" * 26,
        "stp_100" + "0" * 25 + "U",
        "stp_100" + "0" * 25 + "a",
        " " + GOOD,
        "grt_100" + "0" * 26,
        "stp_100" + "٠" * 26,
    ],
)
def test_anything_else_is_no_id(bad: str) -> None:
    assert ids.is_id("stp", GOOD)
    assert not ids.is_id("stp", bad)


@given(st.binary(min_size=ids.REF_BYTES, max_size=ids.REF_BYTES))
def test_every_made_ref_is_one(raw: bytes) -> None:
    assert ids.is_ref(ids.make_ref(raw))


@pytest.mark.parametrize("bad", ["", "0" * 9, "0" * 11, "0" * 10 + "\n", "000000000I", "00000000o0", GOOD])
def test_anything_else_is_no_ref(bad: str) -> None:
    assert ids.is_ref("0" * 10)
    assert not ids.is_ref(bad)
