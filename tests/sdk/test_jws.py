"""Compact JWS with ES256: PyJWT as the oracle, RFC 7515's example, and signatures that must not hold."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwrit.digest import DigestError, b64u, canonical, unb64u
from stepwrit.jws import SigningKey, TokenRefused, Unverified, VerifyKey, split, verify

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/jose.json").read_text())
PRIVATE = ec.derive_private_key(0x5157, ec.SECP256R1())
KEY = SigningKey(PRIVATE, kid="k1")
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
TYP = "test+jwt"
GOOD_HEADER = {"alg": "ES256", "kid": "k1", "typ": TYP}
SAMPLE = KEY.sign(TYP, {"a": 1, "b": "two"})  # ECDSA is random: signed once, so that examples repeat
CLAIMS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.none(),
    max_size=5,
)


def part(value: object) -> str:
    return b64u(value if isinstance(value, bytes) else json.dumps(value).encode())


def signed(header: object, payload: object = b"{}") -> str:
    """Sign whatever header and payload, well-formed or not."""
    text = f"{part(header)}.{part(payload)}"
    der = PRIVATE.sign(text.encode(), ec.ECDSA(SHA256()))
    return f"{text}.{b64u(jwt.utils.der_to_raw_signature(der, ec.SECP256R1()))}"


def refusal(token: str, key: VerifyKey = KEY.verify_key, typ: str = TYP) -> str:
    with pytest.raises(TokenRefused) as caught:
        verify(split(token), key, typ=typ)
    return caught.value.reason


def pyjwt_refuses(token: str) -> bool:
    try:
        jwt.decode(token, PRIVATE.public_key(), algorithms=["ES256"], options={"verify_exp": False})
    except (jwt.InvalidTokenError, ValueError):
        return True
    return False


# --- against the oracle and the RFC


@settings(max_examples=80, deadline=None)
@given(CLAIMS)
def test_pyjwt_reads_what_we_sign_and_we_read_what_pyjwt_signs(claims):
    options = {"verify_signature": True} | dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"),
        False,
    )
    ours = KEY.sign(TYP, claims)
    assert jwt.decode(ours, PRIVATE.public_key(), algorithms=["ES256"], options=options) == claims
    assert jwt.get_unverified_header(ours) == GOOD_HEADER
    theirs = jwt.encode(claims, PRIVATE, algorithm="ES256", headers={"kid": "k1", "typ": TYP})
    assert (
        verify(split(theirs), KEY.verify_key, typ=TYP)
        == claims
        == verify(split(ours), KEY.verify_key, typ=TYP)
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_token_is_refused_by_us_and_by_pyjwt(data):
    at = data.draw(st.integers(0, len(SAMPLE) - 1))
    other = data.draw(st.sampled_from([c for c in "Aa0-_.=+/ " if c != SAMPLE[at]]))
    changed = SAMPLE[:at] + other + SAMPLE[at + 1 :]
    assert refusal(changed)
    assert pyjwt_refuses(changed) or same_bytes(changed, SAMPLE)


def same_bytes(changed: str, token: str) -> bool:
    """PyJWT reads base64 leniently, so it may take another spelling of the same bytes: we do not."""
    return [jwt.utils.base64url_decode(p) for p in changed.split(".")] == [
        unb64u(p) for p in token.split(".")
    ]


def test_the_es256_example_of_rfc_7515_appendix_a_3():
    vector = VECTORS["rfc7515_a3"]
    key = VerifyKey.from_jwk(vector["jwk"])
    key.check(vector["signing_input"].encode(), unb64u(vector["signature"]))
    with pytest.raises(TokenRefused):
        key.check(vector["signing_input"].encode() + b" ", unb64u(vector["signature"]))


# --- keys


def test_a_signing_key_hides_itself_and_does_not_leave():
    key = SigningKey.generate()
    assert repr(key) == f"SigningKey(kid='{key.thumbprint}')"
    assert "d" not in key.public_jwk | key.published_jwk
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_verify_key_is_equal_by_thumbprint_and_survives_the_jwk():
    again = VerifyKey.from_jwk(KEY.published_jwk)
    assert again == KEY.verify_key
    assert hash(again) == hash(KEY.verify_key)
    assert again != SigningKey.generate().verify_key
    assert again.jwk == KEY.public_jwk
    assert copy.copy(again) == again


def test_a_built_key_is_reused():
    assert VerifyKey.from_jwk(KEY.public_jwk) is VerifyKey.from_jwk(KEY.published_jwk)


@pytest.mark.parametrize(
    "change",
    [
        {"d": "AA"}, {"k": "AA"}, {"kty": "OKP"}, {"crv": "P-384"}, {"crv": "secp256k1"}, {"x": 5},
        {"x": ["a"]},
        {"y": None}, {"x": "AA"}, {"x": KEY.public_jwk["y"]}, {"x": b64u(b"\0" * 32), "y": b64u(b"\0" * 32)},
        {"x": b64u(b"\xff" * 32)}, {"y": KEY.public_jwk["y"] + "="}, {"alg": "ES384"}, {"alg": "none"},
        {"use": "enc"},
        {"kty": {}},
    ],
    ids=repr,
)  # fmt: skip
def test_an_unusable_jwk_is_refused(change):
    assert VerifyKey.from_jwk({**KEY.published_jwk, "note": "unknown members are ignored"})
    with pytest.raises(TokenRefused) as caught:
        VerifyKey.from_jwk({**KEY.public_jwk, **change})
    assert caught.value.reason == "key"


def test_another_curve_is_refused():
    assert VerifyKey.from_public_key(PRIVATE.public_key())
    with pytest.raises(TokenRefused):
        VerifyKey.from_public_key(ec.generate_private_key(ec.SECP384R1()).public_key())


# --- signatures that must not hold


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def test_bad_signatures_are_refused_and_both_signs_of_s_hold():
    token = KEY.sign(TYP, {})
    message, good = token.rpartition(".")[0].encode(), unb64u(token.rpartition(".")[2])
    r, s = int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big")
    KEY.verify_key.check(message, good)
    KEY.verify_key.check(message, raw(r, N - s))
    bad = [
        raw(0, 0), raw(0, s), raw(r, 0), raw(N, s), raw(r, N), raw(N, N), raw(1, 1), raw(s, r), raw(r, s ^ 1),
        raw(N - r, s), raw(r, 2**256 - 1), b"\xff" * 64, b"", good[:-1], good + b"\0", b"\0" + good, good * 2,
        encode_dss_signature(r, s), encode_dss_signature(0, 0), good[:32] + b"\0" * 33,
    ]  # fmt: skip
    for signature in bad:
        with pytest.raises(TokenRefused) as caught:
            KEY.verify_key.check(message, signature)
        assert caught.value.reason == "signature"


def test_another_key_does_not_verify():
    token = KEY.sign(TYP, {"a": 1})
    assert verify(split(token), KEY.verify_key, typ=TYP) == {"a": 1}
    assert refusal(token, SigningKey.generate().verify_key) == "signature"


def test_type_is_judged_before_the_signature_and_exactly():
    token = KEY.sign(TYP, {})
    assert verify(split(token), KEY.verify_key, typ=TYP) == {}
    for typ in ("TEST+JWT", "application/test+jwt", "", "JWT", TYP + " "):
        assert refusal(token, typ=typ) == "type"


# --- shape


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({**GOOD_HEADER, "alg": "none"}, "algorithm"), ({**GOOD_HEADER, "alg": "HS256"}, "algorithm"),
        ({**GOOD_HEADER, "alg": "es256"}, "algorithm"), ({**GOOD_HEADER, "alg": ["ES256"]}, "algorithm"),
        ({**GOOD_HEADER, "alg": "EdDSA"}, "algorithm"), ({**GOOD_HEADER, "crit": ["exp"]}, "malformed"),
        ({**GOOD_HEADER, "b64": False}, "malformed"), ({**GOOD_HEADER, "jku": "https://evil"}, "malformed"),
        ({**GOOD_HEADER, "x5u": "https://evil"}, "malformed"), ({**GOOD_HEADER, "x5c": []}, "malformed"),
        ({**GOOD_HEADER, "cty": "JWT"}, "malformed"), ({**GOOD_HEADER, "jwk": KEY.public_jwk}, "malformed"),
        ({"alg": "ES256", "kid": "k1"}, "malformed"), ({"alg": "ES256", "typ": TYP}, "malformed"),
        ({}, "malformed"),
        ({**GOOD_HEADER, "kid": 1}, "malformed"), ({**GOOD_HEADER, "typ": None}, "malformed"),
        ({**GOOD_HEADER, "kid": ["k1"]}, "malformed"), ([], "malformed"), ("x", "malformed"),
        (b"", "malformed"),
        (b'{"alg":"ES256","kid":"k1","kid":"k1","typ":"test+jwt"}', "malformed"), (b"\xff", "malformed"),
        ({"alg": "ES256", "typ": TYP, "jwk": "k1"}, "malformed"),
        ({"alg": "ES256", "typ": TYP, "jwk": {}}, "key"),
        ({"alg": "ES256", "typ": TYP, "jwk": {**KEY.public_jwk, "d": "AA"}}, "key"),
        ({"alg": "ES256", "typ": TYP, "jwk": {**KEY.public_jwk, "x": []}}, "key"),
        ({**GOOD_HEADER, "kid": "k" * 2048}, "too_large"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_header_holds_what_it_must_and_nothing_else(header, reason):
    assert verify(split(signed(GOOD_HEADER)), KEY.verify_key, typ=TYP) == {}
    assert refusal(signed(header)) == reason


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"1", b'"x"', b"null", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b'{"a":9007199254740993}'],
)
def test_claims_are_one_json_object_of_one_meaning(payload):
    assert verify(split(signed(GOOD_HEADER, b'{"a":1}')), KEY.verify_key, typ=TYP) == {"a": 1}
    assert refusal(signed(GOOD_HEADER, payload)) == "malformed"


def test_broken_tokens_are_malformed():
    token = signed(GOOD_HEADER)
    assert isinstance(split(token), Unverified)
    head, payload, signature = token.split(".")
    broken = [
        "", ".", "..", "...", head, f"{head}.{payload}", f"{token}.", f".{token}", f"{token}.{signature}",
        f"{head}=.{payload}.{signature}", f"{head}.{payload}=.{signature}", f"{head}.{payload}.{signature}==",
        f"{head}. {payload}.{signature}", token + "\n", token.replace(".", "\u2024"), f"{head}.é.{signature}",
        f"{head}.{payload}.\ud800", json.dumps({"protected": head, "payload": payload,
        "signature": signature}),
    ]  # fmt: skip
    for each in broken:
        with pytest.raises(TokenRefused) as caught:
            split(each)
        assert caught.value.reason == "malformed"


def test_a_token_over_16_kib_is_refused_unread():
    fits = KEY.sign(TYP, {"a": "x" * 11_000})
    assert verify(split(fits), KEY.verify_key, typ=TYP)
    assert refusal(KEY.sign(TYP, {"a": "x" * 13_000})) == "too_large"


def test_a_refusal_never_repeats_the_token():
    token = KEY.sign(TYP, {"secret": "hunter2"})
    with pytest.raises(TokenRefused) as caught:
        verify(split(token[:-4] + "AAAA"), KEY.verify_key, typ=TYP)
    assert token[-30:-4] not in str(caught.value)
    assert b64u(b"hunter2")[:6] not in repr(split(token))


def test_claims_that_are_not_json_are_not_signed():
    assert KEY.sign(TYP, {"a": 1})
    for claims in ({"a": 2**60}, {"a": b"x"}, {1: 2}):
        with pytest.raises(DigestError):
            KEY.sign(TYP, claims)  # type: ignore[arg-type]


def test_signed_claims_are_canonical():
    assert split(KEY.sign(TYP, {"b": 1.0, "a": "é"})).claims_bytes == canonical({"a": "é", "b": 1})


def test_an_ed25519_token_is_refused_by_algorithm():
    other = jwt.encode(
        {}, ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "k1", "typ": TYP}
    )
    assert refusal(other) == "algorithm"
