"""Our verifiers as faces: each reads one family and says None, or the fault it found.

The faces over the wire are in `wire`.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

from tests.refusals.case import AUDIENCE, DOMAIN, MAX_LIFE_S, NOW, Case, Trust
from tests.refusals.rows import Family

from stepwrit.identity import X509Snapshot
from stepwrit.jwt_bundles import JwtBundles
from stepwrit.jwtsvid import JwtSvidRefused, verify_jwt_svid
from stepwrit.spiffe_bundle import (
    BundleRefused,
    SpiffeBundle,
    parse_bundle,
    parse_bundle_map,
)
from stepwrit.spiffe_id import check_workload_id
from stepwrit.x509svid import SvidRefused, TlsPeer, verify_x509_svid
from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.jwt import JwtAttestor
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.federation import Revision, refusal
from stepwrit_broker.core.workload import ForwardedSource, parse_spiffe_id
from stepwrit_broker.edge.forwarded import CLIENT_CERT, CLIENT_CERT_CHAIN, XFCC, Fields, read_peer

DISTRUSTED = "distrusted"


def x509(case: Case, trust: Trust) -> str | None:
    """The SDK's verifier of chains."""
    try:
        verify_x509_svid(case.chain[0], case.chain[1:], trust.x509, NOW)
    except SvidRefused as refused:
        return refused.reason
    return None


def x509_attestor(case: Case, trust: Trust) -> str | None:
    """The broker's attestor of connections."""
    attestor = X509Attestor(BundleSource(Source(trust), max_age=60))
    return _attested(lambda: attestor.attest(TlsPeer(leaf=case.chain[0], intermediates=case.chain[1:]), NOW))


def by_client_cert(case: Case, trust: Trust) -> str | None:
    """The broker behind a proxy: the certificates in Client-Cert and Client-Cert-Chain."""

    def written(der: bytes) -> bytes:
        return b":" + b64encode(der) + b":"

    chain = b", ".join(map(written, case.chain[1:]))
    more = ((CLIENT_CERT_CHAIN, chain),) if chain else ()
    return _forwarded("client-cert", ((CLIENT_CERT, written(case.chain[0])), *more), trust)


def by_xfcc(case: Case, trust: Trust) -> str | None:
    """The broker behind Envoy: the certificates in X-Forwarded-Client-Cert."""
    leaf, *_ = pems = [quote(ssl.DER_cert_to_PEM_cert(der), safe="").encode() for der in case.chain]
    value = b'Cert="%b";Chain="%b"' % (leaf, b"".join(pems))
    return _forwarded("xfcc", ((XFCC, value),), trust)


def _forwarded(source: ForwardedSource, fields: Fields, trust: Trust) -> str | None:
    attestor = X509Attestor(BundleSource(Source(trust), max_age=60))
    return _attested(lambda: attestor.attest(read_peer(source, fields), NOW))


def jwt(case: Case, trust: Trust) -> str | None:
    """The SDK's verifier of tokens."""
    try:
        verify_jwt_svid(case.text, audience=AUDIENCE, authorities=trust.jwt, now=NOW, max_life=MAX_LIFE_S)
    except JwtSvidRefused as refused:
        return refused.reason
    return None


def jwt_attestor(case: Case, trust: Trust) -> str | None:
    """The broker's attestor of bearers."""
    attestor = JwtAttestor(AuthoritySource(Source(trust), max_age=60), audience=AUDIENCE)
    return _attested(lambda: attestor.attest(case.text, NOW))


def bundle(case: Case, _: Trust) -> str | None:
    """The SDK's parser of bundle documents."""
    try:
        parsed = _parse(case)
    except BundleRefused:
        return "refused"
    return None if all(each.x509 or each.jwt for each in parsed) else DISTRUSTED


def _parse(case: Case) -> list[SpiffeBundle]:
    if case.reading == "bundle-map":
        return list(parse_bundle_map(case.raw).values())
    offered = parse_bundle(case.raw, DOMAIN)
    if case.known is not None:
        known = parse_bundle(case.known, DOMAIN)
        if (why := refusal(_revision(known), _revision(offered))) is not None:
            raise BundleRefused(why)
    return [offered]


def _revision(read: SpiffeBundle) -> Revision:
    return Revision(sequence=read.sequence, digest="")  # of one content: only the number counts here


def spiffe_id(case: Case, _: Trust) -> str | None:
    """The SDK's parser of IDs."""
    return _parsed(check_workload_id, case.text)


def core_id(case: Case, _: Trust) -> str | None:
    """The broker core's parser of IDs."""
    return _parsed(parse_spiffe_id, case.text)


Face = Callable[[Case, Trust], str | None]
PURE: Mapping[str, tuple[Family, Face]] = {
    "SDK X.509 verifier": ("x509", x509),
    "broker X.509 attestor": ("x509", x509_attestor),
    "broker behind a proxy, Client-Cert": ("x509", by_client_cert),
    "broker behind a proxy, X-Forwarded-Client-Cert": ("x509", by_xfcc),
    "SDK JWT verifier": ("jwt", jwt),
    "broker JWT attestor": ("jwt", jwt_attestor),
    "SDK bundle parser": ("bundle", bundle),
    "SDK ID parser": ("id", spiffe_id),
    "broker ID parser": ("id", core_id),
}
WIRE: Mapping[str, Family] = {
    "broker mtls listener": "x509",
    "SDK client of a server": "x509",
    "broker tls listener, client_assertion": "jwt",
    "broker tls listener, Bearer": "jwt",
}
FACES: Mapping[str, Family] = {**{name: family for name, (family, _) in PURE.items()}, **WIRE}
NO_FACES: Mapping[str, str] = {
    "guard": "reads no SVID: it shows its own to the broker, as the SDK's client, and judges credentials",
    "DPoP and step proofs": "no SVID: keys of their own, types of their own; no row concerns them",
    "ops and admin listeners": "no SVID: loopback, and a Unix socket judged by uid",
    "ID tokens of persons": "no SVID: an OpenID Connect issuer's, which may be no SPIFFE authority",
}


class Source:
    """The bundles of one set of trust, as the broker's sources want them."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def snapshot(self) -> X509Snapshot:
        return X509Snapshot(
            spiffe_id=f"spiffe://{DOMAIN}/broker",
            chain=(),
            private_key=None,  # type: ignore[arg-type]  nobody signs here
            bundles=MappingProxyType(dict(self._trust.x509)),
            generation=1,
            expires_at=NOW + 60,
        )

    def current(self) -> JwtBundles:
        return JwtBundles(by_domain=self._trust.jwt, generation=1)

    def lost_at(self) -> float | None:
        return None


def _attested(attest: Callable[[], object]) -> str | None:
    try:
        attest()
    except Unproven as refused:
        return str(refused.rule).partition(":")[2] if refused.code == "unattested" else str(refused)
    return None


def _parsed(parse: Callable[[str], object], text: str) -> str | None:
    try:
        parse(text)
    except ValueError:
        return "refused"
    return None
