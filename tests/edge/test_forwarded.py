"""What a proxy forwards is read strictly, from one configured header."""

from __future__ import annotations

import contextlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edge.certificates import encoded, sequence, xfcc
from tests.fakes.pki import NOW, FakeCa, Issued

from stepwrit.x509svid import SvidRefused, TlsPeer, verify_x509_svid
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.workload import ForwardedSource, Proxy, SpiffeId
from stepwrit_broker.edge import forwarded
from stepwrit_broker.edge.forwarded import (
    CLIENT_CERT,
    CLIENT_CERT_CHAIN,
    MAX_FIELD_BYTES,
    MAX_INTERMEDIATES,
    XFCC,
    Fields,
    Forwarding,
    read_peer,
    sent,
    take,
)

ROOT = FakeCa("a.test")
MIDDLE = ROOT.intermediate()
ONE, OTHER = ROOT.issue(), ROOT.issue("spiffe://a.test/other")
LONG = MIDDLE.intermediate().issue()  # two intermediates


def rfc9440(issued: Issued) -> Fields:
    chain = b", ".join(map(sequence, issued.intermediates))
    field = (CLIENT_CERT, sequence(issued.leaf))
    return (field, (CLIENT_CERT_CHAIN, chain)) if chain else (field,)


def envoy(issued: Issued) -> Fields:
    return ((XFCC, xfcc(issued.leaf, issued.intermediates)),)


def good(source: ForwardedSource, issued: Issued = ONE) -> Fields:
    return rfc9440(issued) if source == "client-cert" else envoy(issued)


def fault(source: ForwardedSource, fields: Fields) -> str:
    """The rule of the refusal, after the right thing was read."""
    assert read_peer(source, good(source)).leaf == ONE.leaf
    with pytest.raises(Unproven) as refused:
        read_peer(source, fields)
    assert refused.value.code == "unattested"
    assert refused.value.who_can_change_it == "the operator of the proxy"
    return str(refused.value.rule).removeprefix("proxy:")


@pytest.mark.parametrize("source", ["client-cert", "xfcc"])
@pytest.mark.parametrize("issued", [ONE, LONG])
def test_a_certificate_and_its_chain_arrive_as_they_were(source: ForwardedSource, issued: Issued) -> None:
    peer = read_peer(source, good(source, issued))
    assert (peer.leaf, peer.intermediates) == (issued.leaf, issued.intermediates)
    assert peer.memo is None


@pytest.mark.parametrize(
    ("source", "other"), [("client-cert", envoy(ONE)), ("xfcc", rfc9440(ONE)), ("xfcc", rfc9440(LONG)[1:])]
)
def test_only_the_configured_header_counts_and_no_other_stands_beside_it(
    source: ForwardedSource, other: Fields
) -> None:
    assert fault(source, other) == "other_source"
    assert fault(source, good(source) + other) == "other_source"


@pytest.mark.parametrize("source", ["client-cert", "xfcc"])
def test_without_the_header_nobody_is_known(source: ForwardedSource) -> None:
    assert fault(source, ()) == "no_certificate"
    with pytest.raises(Unproven, match=forwarded.SPELLED[forwarded.FIELDS[source][0]]):
        read_peer(source, ())


def test_a_chain_alone_is_nobody() -> None:
    assert fault("client-cert", rfc9440(LONG)[1:]) == "no_certificate"


@pytest.mark.parametrize("source", ["client-cert", "xfcc"])
def test_a_header_that_comes_twice_is_refused_even_when_both_say_the_same(source: ForwardedSource) -> None:
    assert fault(source, good(source) * 2) == "sent_twice"
    assert fault(source, good(source) + good(source, OTHER)) == "sent_twice"
    assert fault("client-cert", (*rfc9440(LONG), rfc9440(LONG)[1])) == "sent_twice"


@pytest.mark.parametrize("source", ["client-cert", "xfcc"])
def test_sizes_are_bounded(source: ForwardedSource) -> None:
    (name, value), *_ = good(source)
    assert fault(source, ((name, value + b"A" * MAX_FIELD_BYTES),)) == "too_large"
    deep = MIDDLE
    for _ in range(MAX_INTERMEDIATES - 1):
        deep = deep.intermediate()
    most = deep.issue()
    assert len(read_peer(source, good(source, most)).intermediates) == MAX_INTERMEDIATES
    assert fault(source, good(source, deep.intermediate().issue())) == "malformed"


def test_a_certificate_alone_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded, "MAX_CERTIFICATE_BYTES", len(ONE.leaf))
    assert read_peer("client-cert", rfc9440(ONE)).leaf == ONE.leaf
    monkeypatch.setattr(forwarded, "MAX_CERTIFICATE_BYTES", len(ONE.leaf) - 1)
    with pytest.raises(Unproven):
        read_peer("client-cert", rfc9440(ONE))


B64 = b64encode(ONE.leaf)
NOT_RFC9440 = {
    "nothing": b"",
    "a colon": b":",
    "an empty sequence": b"::",
    "bare base64": B64,
    "one colon": b":" + B64,
    "a string": b'"' + B64 + b'"',
    "a token": b"certificate",
    "a parameter": sequence(ONE.leaf) + b";v=1",
    "two in one field": sequence(ONE.leaf) + b", " + sequence(OTHER.leaf),
    "two certificates in one sequence": sequence(ONE.leaf + OTHER.leaf),
    "a byte behind the certificate": sequence(ONE.leaf + b"\0"),
    "a certificate cut short": sequence(ONE.leaf[:-1]),
    "the URL alphabet": b":" + b"-_" * 20 + b":",
    "a space inside": b":" + B64[:10] + b" " + B64[10:] + b":",
    "a line end inside": b":" + B64[:64] + b"\n" + B64[64:] + b":",
    "padding inside": b":QQ==" + B64 + b":",
    "no padding": b":" + b64encode(ONE.leaf + b"\0" * (2 - len(ONE.leaf) % 3)).rstrip(b"=") + b"A:",
    "no DER": sequence(b"certificate"),
    "PEM": sequence(b"-----BEGIN CERTIFICATE-----\n" + B64 + b"\n-----END CERTIFICATE-----\n"),
    "Envoy's way": xfcc(ONE.leaf),
    "URL-encoded PEM": encoded(ONE.leaf),
}


@pytest.mark.parametrize("which", NOT_RFC9440)
def test_what_is_no_byte_sequence_of_one_certificate_is_refused(which: str) -> None:
    assert fault("client-cert", ((CLIENT_CERT, NOT_RFC9440[which]),)) == "malformed"


@pytest.mark.parametrize(
    "chain",
    [
        b"",
        b",",
        sequence(MIDDLE.der) + b",",
        b"," + sequence(MIDDLE.der),
        sequence(MIDDLE.der) + b" " + sequence(MIDDLE.der),
        sequence(MIDDLE.der) + b";a=1",
        sequence(MIDDLE.der + ROOT.der),
        b"(" + sequence(MIDDLE.der) + b")",
        b"x=" + sequence(MIDDLE.der),
    ],
)
def test_what_is_no_list_of_certificates_is_no_chain(chain: bytes) -> None:
    assert read_peer("client-cert", (*rfc9440(ONE), (CLIENT_CERT_CHAIN, sequence(MIDDLE.der)))).intermediates
    assert fault("client-cert", (*rfc9440(ONE), (CLIENT_CERT_CHAIN, chain))) == "malformed"


@given(st.binary(max_size=200), st.sampled_from([(CLIENT_CERT, "client-cert"), (XFCC, "xfcc")]))
def test_noise_is_refused_and_never_an_error_of_another_kind(
    noise: bytes, where: tuple[bytes, ForwardedSource]
) -> None:
    name, source = where
    assert fault(source, ((name, noise),)) == "malformed"


def outcome(peer: TlsPeer) -> str:
    try:
        return verify_x509_svid(peer.leaf, (), {"a.test": (ROOT.der,)}, NOW).spiffe_id
    except SvidRefused as refused:
        return refused.reason


@given(st.data(), st.sampled_from(["client-cert", "xfcc"]))
def test_a_changed_byte_is_refused_or_changes_nothing_but_the_certificate(
    data: st.DataObject, source: ForwardedSource
) -> None:
    assert outcome(read_peer(source, good(source))) == "spiffe://a.test/agent"
    (name, value), *_ = good(source)
    at = data.draw(st.integers(0, len(value) - 1))
    bent = value[:at] + data.draw(st.binary(max_size=3)) + value[at + 1 :]
    with contextlib.suppress(Unproven):
        peer = read_peer(source, ((name, bent),))
        assert peer.intermediates == ()
        assert peer.leaf == ONE.leaf or "spiffe://" not in outcome(peer)  # its signature does not hold


# --- kept aside, and known by content


def test_the_fields_are_taken_out_of_the_headers_and_kept_aside() -> None:
    scope = {"headers": [(b"host", b"x"), *rfc9440(LONG), (b"dpop", b"y"), *envoy(ONE)]}
    take(scope)
    assert scope["headers"] == [(b"host", b"x"), (b"dpop", b"y")]
    assert sent(scope) == rfc9440(LONG) + envoy(ONE)


def test_without_them_nothing_is_kept_aside() -> None:
    scope = {"headers": [(b"host", b"x"), (b"client-certificate", b"y"), (b"client_cert", b"z")]}
    take(scope)
    assert len(scope["headers"]) == 3
    assert sent(scope) == ()


def test_one_client_is_known_again_and_two_are_never_mixed_up() -> None:
    forwarding = Forwarding(Proxy(id=SpiffeId("spiffe://a.test/proxy"), source="client-cert"))
    first, second = forwarding.peer(rfc9440(ONE)), forwarding.peer(rfc9440(OTHER))
    assert (first.leaf, second.leaf) == (ONE.leaf, OTHER.leaf)
    assert forwarding.peer(rfc9440(ONE)) is first
    assert forwarding.peer(rfc9440(OTHER)) is second
    with_chain = forwarding.peer((*rfc9440(ONE), (CLIENT_CERT_CHAIN, sequence(MIDDLE.der))))
    assert with_chain is not first


def test_how_many_are_known_is_bounded_and_the_busiest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded, "MAX_PEERS", 2)
    forwarding = Forwarding(Proxy(id=SpiffeId("spiffe://a.test/proxy"), source="client-cert"))
    first, second = forwarding.peer(rfc9440(ONE)), forwarding.peer(rfc9440(OTHER))
    assert forwarding.peer(rfc9440(ONE)) is first
    forwarding.peer(rfc9440(LONG))
    assert forwarding.peer(rfc9440(ONE)) is first
    assert forwarding.peer(rfc9440(OTHER)) is not second
    assert len(forwarding._peers) == 2


def test_what_cannot_be_read_is_not_kept() -> None:
    forwarding = Forwarding(Proxy(id=SpiffeId("spiffe://a.test/proxy"), source="client-cert"))
    with pytest.raises(Unproven):
        forwarding.peer(((CLIENT_CERT, b"x"),))
    assert not forwarding._peers
