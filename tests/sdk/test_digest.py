"""RFC 8785, refusals, base64url, thumbprints: with `json` and `rfc8785` as oracles."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from enum import IntEnum, StrEnum
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwrit.digest import (
    DigestError,
    args_digest,
    b64u,
    body_digest,
    canonical,
    check_value,
    parse_json,
    salted,
    thumbprint,
    unb64u,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/rfc8785.json").read_text())
SAFE = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NUMBERS = st.integers(-SAFE, SAFE) | st.floats(-SAFE, SAFE) | st.floats(-1e-3, 1e-3)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def double(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


# --- canonical form


def test_the_sample_of_rfc_8785_where_doubles_hold_its_numbers():
    assert canonical(parse_json(VECTORS["sample_held_exactly"])).decode() == VECTORS["sample_canonical"]


def test_the_sample_of_rfc_8785_as_printed_has_numbers_we_refuse_by_design():
    assert rfc8785.dumps(json.loads(VECTORS["sample"]))  # the library hashes another number than was sent
    with pytest.raises(DigestError, match="as strings"):
        parse_json(VECTORS["sample"])


def test_members_are_sorted_by_utf_16_units():
    canonical_text = canonical(parse_json(VECTORS["sorting"]))
    assert list(json.loads(canonical_text).values()) == VECTORS["sorted_values"]


@pytest.mark.parametrize(("bits", "text"), VECTORS["numbers"])
def test_numbers_of_rfc_8785_appendix_b(bits, text):
    assert canonical(double(bits)).decode() == text


@pytest.mark.parametrize("bits", VECTORS["numbers_refused"])
def test_numbers_of_appendix_b_beyond_exact_integers_are_refused(bits):
    assert canonical(double("43143ff3c1cb0959"))
    with pytest.raises(DigestError):
        canonical(double(bits))


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_canonical_bytes_equal_the_library_s(value):
    assert canonical(value) == rfc8785.dumps(value)


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: abs(f) <= SAFE))
def test_floats_equal_the_library_s(value):
    assert canonical({"n": value}) == rfc8785.dumps({"n": value})


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_canonical_form_is_a_fixed_point_of_parsing(value):
    once = canonical(value)
    assert canonical(parse_json(once)) == once


# --- parsing


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans())
def test_what_json_writes_is_read_back_equal(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    assert check_value(parse_json(text)) == value


@settings(max_examples=300, deadline=None)
@given(st.text('[]{}",:0123456789.eE+-\\ud8aft \n', max_size=24) | st.text(max_size=10))
def test_whatever_is_accepted_means_the_same_to_json(text):
    try:
        value = parse_json(text)
    except DigestError:
        return
    assert value == json.loads(text)
    assert check_value(value) == value


@settings(max_examples=200, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_only_if_it_is_exactly_that_number(number):
    text = str(number)
    try:
        value = parse_json(text)
    except DigestError:
        return
    assert number == type(number)(repr(value))


@pytest.mark.parametrize(
    "raw",
    [
        '{"a":1,"a":1}', '{"a":1,"\\u0061":2}', '[{"b":{"c":1,"c":2}}]', "NaN", "[Infinity]", "-Infinity",
        '"\\ud800"', '"\\udc00\\ud800"', '{"\\uD83D":1}', '"\ud800"', "9007199254740992", "-9007199254740992",
        "1" * 5000, "1e400", "-1e400", "1e-400", "9007199254740993.0", "1e16", "0.1000000000000000055",
        "1e99999999999999999999", "1e-99999999999999999999", "0." + "1" * 400, "", " ", "[1,]", "{'a':1}",
        "01", "1.", ".5", "+1", "[1] [2]", '"\n"', '"\\x41"', "nul", "\ufeff1", b"\xff", b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1", '"a"'.encode("utf-16"), "[" * 100_000, "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65,
        "\u0661", "\u00a01",
    ],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_ambiguous_or_broken_json_is_refused(raw):
    assert parse_json('{"a":[1,2.5,"x"]}') == {"a": [1, 2.5, "x"]}
    with pytest.raises(DigestError):
        parse_json(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("9007199254740991", SAFE), ("-9007199254740991", -SAFE), ("1.50", 1.5), ("1E2", 100.0), ("0.1", 0.1),
        ("-0", 0), ("-0.0", 0.0), ("5e-324", 5e-324), ("12.000000000000000000000", 12.0),
        ('"\\ud83d\\ude00"', "😀"), ("[" * 64 + "]" * 64, None), ('["[[[[","{{{{"]', ["[[[[", "{{{{"]),
        ('"' + "[" * 200 + '"', "[" * 200), (" \t\r\n1 ", 1),
    ],
    ids=lambda each: repr(each)[:20],
)  # fmt: skip
def test_exact_json_is_accepted(raw, value):
    assert value is None or parse_json(raw) == value
    assert parse_json(raw) is not None


@pytest.mark.parametrize("raw", ["9007199254740993", "1e23", "0.30000000000000000001"])
def test_a_refused_number_comes_with_advice_and_without_the_number(raw):
    with pytest.raises(DigestError, match="send such numbers as strings") as caught:
        parse_json(raw)
    assert raw not in str(caught.value)


def test_two_account_numbers_that_jcs_would_merge_are_refused_and_differ_as_strings():
    merged = {rfc8785.dumps(float(n)) for n in (9007199254740992, 9007199254740993)}
    assert len(merged) == 1
    for number in (9007199254740992, 9007199254740993):
        with pytest.raises(DigestError, match="as strings"):
            args_digest({"account": number})
    assert args_digest({"account": "9007199254740992"}) != args_digest({"account": "9007199254740993"})


def test_depth_is_the_caller_s_to_narrow():
    assert parse_json("[[1]]", max_depth=2) == [[1]]
    with pytest.raises(DigestError):
        parse_json("[[[1]]]", max_depth=2)


# --- values


class Named(StrEnum):
    A = "a"


class Numbered(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        (1,), b"x", {1}, {1: 2}, {None: 1}, {Named.A: 1}, Named.A, Numbered.ONE, math.nan, math.inf,
        -math.inf,
        2**53, -(2**53), float(2**53), 1e300, "\ud800", {"\ud800": 1}, [["\udfff"]], object(), Ellipsis, 1j,
        {"é": {"b": (1,)}},
    ],
    ids=repr,
)  # fmt: skip
def test_values_that_are_not_exactly_json_are_refused(value):
    assert check_value({"a": [value.__class__.__name__]})
    for attempt in (check_value, canonical):
        with pytest.raises(DigestError):
            attempt(value)
        with pytest.raises(DigestError):
            attempt({"deep": [value]})


def test_cycles_and_deep_values_are_refused():
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(DigestError):
        canonical(cycle)
    deep: object = 1
    for _ in range(64):
        deep = [deep]
    assert canonical(deep) == b"[" * 64 + b"1" + b"]" * 64
    with pytest.raises(DigestError):
        canonical([deep])


# --- digests


def test_absent_arguments_are_an_empty_object():
    assert args_digest(None) == args_digest({}) == b64u(hashlib.sha256(b"{}").digest())


def test_equal_numbers_and_member_order_do_not_change_the_digest():
    assert args_digest({"a": 1, "b": 2}) == args_digest({"b": 2.0, "a": 1.0})
    assert args_digest({"a": 1}) != args_digest({"a": "1"}) != args_digest({"a": True})


def test_arguments_are_an_object():
    assert args_digest({"a": []})
    with pytest.raises(DigestError):
        args_digest([])  # type: ignore[arg-type]


def test_salted_digests_differ_by_salt_and_need_a_real_digest_and_salt():
    digest, salt = body_digest(b"x"), b"s" * 16
    assert salted(salt, digest) == b64u(hashlib.sha256(salt + hashlib.sha256(b"x").digest()).digest())
    assert salted(salt, digest) != salted(b"t" * 16, digest)
    for bad_salt, bad in ((salt, "abc"), (salt, b64u(b"x" * 31)), (b"", digest), (b"s" * 15, digest)):
        with pytest.raises(DigestError):
            salted(bad_salt, bad)


# --- base64url


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=70))
def test_base64url_round_trips_as_the_library_does(data):
    text = b64u(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert unb64u(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "AA==",
        "AA=",
        "A",
        "AAAAA",
        "AB",
        "AAB",
        "A A",
        "AA\n",
        "A+A_",
        "AA/A",
        "é",
        "AA.A",
        "-\x00AA",
        "😀",
    ],
)
def test_base64url_has_one_text_per_value(text):
    assert unb64u("AA") == b"\x00"
    assert unb64u("-_-_") == base64.b64decode("+/+/")
    with pytest.raises(DigestError):
        unb64u(text)


@settings(max_examples=300, deadline=None)
@given(st.text("ABCDwxyz0189-_+/= ", max_size=8))
def test_accepted_base64url_encodes_back_to_itself(text):
    try:
        data = unb64u(text)
    except DigestError:
        return
    assert b64u(data) == text


# --- thumbprints


P256 = {
    "kty": "EC",
    "crv": "P-256",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
}


def test_the_thumbprint_printed_in_rfc_9449_section_6_1():
    assert thumbprint(P256) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_only_required_members_count_and_their_order_does_not():
    assert thumbprint({"kid": "k", **dict(reversed(P256.items())), "use": "sig"}) == thumbprint(P256)


def test_a_thumbprint_is_the_hash_of_the_canonical_required_members():
    assert thumbprint(P256) == body_digest(rfc8785.dumps(P256))


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"}, {"crv": "P-384"}, {"x": None}, {"y": 5}, {"x": "AA"}, {"y": P256["y"] + "="},
        {"x": P256["x"][:-1] + "t"}, {"x": 'A","y":"' + "A" * 35},
    ],
    ids=repr,
)  # fmt: skip
def test_other_keys_have_no_thumbprint(change):
    assert thumbprint(P256)
    with pytest.raises(DigestError):
        thumbprint({**P256, **change})
