"""Envoy's header: one element, the certificate itself, nothing taken from what is said beside it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edge.certificates import encoded, pem, xfcc
from tests.fakes.pki import FakeCa

from stepwrit_broker.edge.xfcc import MAX_PAIRS, read_xfcc

ROOT = FakeCa("a.test")
MIDDLE = ROOT.intermediate()
LEAF, OTHER = MIDDLE.issue().leaf, MIDDLE.issue("spiffe://a.test/other").leaf
CERT = b'Cert="%b"' % encoded(LEAF)
CHAIN = b'Chain="%b"' % encoded(LEAF, MIDDLE.der)
HASH = hashlib.sha256(LEAF).hexdigest().encode()


def refused(value: bytes) -> bool:
    assert read_xfcc(CERT) == [LEAF]
    with pytest.raises(ValueError):  # noqa: PT011  one class for everything
        read_xfcc(value)
    return True


def test_nginx_says_the_certificate_alone() -> None:
    assert read_xfcc(CERT) == [LEAF]


def test_envoy_says_much_more_and_none_of_it_counts() -> None:
    assert read_xfcc(xfcc(LEAF)) == [LEAF]
    assert read_xfcc(xfcc(LEAF, [MIDDLE.der])) == [LEAF, MIDDLE.der]
    assert read_xfcc(CERT + b";URI=spiffe://a.test/somebody-else;DNS=a;DNS=b;Subject=") == [LEAF]
    assert read_xfcc(b'By=spiffe://a.test/p;By="x,y";' + CERT) == [LEAF]


@pytest.mark.parametrize("key", [b"cert", b"CERT", b"cErT"])
def test_keys_are_in_any_case(key: bytes) -> None:
    assert read_xfcc(key + CERT[4:]) == [LEAF]


def test_a_value_may_come_without_quotes_where_nothing_in_it_needs_them() -> None:
    assert read_xfcc(b"Cert=" + encoded(LEAF)) == [LEAF]


def test_envoys_own_choice_of_what_to_encode_is_read_too() -> None:
    text = pem(LEAF)
    for plain, code in ((b"\n", b"%0A"), (b" ", b"%20"), (b"+", b"%2B"), (b"/", b"%2F"), (b"=", b"%3D")):
        text = text.replace(plain, code)
    assert read_xfcc(b'Cert="%b"' % text) == [LEAF]


def test_the_hash_must_be_of_that_certificate() -> None:
    assert read_xfcc(b"Hash=" + HASH + b";" + CERT) == [LEAF]
    assert read_xfcc(b"Hash=" + HASH.upper() + b";" + CERT) == [LEAF]
    assert refused(b"Hash=" + HASH[::-1] + b";" + CERT)
    assert refused(b"Hash=\xff;" + CERT)


def test_the_chain_begins_with_the_certificate() -> None:
    assert read_xfcc(CERT + b";" + CHAIN) == [LEAF, MIDDLE.der]
    assert refused(CERT + b';Chain="%b"' % encoded(MIDDLE.der))
    assert refused(CERT + b';Chain="%b"' % encoded(OTHER, MIDDLE.der))
    assert refused(CHAIN)


BAD = {
    "nothing": b"",
    "no certificate": b"Hash=" + HASH,
    "an empty one": b'Cert=""',
    "two elements": CERT + b"," + CERT,
    "another hop before": b"URI=spiffe://a.test/x," + CERT,
    "another hop behind": CERT + b", URI=spiffe://a.test/x",
    "two certificates": b'Cert="%b"' % encoded(LEAF, OTHER),
    "Cert twice": CERT + b";" + CERT,
    "Cert twice in another case": CERT + b";cert=x",
    "Chain twice": CERT + b";" + CHAIN + b";" + CHAIN,
    "an unknown key": CERT + b";Role=admin",
    "a key without value": CERT + b";Hash",
    "a space": CERT + b" ;Hash=" + HASH,
    "a space before": b" " + CERT,
    "an open quote": CERT[:-1],
    "something behind the quote": CERT + b"x",
    "a semicolon at the end": CERT + b";",
    "a semicolon before": b";" + CERT,
    "two semicolons": CERT + b";;Hash=" + HASH,
    "plain PEM": b'Cert="%b"' % pem(LEAF),
    "half an escape": CERT[:-1] + b'%"',
    "a broken escape": CERT.replace(b"%0A", b"%0Z", 1),
    "text before the PEM": b'Cert="x%0A' + CERT[6:],
    "text behind the PEM": CERT[:-1] + b'x"',
    "CRLF": CERT.replace(b"%0A", b"%0D%0A"),
    "a key": CERT.replace(b"CERTIFICATE", b"PRIVATE%20KEY"),
    "bare base64": b"Cert=MIIB",
    "a quote inside": CERT[:20] + b'\\"' + CERT[20:],
    "too many pairs": b";".join([b"DNS=a"] * MAX_PAIRS + [CERT]),
}


@pytest.mark.parametrize("which", BAD)
def test_anything_else_is_refused(which: str) -> None:
    assert refused(BAD[which])


KEYS = st.sampled_from(["By", "URI", "DNS"])
PLAIN = st.text("abcXYZ0189:/._-", max_size=20)
QUOTED = st.text("abc,;= :/.", max_size=20).map(lambda text: f'"{text}"')
PAIRS = st.lists(st.tuples(KEYS, PLAIN | QUOTED).map("=".join), max_size=6)


@given(PAIRS, PAIRS)
def test_what_stands_around_it_never_changes_the_certificate(before: list[str], behind: list[str]) -> None:
    parts = [*map(str.encode, before), CERT, *map(str.encode, behind)]
    assert read_xfcc(b";".join(parts)) == [LEAF]


@given(st.text('Cert=%0A;,"\\-ab', max_size=60))
def test_noise_is_a_value_error(noise: str) -> None:
    assert refused(noise.encode())
