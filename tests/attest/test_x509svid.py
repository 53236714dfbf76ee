"""What the verifier of X.509-SVIDs accepts and refuses (X509-SVID.md, SPIFFE-ID.md, RFC 5280)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from tests.fakes.pki import KEYS, NOW, FakeCa, Issued, ders

from stepwrit.x509svid import SvidRefused, verify_x509_svid
from stepwrit_broker.core.workload import parse_spiffe_id

CA = FakeCa("a.test")
PARTNER = FakeCa("b.test")
BUNDLES = ders({"a.test": [CA], "b.test": [PARTNER], "empty.test": []})
AGENT = "spiffe://a.test/agent"


def verify(issued: Issued, bundles: Any = BUNDLES, now: float = NOW) -> Any:
    return verify_x509_svid(issued.leaf, issued.intermediates, bundles, now)


def fault_of(issued: Issued, bundles: Any = BUNDLES, now: float = NOW) -> str:
    with pytest.raises(SvidRefused) as refused:
        verify(issued, bundles, now)
    return refused.value.reason


@pytest.fixture(autouse=True)
def positive_control() -> None:
    assert verify(CA.issue(AGENT)).spiffe_id == AGENT


ACCEPTED: dict[str, dict[str, Any]] = {
    "the shape SPIRE makes": {},
    "no extended key usage": {"eku": None},
    "empty subject with critical SAN": {"subject": False},
    "critical SAN beside a subject": {"san_critical": True},
    "a DNS name beside the URI": {"dns": ("agent.a.test",)},
    "no basic constraints": {"is_ca": None},
    "more key usages than needed": {"usage": ("digital_signature", "key_encipherment", "key_agreement")},
    "a third extended key usage": {"eku": (Eku.SERVER_AUTH, Eku.CLIENT_AUTH, Eku.CODE_SIGNING)},
    "every character an ID may have": {"uris": ("spiffe://a.test/A-z_0.9/..x",)},
    **{f"a {kind} key": {"key": kind} for kind in KEYS},
}


@pytest.mark.parametrize("shape", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_shape_is_accepted(shape: dict[str, Any]) -> None:
    svid = verify(CA.issue(AGENT, **shape))
    assert svid.trust_domain == "a.test"
    assert svid.expires_at == NOW + 3600
    assert parse_spiffe_id(svid.spiffe_id) == svid.spiffe_id


def test_intermediates_are_followed_and_their_end_counts() -> None:
    issuer = CA.intermediate().intermediate()
    svid = verify(issuer.issue(AGENT, ends=200_000))
    assert svid.expires_at == NOW + 86_400


def test_an_intermediate_may_be_the_bundles_root() -> None:
    issuer = CA.intermediate()
    assert verify(issuer.issue(AGENT), ders({"a.test": [issuer]})).spiffe_id == AGENT


def test_each_domain_is_verified_by_its_own_bundle() -> None:
    assert verify(PARTNER.issue("spiffe://b.test/x")).trust_domain == "b.test"


SIGN = "digital_signature"
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("two URI SANs", "many_uris", {"uris": (AGENT, "spiffe://a.test/other")}),
    ("the same URI SAN twice", "many_uris", {"uris": (AGENT, AGENT)}),
    ("a spiffe and an https URI", "many_uris", {"uris": (AGENT, "https://a.test/")}),
    ("no SAN", "no_uri", {"san": False}),
    ("a SAN without a URI", "no_uri", {"uris": (), "dns": ("agent.a.test",)}),
    ("a CA as leaf", "leaf_is_ca", {"is_ca": True}),
    ("a leaf that may sign certificates", "leaf_may_sign", {"usage": (SIGN, "key_cert_sign")}),
    ("a leaf that may sign revocation lists", "leaf_may_sign", {"usage": (SIGN, "crl_sign")}),
    ("no key usage", "no_key_usage", {"usage": None}),
    ("key usage not critical", "key_usage_not_critical", {"usage_critical": False}),
    ("key usage without digitalSignature", "no_digital_signature", {"usage": ("key_agreement",)}),
    ("only serverAuth", "wrong_extended_key_usage", {"eku": (Eku.SERVER_AUTH,)}),
    ("only clientAuth", "wrong_extended_key_usage", {"eku": (Eku.CLIENT_AUTH,)}),
    ("another extended key usage", "wrong_extended_key_usage", {"eku": (Eku.CODE_SIGNING,)}),
    ("the trust domain's root ID", "root_path", {"uris": ("spiffe://a.test",)}),
    ("the root ID with a slash", "root_path", {"uris": ("spiffe://a.test/",)}),
    ("another scheme", "not_spiffe", {"uris": ("https://a.test/agent",)}),
    ("an upper-case scheme", "not_spiffe", {"uris": ("SPIFFE://a.test/agent",)}),
    ("an upper-case trust domain", "bad_spiffe_id", {"uris": ("spiffe://A.test/agent",)}),
    ("no trust domain", "bad_spiffe_id", {"uris": ("spiffe:///agent",)}),
    ("a port", "bad_spiffe_id", {"uris": ("spiffe://a.test:80/agent",)}),
    ("user information", "bad_spiffe_id", {"uris": ("spiffe://me@a.test/agent",)}),
    ("percent-encoding", "bad_spiffe_id", {"uris": ("spiffe://a.test/%61gent",)}),
    ("a dot-dot segment", "bad_spiffe_id", {"uris": ("spiffe://a.test/x/../agent",)}),
    ("a dot segment", "bad_spiffe_id", {"uris": ("spiffe://a.test/./agent",)}),
    ("an empty segment", "bad_spiffe_id", {"uris": ("spiffe://a.test//agent",)}),
    ("a trailing slash", "bad_spiffe_id", {"uris": ("spiffe://a.test/agent/",)}),
    ("a query", "bad_spiffe_id", {"uris": ("spiffe://a.test/agent?x",)}),
    ("a fragment", "bad_spiffe_id", {"uris": ("spiffe://a.test/agent#x",)}),
    ("a line break at the end", "bad_spiffe_id", {"uris": ("spiffe://a.test/agent\n",)}),
    ("an ID beyond 2048 bytes", "bad_spiffe_id", {"uris": ("spiffe://a.test/" + "x" * 2048,)}),
    ("an empty subject without critical SAN", "san_not_critical", {"subject": False, "san_critical": False}),
    ("expired", "expired", {"begins": -100, "ends": -1}),
    ("not valid yet", "not_yet_valid", {"begins": 1}),
    (
        "a critical extension nobody knows",
        "unknown_critical_extension",
        {"extra": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)},
    ),
    ("an unknown trust domain", "unknown_trust_domain", {"uris": ("spiffe://c.test/agent",)}),
    ("a domain that was distrusted", "empty_bundle", {"uris": ("spiffe://empty.test/agent",)}),
    ("our ID of the partner's domain", "untrusted", {"uris": ("spiffe://b.test/agent",)}),
]


@pytest.mark.parametrize(("fault", "shape"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_leaf_is_refused_with_its_reason(fault: str, shape: dict[str, Any]) -> None:
    assert fault_of(CA.issue(AGENT, **shape)) == fault


def test_a_partners_authority_cannot_mint_our_ids() -> None:
    assert verify(PARTNER.issue("spiffe://b.test/x"))
    assert fault_of(PARTNER.issue("spiffe://a.test/admin")) == "untrusted"


def test_a_foreign_authority_with_our_name_is_refused() -> None:
    assert fault_of(FakeCa("a.test").issue(AGENT)) == "untrusted"


def test_a_leaf_signed_by_a_leaf_is_refused() -> None:
    signer = CA.issue(AGENT)
    rogue = FakeCa("a.test")
    rogue.key = signer.key
    rogue.name = x509.load_der_x509_certificate(signer.leaf).subject
    forged = rogue.issue("spiffe://a.test/admin")
    assert fault_of(Issued(leaf=forged.leaf, key=forged.key, intermediates=(signer.leaf,))) == "untrusted"


def test_a_missing_intermediate_is_refused() -> None:
    issued = CA.intermediate().issue(AGENT)
    assert verify(issued)
    assert fault_of(Issued(leaf=issued.leaf, key=issued.key)) == "untrusted"


def test_the_root_itself_is_no_leaf() -> None:
    assert fault_of(Issued(leaf=CA.der, key=CA.key)) == "leaf_is_ca"


def test_the_end_is_checked_at_the_given_moment() -> None:
    issued = CA.issue(AGENT)
    assert verify(issued, now=NOW + 3600)
    assert fault_of(issued, now=NOW + 3601) == "expired"


@pytest.mark.parametrize("junk", [b"", b"\x30", b"\x30\x03\x02\x01\x01", b"-----BEGIN CERTIFICATE-----"])
def test_bytes_that_are_no_certificate_are_malformed(junk: bytes) -> None:
    assert fault_of(Issued(leaf=junk, key=None)) == "malformed"
    good = CA.issue(AGENT)
    assert fault_of(Issued(leaf=good.leaf, key=None, intermediates=(junk,))) == "malformed"


def test_a_cut_certificate_is_malformed() -> None:
    good = CA.issue(AGENT)
    assert fault_of(Issued(leaf=good.leaf[:-1], key=None)) == "malformed"
    assert fault_of(Issued(leaf=good.leaf + b"\x00", key=None)) == "malformed"


def test_a_changed_byte_is_refused() -> None:
    leaf = bytearray(CA.issue(AGENT).leaf)
    leaf[-1] ^= 1
    assert fault_of(Issued(leaf=bytes(leaf), key=None)) in ("untrusted", "malformed")
