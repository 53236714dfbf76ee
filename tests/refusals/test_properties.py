"""Whatever is thrown at them: what the `spiffe` package refuses we refuse, and no bit may be changed.

Where we differ from that package, the difference is named here and has a reason.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spiffe import JwtBundle, JwtSvid, SpiffeId, TrustDomain, X509Svid
from spiffe.errors import PySpiffeError
from tests.fakes.pki import KEYS, key_der
from tests.refusals.case import AUDIENCE, DOMAIN, MAX_LIFE_S, NOW
from tests.refusals.certificates import Authorities
from tests.refusals.generate import build
from tests.refusals.tokens import DROP, Keys, Maker, b64

from stepwrit.jwtsvid import JwtSvidRefused, verify_jwt_svid
from stepwrit.spiffe_bundle import BundleRefused, parse_bundle, parse_bundle_map, parse_jwt_authorities
from stepwrit.spiffe_id import SCHEME, check_workload_id
from stepwrit.wire import LEEWAY_S
from stepwrit.x509svid import SvidRefused, verify_x509_svid
from stepwrit_broker.core.workload import parse_spiffe_id

# a changed bit may make a serial number negative, which RFC 5280 4.1.2.2 asks to put up with
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
MATERIAL = build()
USUAL = MATERIAL.trusts["usual"]

# --- SPIFFE IDs

PIECES = st.sampled_from(
    [
        "a",
        "Z",
        "9",
        ".",
        "..",
        "-",
        "_",
        "/",
        "//",
        "%61",
        "%2f",
        ":",
        "@",
        "?",
        "#",
        "\n",
        "\x00",
        "é",
        "\u212a",
        " ",
    ]
)
IDS = st.one_of(
    st.builds(
        lambda scheme, domain, path: f"{scheme}{domain}/{path}",
        st.sampled_from([SCHEME, "Spiffe://", "https://", "spiffe:/", ""]),
        st.one_of(st.just("a.test"), st.lists(PIECES, max_size=4).map("".join)),
        st.lists(st.one_of(st.just("x"), PIECES), max_size=8).map("".join),
    ),
    st.text(max_size=40),
    st.integers(2000, 2100).map(lambda size: "spiffe://a.test/" + "x" * size),
    st.integers(250, 260).map(lambda size: "spiffe://" + "a" * size + "/x"),
)


def theirs_of(text: str) -> str | None:
    try:
        return str(SpiffeId(text))
    except PySpiffeError:
        return None


def ours_of(text: str) -> str | None:
    try:
        return check_workload_id(text)
    except ValueError:
        return None


def stricter(text: str) -> str | None:
    """Why we refuse what the package takes."""
    domain, _, path = text[len(SCHEME) :].partition("/")
    if text[: len(SCHEME)] != SCHEME or domain != domain.lower():
        return "it lowers the case of scheme and domain; we compare exact bytes"
    if not path:
        return "it parses trust domains' own IDs too; ours are workloads"
    if len(text) > 2048 or len(domain) > 255:
        return "it has no limits; SPIFFE-ID section 2.3"
    if "\n" in text:
        return "its `$` matches before a line break at the end"
    return None


@settings(max_examples=600)
@example("spiffe://a.test/x")
@example("spiffe://a.test/x\n")
@example("spiffe://\u212a.test/x")
@given(IDS)
def test_an_id_is_what_the_package_takes_but_for_named_differences(text: str) -> None:
    ours, theirs = ours_of(text), theirs_of(text)
    if ours is not None:
        assert ours == theirs == text == parse_spiffe_id(text)
    elif theirs is not None:
        assert stricter(text) is not None, text


@given(IDS)
def test_both_parsers_of_ours_are_one(text: str) -> None:
    try:
        parsed: str | None = parse_spiffe_id(text)
    except ValueError:
        parsed = None
    assert parsed == ours_of(text)


def test_each_named_difference_exists() -> None:
    """A difference that the package mends goes from the list."""
    for text in ("SPIFFE://a.test/x", "spiffe://A.test/x", "spiffe://a.test", "spiffe://a.test/x\n"):
        assert theirs_of(text) is not None, text
        assert ours_of(text) is None, text
        assert stricter(text), text
    assert theirs_of("spiffe://a.test/" + "x" * 4096) is not None


# --- JWT-SVIDs: the package has the system's clock, so here both get it

SIGNERS = Keys()
MAKER = Maker(SIGNERS)
GOOD_KIDS = ("p256", "p384", "p521", "rsa")
PLAIN = json.dumps({"keys": [jwk for jwk in SIGNERS.jwks()[DOMAIN] if jwk["kid"] in GOOD_KIDS]}).encode()
THEIR_BUNDLE = JwtBundle.parse(TrustDomain(DOMAIN), PLAIN)
OUR_BUNDLE = {DOMAIN: parse_jwt_authorities(PLAIN)}
SECONDS = st.sampled_from([-600, -10, -1, 60, 600])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "sub": st.sampled_from(
            [
                DROP,
                "",
                1,
                None,
                "spiffe://a.test",
                "spiffe://A.test/x",
                "spiffe://b.test/x",
                "https://a.test/x",
            ]
        ),
        "aud": st.sampled_from([DROP, [], "", AUDIENCE, ["x"], ["x", AUDIENCE], [AUDIENCE, 1], 1, None, {}]),
        "exp": st.one_of(SECONDS, st.sampled_from([DROP, None, "x", True, 1e300])),
        "nbf": st.one_of(SECONDS, st.sampled_from([DROP, None, "x", False])),
        "iat": st.one_of(SECONDS, st.sampled_from([DROP, "x"])),
        "jti": st.sampled_from([DROP, "j", 1]),
    },
)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "typ": st.sampled_from(["JWT", "JOSE", "jwt", "at+jwt", None, 1]),
        "alg": st.sampled_from(["ES256", "ES384", "RS256", "PS256", "HS256", "none", "EdDSA", DROP, None]),
        "kid": st.sampled_from([*GOOD_KIDS, "nobody", DROP, None, 1]),
        "crit": st.sampled_from([["exp"], [], "b64"]),
        "b64": st.booleans(),
    },
)


def relative(changes: dict[str, Any], now: int) -> dict[str, Any]:
    """Seconds from now as times; the rest as it is."""
    times = {"iat": now, "exp": now + 240} | {
        name: now + value if type(value) is int else value
        for name, value in changes.items()
        if name in ("exp", "nbf", "iat")
    }
    return changes | times


def their_fault(token: str) -> str | None:
    try:
        JwtSvid.parse_and_validate(token, THEIR_BUNDLE, {AUDIENCE})
    except Exception as refused:  # noqa: BLE001  what it raises for odd types is not always its own
        return repr(refused)
    return None


def our_fault(token: str, now: float) -> str | None:
    try:
        verify_jwt_svid(token, audience=AUDIENCE, authorities=OUR_BUNDLE, now=now, sole_audience=False)
    except JwtSvidRefused as refused:
        return refused.reason
    return None


@settings(max_examples=500)
@given(st.sampled_from(GOOD_KIDS), HEADS, CHANGES)
def test_a_token_that_the_package_refuses_is_refused(
    kid: str, head: dict[str, Any], changes: dict[str, Any]
) -> None:
    now = time.time()
    token = MAKER.token(kid, head=head, **relative(changes, int(now)))
    ours, theirs = our_fault(token, now), their_fault(token)
    if theirs is not None and ours is None:
        assert changes.get("jti") == 1, (theirs, head, changes)  # named below


def test_the_package_and_we_take_a_good_token() -> None:
    now = int(time.time())
    for kid in GOOD_KIDS:
        token = MAKER.token(kid, **relative({}, now))
        assert their_fault(token) is None
        assert our_fault(token, now) is None


NAMED: dict[str, dict[str, Any]] = {
    "a jti that is no string: JWT-SVID gives jti no meaning, we do not read it": {"jti": 1},
    "a beginning within our leeway": {"nbf": LEEWAY_S - 1},
}


@pytest.mark.parametrize("why", NAMED)
def test_the_exceptions_are_these(why: str) -> None:
    now = time.time()
    token = MAKER.token("p256", **relative(NAMED[why], int(now) + 1))
    assert their_fault(token) is not None
    assert our_fault(token, now) is None


def test_what_we_refuse_and_the_package_takes() -> None:
    now = int(time.time())
    times = relative({}, now)
    stricter_than_theirs = {
        "type": MAKER.token(head={"typ": None}, **times),
        "header": MAKER.token(head={"jku": "https://a.test"}, **times),
        "bad_spiffe_id": MAKER.token(**times | {"sub": "spiffe://A.test/x"}),
        "root_path": MAKER.token(**times | {"sub": "spiffe://a.test"}),
        "malformed": MAKER.token(**times) + "==",
    }
    for reason, token in stricter_than_theirs.items():
        assert their_fault(token) is None, reason
        assert our_fault(token, now) == reason


GOOD = MATERIAL.cases["jwt/plain"].text


def judged(token: str) -> str | None:
    try:
        verify_jwt_svid(token, audience=AUDIENCE, authorities=USUAL.jwt, now=NOW, max_life=MAX_LIFE_S)
    except JwtSvidRefused as refused:
        return refused.reason
    return None


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=0x2FF))
def test_no_character_of_a_token_may_be_changed(at: int, char: str) -> None:
    assert judged(GOOD) is None
    assert (judged(GOOD[:at] + char + GOOD[at + 1 :]) is None) == (GOOD[at] == char)
    assert judged(GOOD[:at] + char + GOOD[at:]) is not None


@given(st.text(max_size=60), st.binary(max_size=60))
def test_anything_at_all_is_refused_with_a_reason(text: str, raw: bytes) -> None:
    part = b64(raw)
    for token in (text, f"{part}.{part}.{part}", f"{GOOD.split('.')[0]}.{part}.{part}"):
        assert judged(token) is not None


# --- X.509-SVIDs

BY = Authorities()
USAGES = ["digital_signature", "key_cert_sign", "crl_sign", "key_agreement", "content_commitment"]
URIS = [
    "spiffe://a.test/agent", "spiffe://a.test", "https://a.test/x", "spiffe://A.test/x", "spiffe://a.test//x",
    "spiffe://b.test/x",
]  # fmt: skip
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "uris": st.lists(st.sampled_from(URIS), max_size=2).map(tuple),
        "dns": st.sampled_from([(), ("a.test",)]),
        "usage": st.one_of(st.none(), st.lists(st.sampled_from(USAGES), min_size=1, unique=True).map(tuple)),
        "usage_critical": st.booleans(),
        "is_ca": st.sampled_from([None, False, True]),
        "eku": st.one_of(
            st.none(),
            st.lists(
                st.sampled_from([Eku.SERVER_AUTH, Eku.CLIENT_AUTH, Eku.CODE_SIGNING]), min_size=1, unique=True
            ),
        ),
        "subject": st.booleans(),
        "key": st.sampled_from([kind for kind in KEYS if kind != "rsa"]),
    },
)


def alike(shape: dict[str, Any]) -> bool:
    """It is fine with basic constraints, for the package too."""
    issued = BY.leaf(BY.ours, **shape | {"is_ca": False})
    try:
        return bool(X509Svid.parse_raw(issued.leaf, key_der(issued)))
    except PySpiffeError:
        return False


@settings(max_examples=200)
@given(SHAPES)
def test_a_leaf_that_the_package_refuses_is_refused(shape: dict[str, Any]) -> None:
    if not shape.get("uris", URIS) and not shape.get("dns"):
        shape = shape | {"san": False}
    issued = BY.leaf(BY.ours, **shape)
    try:
        X509Svid.parse_raw(issued.leaf, key_der(issued))
    except PySpiffeError:
        if shape.get("is_ca", False) is None and alike(shape):
            return  # without basic constraints it is no CA (RFC 5280 4.2.1.9), which is all that is asked
        with pytest.raises(SvidRefused):
            verify_x509_svid(issued.leaf, (), BY.x509(), NOW)


LEAF = BY.leaf(BY.ours)


@settings(max_examples=400)
@given(st.integers(0, len(LEAF.leaf) * 8 - 1))
def test_no_bit_of_a_certificate_may_be_changed(bit: int) -> None:
    assert verify_x509_svid(LEAF.leaf, (), BY.x509(), NOW)
    changed = bytearray(LEAF.leaf)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SvidRefused):
        verify_x509_svid(bytes(changed), (), BY.x509(), NOW)


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, len(BY.ours.der) * 8 - 1))
def test_a_bundle_is_read_or_refused_and_nothing_else(raw: bytes, bit: int) -> None:
    changed = bytearray(BY.ours.der)
    changed[bit // 8] ^= 1 << bit % 8
    key = {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(changed).decode()]}
    for document in (
        raw,
        json.dumps({"keys": [key]}).encode(),
        json.dumps({"trust_domains": {"a.test": 1}}).encode(),
    ):
        for parse in (lambda doc: parse_bundle(doc, DOMAIN), parse_bundle_map, parse_jwt_authorities):
            try:
                parse(document)
            except BundleRefused:
                continue
