"""The one verifier of X.509-SVIDs, for the broker and for the SDK.

Path validation (RFC 5280) is the `cryptography` library's; the SPIFFE rules that it does not know
(X509-SVID.md sections 2-5) are here. A leaf is verified only against the bundle of the trust domain it
claims: a CA of another domain cannot mint our IDs (SPIFFE_Federation.md section 7.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from stepwrit.spiffe_id import SCHEME, check_workload_id, trust_domain_of

_T = TypeVar("_T", bound=x509.ExtensionType)

Bundles = Mapping[str, Sequence[bytes]]
"""Trust domain name -> its CA certificates (DER). An empty sequence means: trust nobody of that domain."""

Fault = Literal[
    "no_certificate", "malformed", "unknown_critical_extension",
    "leaf_is_ca", "no_key_usage", "key_usage_not_critical", "no_digital_signature", "leaf_may_sign",
    "wrong_extended_key_usage",
    "no_uri", "many_uris", "not_spiffe", "root_path", "bad_spiffe_id", "san_not_critical",
    "not_yet_valid", "expired",
    "unknown_trust_domain", "refused_trust_domain", "stale_bundle", "two_bundle_sources",
    "empty_bundle", "untrusted",
]  # fmt: skip

_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_BOTH_SIDES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
PARSE_ERRORS: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)


class SvidRefused(Exception):  # noqa: N818  reads as a state
    """Not a valid X.509-SVID here. `reason` is one word of `Fault`; `detail` is for the log."""

    def __init__(self, reason: Fault, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Final[Fault] = reason
        self.detail: Final = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSvid:
    """What a chain proved. `expires_at` (seconds since the epoch) is the earliest end in the chain."""

    spiffe_id: str
    trust_domain: str
    expires_at: float
    serial: str


@dataclass(slots=True, kw_only=True, eq=False)
class TlsPeer:
    """The certificates one TLS connection's peer sent, DER, in its order; nothing in here is trusted yet.

    `memo`: what an attestor verified on this connection, with the bundle generation it was true for.
    """

    leaf: bytes = field(repr=False)
    intermediates: tuple[bytes, ...] = field(default=(), repr=False)
    memo: tuple[int, VerifiedSvid] | None = field(default=None, repr=False)


def verify_x509_svid(
    leaf_der: bytes, intermediates_der: Sequence[bytes], bundles: Bundles, now: float
) -> VerifiedSvid:
    """Verify one chain at `now` (seconds since the epoch); raise `SvidRefused` with the first fault found."""
    leaf, spiffe_id = read_leaf(leaf_der)
    intermediates = _intermediates(intermediates_der)
    moment = datetime.fromtimestamp(now, UTC)
    _check_life(leaf, moment)
    chain = _verify_path(leaf, intermediates, _roots(bundles, trust_domain_of(spiffe_id)), moment)
    return VerifiedSvid(
        spiffe_id=spiffe_id,
        trust_domain=trust_domain_of(spiffe_id),
        expires_at=min(certificate.not_valid_after_utc for certificate in chain).timestamp(),
        serial=f"{leaf.serial_number:x}",
    )


def read_leaf(der: bytes) -> tuple[x509.Certificate, str]:
    """A certificate that obeys every leaf rule, and its SPIFFE ID; `SvidRefused` if one is broken.

    Says nothing about who signed it.
    """
    try:
        leaf = x509.load_der_x509_certificate(der)
        return leaf, _leaf_spiffe_id(leaf)
    except PARSE_ERRORS as error:
        raise SvidRefused("malformed", str(error)) from None


def _intermediates(ders: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(der) for der in ders]
    except PARSE_ERRORS as error:
        raise SvidRefused("malformed", str(error)) from None


def _leaf_spiffe_id(leaf: x509.Certificate) -> str:
    extensions = leaf.extensions
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise SvidRefused("unknown_critical_extension", extension.oid.dotted_string)
    _check_not_a_ca(extensions)
    _check_key_usage(extensions)
    _check_extended_key_usage(extensions)
    return _sole_spiffe_id(extensions, subject_empty=not list(leaf.subject))


def _check_not_a_ca(extensions: x509.Extensions) -> None:
    found = _find(extensions, x509.BasicConstraints)
    if found is not None and found.value.ca:
        raise SvidRefused("leaf_is_ca", "signing certificates do not authenticate (X509-SVID.md 4.1)")


def _check_key_usage(extensions: x509.Extensions) -> None:
    found = _find(extensions, x509.KeyUsage)
    if found is None:
        raise SvidRefused("no_key_usage", "X509-SVID.md 4.3")
    if not found.critical:
        raise SvidRefused("key_usage_not_critical", "X509-SVID.md 4.3")
    if found.value.key_cert_sign or found.value.crl_sign:
        raise SvidRefused("leaf_may_sign", "keyCertSign and cRLSign are for CAs (X509-SVID.md 4.3)")
    if not found.value.digital_signature:
        raise SvidRefused("no_digital_signature", "X509-SVID.md 4.3")


def _check_extended_key_usage(extensions: x509.Extensions) -> None:
    found = _find(extensions, x509.ExtendedKeyUsage)
    if found is not None and not set(found.value) >= _BOTH_SIDES:
        raise SvidRefused("wrong_extended_key_usage", "if present, both serverAuth and clientAuth")


def _sole_spiffe_id(extensions: x509.Extensions, *, subject_empty: bool) -> str:
    found = _find(extensions, x509.SubjectAlternativeName)
    uris = [] if found is None else found.value.get_values_for_type(x509.UniformResourceIdentifier)
    if found is None or not uris:
        raise SvidRefused("no_uri", "exactly one URI SAN (X509-SVID.md 2)")
    if len(uris) > 1:
        raise SvidRefused("many_uris", "exactly one URI SAN (X509-SVID.md 2)")
    if subject_empty and not found.critical:
        raise SvidRefused("san_not_critical", "an empty subject needs a critical SAN (RFC 5280 4.1.2.6)")
    return _checked_id(uris[0])


def _checked_id(uri: str) -> str:
    if not uri.startswith(SCHEME):
        raise SvidRefused("not_spiffe", "the URI's scheme is not spiffe")
    if not uri[len(SCHEME) :].partition("/")[2]:
        raise SvidRefused("root_path", "a leaf needs a non-root path (X509-SVID.md 2)")
    try:
        return check_workload_id(uri)
    except ValueError as error:
        raise SvidRefused("bad_spiffe_id", str(error)) from None


def _check_life(leaf: x509.Certificate, moment: datetime) -> None:
    if moment < leaf.not_valid_before_utc:
        raise SvidRefused("not_yet_valid", f"valid from {leaf.not_valid_before_utc.isoformat()}")
    if moment > leaf.not_valid_after_utc:
        raise SvidRefused("expired", f"ended {leaf.not_valid_after_utc.isoformat()}")


def _roots(bundles: Bundles, domain: str) -> list[x509.Certificate]:
    authorities = bundles.get(domain)
    if authorities is None:
        raise SvidRefused("unknown_trust_domain", domain)
    if not authorities:
        raise SvidRefused("empty_bundle", domain)
    try:
        return [load_authority(der) for der in authorities]
    except ValueError as error:
        raise SvidRefused("empty_bundle", f"{domain}: {error}") from None


def load_authority(der: bytes) -> x509.Certificate:
    """A certificate that may stand in a bundle: one of a CA (X509-SVID.md sections 4.1 and 6.2), DER.

    As a trust anchor any other would vouch for itself. Raises ValueError.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        found = _find(certificate.extensions, x509.BasicConstraints)
    except PARSE_ERRORS as error:
        raise ValueError(str(error)) from None
    if found is None or not found.value.ca:
        raise ValueError("not the certificate of a CA")
    return certificate


def _verify_path(
    leaf: x509.Certificate,
    intermediates: list[x509.Certificate],
    roots: list[x509.Certificate],
    moment: datetime,
) -> list[x509.Certificate]:
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(roots))
        .time(moment)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            # web PKI demands shapes of leaves that SPIFFE does not; the leaf's own rules are above
            ee_policy=verification.ExtensionPolicy.permit_all(),
        )
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, intermediates).chain
    except (verification.VerificationError, *PARSE_ERRORS) as error:
        raise SvidRefused("untrusted", str(error)) from None


def _find(extensions: x509.Extensions, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
