"""X.509 cases: what is valid, and beside it each thing that is not."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import ExtensionOID
from tests.fakes.pki import KEYS, FakeCa, Issued, key_usage
from tests.refusals.case import AGENT, DECADE, DOMAIN, EMPTY, NOW, PARTNER, UNKNOWN, Case, Trust
from tests.refusals.der import STAND_IN, changed, identifier, uri_names

SIGN = "digital_signature"
CRITICAL_UNKNOWN = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
NOTED_UNKNOWN = (CRITICAL_UNKNOWN[0], False)
VALID: dict[str, dict[str, Any]] = {
    "plain": {},
    "uri-and-dns": {"dns": ("agent.a.test",)},
    "no-eku": {"eku": None},
    "third-eku": {"eku": (Eku.SERVER_AUTH, Eku.CLIENT_AUTH, Eku.CODE_SIGNING)},
    "more-key-usages": {"usage": (SIGN, "key_encipherment", "key_agreement")},
    "no-basic-constraints": {"is_ca": None},
    "empty-subject": {"subject": False},
    "unread-extension-noted": {"extra": (NOTED_UNKNOWN,)},
    "whole-alphabet": {"uris": ("spiffe://a.test/A-z_0.9/..x/a",)},
    "longest-id": {"uris": ("spiffe://a.test/" + "x" * 2032,)},
    "last-second": {"ends": 1},
    "begins-now": {"begins": 0, "ends": 60},
    **{f"key-{kind}": {"key": kind} for kind in KEYS},
}
Bad = tuple[str, str, str, str, dict[str, Any]]


def _uri(row: str, code: str, twin: str, **uris: str) -> list[Bad]:
    return [(name.replace("_", "-"), row, code, twin, {"uris": (uri,)}) for name, uri in uris.items()]


# name, row, code, twin, shape
BAD: list[Bad] = [
    ("two-ids", "many-uris", "many_uris", "uri-and-dns", {"uris": (AGENT, "spiffe://a.test/other")}),
    ("same-id-twice", "many-uris", "many_uris", "uri-and-dns", {"uris": (AGENT, AGENT)}),
    ("id-and-https", "many-uris", "many_uris", "uri-and-dns", {"uris": (AGENT, "https://a.test/")}),
    ("no-san", "no-uri", "no_uri", "plain", {"san": False}),
    ("only-dns", "no-uri", "no_uri", "uri-and-dns", {"uris": (), "dns": ("agent.a.test",)}),
    ("ca-true", "ca-as-leaf", "leaf_is_ca", "no-basic-constraints", {"is_ca": True}),
    (
        "may-sign-certificates",
        "signing-leaf",
        "leaf_may_sign",
        "more-key-usages",
        {"usage": (SIGN, "key_cert_sign")},
    ),
    ("may-sign-crls", "signing-leaf", "leaf_may_sign", "more-key-usages", {"usage": (SIGN, "crl_sign")}),
    *_uri("root-id", "root_path", "plain", root="spiffe://a.test", root_and_slash="spiffe://a.test/"),
    *_uri(
        "foreign-scheme",
        "not_spiffe",
        "plain",
        https="https://a.test/agent",
        upper_scheme="SPIFFE://a.test/agent",
        no_scheme="a.test/agent",
    ),
    *_uri(
        "upper-domain",
        "bad_spiffe_id",
        "plain",
        upper_domain="spiffe://A.TEST/agent",
        mixed_domain="spiffe://a.Test/agent",
    ),
    *_uri(
        "odd-path",
        "bad_spiffe_id",
        "whole-alphabet",
        percent="spiffe://a.test/%61gent",
        dot_dot="spiffe://a.test/x/../agent",
        dot="spiffe://a.test/./agent",
        doubled_slash="spiffe://a.test//agent",
        slash_at_end="spiffe://a.test/agent/",
        space="spiffe://a.test/a gent",
        line_break="spiffe://a.test/agent\n",
        nul="spiffe://a.test/agent\x00",
    ),
    *_uri(
        "odd-domain",
        "bad_spiffe_id",
        "plain",
        no_domain="spiffe:///agent",
        port="spiffe://a.test:80/agent",
        user="spiffe://me@a.test/agent",
        query="spiffe://a.test/agent?x",
        fragment="spiffe://a.test/agent#x",
        long_domain="spiffe://" + "a" * 256 + "/agent",
    ),
    ("too-long", "odd-domain", "bad_spiffe_id", "longest-id", {"uris": ("spiffe://a.test/" + "x" * 2033,)}),
    ("partners-id-by-us", "foreign-authority", "untrusted", "partner", {"uris": (f"spiffe://{PARTNER}/x",)}),
    ("distrusted-domain", "empty-bundle", "empty_bundle", "plain", {"uris": (f"spiffe://{EMPTY}/agent",)}),
    (
        "unknown-domain",
        "unknown-domain",
        "unknown_trust_domain",
        "plain",
        {"uris": (f"spiffe://{UNKNOWN}/agent",)},
    ),
    ("no-key-usage", "key-usage", "no_key_usage", "more-key-usages", {"usage": None}),
    ("usage-not-critical", "key-usage", "key_usage_not_critical", "plain", {"usage_critical": False}),
    (
        "no-digital-signature",
        "key-usage",
        "no_digital_signature",
        "more-key-usages",
        {"usage": ("key_agreement",)},
    ),
    ("only-server-auth", "key-usage", "wrong_extended_key_usage", "third-eku", {"eku": (Eku.SERVER_AUTH,)}),
    ("only-client-auth", "key-usage", "wrong_extended_key_usage", "third-eku", {"eku": (Eku.CLIENT_AUTH,)}),
    ("only-code-signing", "key-usage", "wrong_extended_key_usage", "no-eku", {"eku": (Eku.CODE_SIGNING,)}),
    (
        "unread-critical",
        "unread-extension",
        "unknown_critical_extension",
        "unread-extension-noted",
        {"extra": (CRITICAL_UNKNOWN,)},
    ),
    (
        "empty-subject-san-not-critical",
        "unread-extension",
        "san_not_critical",
        "empty-subject",
        {"subject": False, "san_critical": False},
    ),
    ("ended", "life", "expired", "last-second", {"ends": -1}),
    ("not-begun", "life", "not_yet_valid", "begins-now", {"begins": 1}),
]


class Authorities:
    """Who signs: ours, the partner's, and some that nobody should believe. Their lives span two decades."""

    def __init__(self) -> None:
        self.ours, self.partner, self.stranger = (self.ca(name) for name in (DOMAIN, PARTNER, DOMAIN))
        self.middle = self.ours.intermediate()

    @staticmethod
    def ca(domain: str, **shape: Any) -> FakeCa:
        return FakeCa(domain, **{"now": NOW, "begins": -DECADE, "ends": DECADE, **shape})

    @staticmethod
    def leaf(ca: FakeCa, spiffe_id: str = AGENT, **shape: Any) -> Issued:
        return ca.issue(spiffe_id, **{"begins": -DECADE / 2, "ends": DECADE / 2, **shape})

    def x509(self) -> dict[str, tuple[bytes, ...]]:
        return {DOMAIN: (self.ours.der,), PARTNER: (self.partner.der,), EMPTY: ()}


def cases(by: Authorities) -> list[Case]:
    """All of the family."""
    usual = [_case(name, by.leaf(by.ours, **shape)) for name, shape in VALID.items()]
    bad = [
        _case(name, by.leaf(by.ours, **shape), row=row, code=code, twin=f"x509/{twin}")
        for name, row, code, twin, shape in BAD
    ]
    return [*usual, *bad, *_chains(by), *_made_by_hand(by), *_anchors(by)]


def trusts(by: Authorities, odd: dict[str, bytes]) -> list[Trust]:
    """Bundles that no publisher should have made. odd: the anchors of `_anchors`, by name."""
    return [Trust(name=name, x509={**by.x509(), DOMAIN: (der,)}, jwks={}) for name, der in odd.items()]


def _case(name: str, issued: Issued, **more: Any) -> Case:
    return Case(
        name=f"x509/{name}", family="x509", reading="chain", input=issued.chain, key=issued.key, **more
    )


def _no(name: str, issued: Issued, row: str, code: str, twin: str, **more: Any) -> Case:
    return _case(name, issued, row=row, code=code, twin=f"x509/{twin}", **more)


def _chains(by: Authorities) -> list[Case]:
    ours, middle, leaf = by.ours, by.middle, by.leaf
    through, plain = leaf(middle), leaf(ours)
    no_sign = ours.intermediate(usage=("crl_sign",))
    dead = ours.intermediate(begins=-DECADE, ends=-1)
    shallow = ours.intermediate(path_length=0)
    bound = ours.intermediate(constraints=_within(x509.DNSName("a.test")))
    bound_by_uri = ours.intermediate(constraints=_within(x509.UniformResourceIdentifier("a.test")))
    by_leaf = by.ca(DOMAIN)
    by_leaf.key, by_leaf.name = plain.key, x509.load_der_x509_certificate(plain.leaf).subject
    signed_by_leaf = leaf(by_leaf, "spiffe://a.test/admin")
    cross = by.partner.intermediate(trust_domain=DOMAIN)
    return [
        _case("partner", leaf(by.partner, f"spiffe://{PARTNER}/x")),
        _case("through-intermediate", through),
        _case("through-two", leaf(middle.intermediate())),
        _case("path-length-kept", leaf(shallow)),
        _case("dns-constraint-kept", leaf(bound, dns=("agent.a.test",))),
        _no(
            "dns-constraint-broken", leaf(bound, dns=("b.test",)), "chain", "untrusted", "dns-constraint-kept"
        ),
        _no("uri-constraint", leaf(bound_by_uri), "chain", "untrusted", "dns-constraint-kept"),
        _no("ours-by-partner", leaf(by.partner, AGENT), "foreign-authority", "untrusted", "partner"),
        _no("ours-by-partners-intermediate", leaf(cross, AGENT), "foreign-authority", "untrusted", "partner"),
        _no("stranger-with-our-name", leaf(by.stranger), "chain", "untrusted", "plain"),
        _no(
            "no-intermediate",
            Issued(leaf=through.leaf, key=through.key),
            "chain",
            "untrusted",
            "through-intermediate",
        ),
        _no(
            "signed-by-a-leaf",
            Issued(leaf=signed_by_leaf.leaf, key=signed_by_leaf.key, intermediates=(plain.leaf,)),
            "chain",
            "untrusted",
            "through-intermediate",
        ),
        _no("intermediate-may-not-sign", leaf(no_sign), "chain", "untrusted", "through-intermediate"),
        _no("intermediate-ended", leaf(dead), "chain", "untrusted", "through-intermediate"),
        _no("path-length-passed", leaf(shallow.intermediate()), "chain", "untrusted", "path-length-kept"),
        _no("weak-rsa", _weak(by), "chain", "untrusted", "key-rsa"),
        _no("the-authority-itself", Issued(leaf=ours.der, key=ours.key), "ca-as-leaf", "leaf_is_ca", "plain"),
        _no(
            "the-intermediate-itself",
            Issued(leaf=middle.der, key=middle.key, intermediates=()),
            "ca-as-leaf",
            "leaf_is_ca",
            "through-intermediate",
        ),
    ]


def _within(name: x509.GeneralName) -> x509.NameConstraints:
    return x509.NameConstraints([name], None)


def _weak(by: Authorities) -> Issued:
    """An intermediate with a key of 1024 bits between the authority and the leaf."""
    middle = by.ours.intermediate()
    middle.key = rsa.generate_private_key(65537, 1024)
    middle.certificate = middle._certify()
    middle.der = middle.certificate.public_bytes(Encoding.DER)
    return by.leaf(middle)


def _made_by_hand(by: Authorities) -> list[Case]:
    plain = by.leaf(by.ours)
    two = by.leaf(
        by.ours, extra=((x509.UnrecognizedExtension(STAND_IN, uri_names(b"spiffe://a.test/x")), False),)
    )
    usages = by.leaf(by.ours, usage=None, extra=((key_usage(SIGN), True), _stand_in(b"\x03\x02\x07\x80")))
    raw = by.leaf(
        by.ours, san=False, extra=(_stand_in(uri_names("spiffe://a.test/agént".encode("latin-1"))),)
    )

    def by_hand(issued: Issued, old: bytes, new: bytes) -> Issued:
        return Issued(leaf=changed(issued.leaf, old, new, by.ours.key), key=issued.key)

    def named(issued: Issued, oid: x509.ObjectIdentifier) -> Issued:
        return by_hand(issued, identifier(STAND_IN), identifier(oid))

    def bytes_(leaf: bytes, key: Any = None) -> Issued:
        return Issued(leaf=leaf, key=key)

    flipped = bytearray(plain.leaf)
    flipped[-1] ^= 1
    return [
        _no(
            "two-san-extensions",
            named(two, ExtensionOID.SUBJECT_ALTERNATIVE_NAME),
            "malformed",
            "malformed",
            "plain",
        ),
        _no("two-key-usages", named(usages, ExtensionOID.KEY_USAGE), "malformed", "malformed", "plain"),
        _no(
            "not-ascii", named(raw, ExtensionOID.SUBJECT_ALTERNATIVE_NAME), "malformed", "malformed", "plain"
        ),
        _no(
            "version-6",
            by_hand(plain, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"),
            "malformed",
            "malformed",
            "plain",
        ),
        _no(
            "changed-after-signing",
            bytes_(plain.leaf.replace(b"/agent", b"/admin"), plain.key),
            "chain",
            "untrusted",
            "plain",
        ),
        _no("changed-signature", bytes_(bytes(flipped), plain.key), "chain", "untrusted", "plain"),
        _no("cut", bytes_(plain.leaf[:-1]), "malformed", "malformed", "plain"),
        _no("one-byte-more", bytes_(plain.leaf + b"\x00"), "malformed", "malformed", "plain"),
        _no("nothing", bytes_(b""), "malformed", "malformed", "plain"),
        _no(
            "junk-intermediate",
            Issued(leaf=plain.leaf, key=None, intermediates=(b"\x30\x00",)),
            "malformed",
            "malformed",
            "through-intermediate",
        ),
    ]


def _stand_in(value: bytes) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(STAND_IN, value), False


def _anchors(by: Authorities) -> list[Case]:
    """Good leaves, judged by bundles that hold something that is no authority; see `odd_anchors`."""
    plain = by.leaf(by.ours)
    return [
        _no("leaf-as-anchor", plain, "not-an-authority", "empty_bundle", "plain", trust="leaf-as-anchor"),
        _no("ended-anchor", plain, "life", "untrusted", "plain", trust="ended-anchor"),
        _no(
            "unreadable-anchor", plain, "not-an-authority", "empty_bundle", "plain", trust="unreadable-anchor"
        ),
    ]


def odd_anchors(by: Authorities, cases: list[Case]) -> dict[str, bytes]:
    """Name -> the one certificate in our domain's bundle."""
    shown = next(case for case in cases if case.name == "x509/leaf-as-anchor")
    ended = by.ca(DOMAIN, begins=-DECADE, ends=-1)
    ended.key, ended.name = by.ours.key, by.ours.name
    from_hand = changed(by.ours.der, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", by.ours.key)
    again = ended._certify().public_bytes(Encoding.DER)
    return {"leaf-as-anchor": shown.chain[0], "ended-anchor": again, "unreadable-anchor": from_hand}
