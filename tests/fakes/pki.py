"""Certificates of every shape, good and bad, and an identity that a test can set.

ca = FakeCa("a.test")
good = ca.issue("spiffe://a.test/agent")
bad = ca.issue("spiffe://a.test/agent", uris=("spiffe://a.test/x", "spiffe://a.test/y"))
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import X509Snapshot

NOW = 1_900_000_000.0
BOTH = (Eku.SERVER_AUTH, Eku.CLIENT_AUTH)
SIGNING = "signing"  # key usage of a leaf: digitalSignature only

KEYS: Mapping[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A leaf with its key and the intermediates to send along."""

    leaf: bytes
    key: Any = field(repr=False)
    intermediates: tuple[bytes, ...] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        return (self.leaf, *self.intermediates)


class FakeCa:
    """An authority; with `parent`, an intermediate of it."""

    def __init__(
        self,
        trust_domain: str,
        *,
        now: float = NOW,
        parent: FakeCa | None = None,
        key: str = "p256",
        begins: float = -3600,
        ends: float = 86_400,
        path_length: int | None = None,
        usage: tuple[str, ...] = ("key_cert_sign", "crl_sign"),
        constraints: x509.NameConstraints | None = None,
    ):
        """begins, ends: seconds from `now`. path_length, usage, constraints: what its certificate says."""
        self.trust_domain = trust_domain
        self.now = now
        self._life, self._path_length, self._usage = (begins, ends), path_length, usage
        self._constraints = constraints
        self.parent = parent
        self.key = KEYS[key]()
        self.name = _name(f"{trust_domain} {x509.random_serial_number():x}")
        self.certificate = self._certify()
        self.der = self.certificate.public_bytes(Encoding.DER)

    def intermediate(self, **shape: Any) -> FakeCa:
        begins, ends = self._life
        how = {"now": self.now, "parent": self, "begins": begins, "ends": ends, **shape}
        return FakeCa(how.pop("trust_domain", self.trust_domain), **how)

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What a leaf of this authority must send along."""
        return () if self.parent is None else (self.der, *self.parent.intermediates)

    def issue(self, spiffe_id: str = "", **shape: Any) -> Issued:
        """A leaf; the shape defaults to SPIRE's. See `_leaf` for what can be bent."""
        key = KEYS[shape.pop("key", "p256")]()
        leaf = _leaf(self, key.public_key(), spiffe_id or f"spiffe://{self.trust_domain}/agent", **shape)
        return Issued(leaf=leaf.public_bytes(Encoding.DER), key=key, intermediates=self.intermediates)

    def imitating(self, other: FakeCa, *, identifier: bool = True, subject: x509.Name | None = None) -> bytes:
        """A root with our key that has the other's subject and key identifier, DER. subject: its spelling."""
        builder = (
            _builder(other, self.key.public_key(), subject or other.name, -3600, 86_400)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        )
        if identifier:
            theirs = x509.SubjectKeyIdentifier.from_public_key(other.key.public_key())
            builder = builder.add_extension(theirs, critical=False)
        return _sign(builder, self.key).public_bytes(Encoding.DER)

    def _certify(self) -> x509.Certificate:
        signer = self.parent or self
        public = self.key.public_key()
        builder = (
            _builder(signer, public, self.name, *self._life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=self._path_length), critical=True)
            .add_extension(key_usage(*self._usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_uris((f"spiffe://{self.trust_domain}",)), critical=False)
        )
        if self._constraints is not None:
            builder = builder.add_extension(self._constraints, critical=True)
        if self.parent is not None:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.parent.key.public_key())
            builder = builder.add_extension(issuer, critical=False)
        return _sign(builder, signer.key)


@dataclass(kw_only=True)
class FakeIdentity:
    """What `WorkloadIdentity` answers, set by the test: `state`, `clock`, `lost`."""

    state: X509Snapshot | None
    clock: Callable[[], float] = lambda: NOW
    lost: float | None = None

    def snapshot(self) -> X509Snapshot:
        if self.state is None or self.state.expires_at <= self.clock():
            raise IdentityUnavailable("no X.509-SVID in this test")
        return self.state

    def now(self) -> float:
        return self.clock()

    def lost_at(self) -> float | None:
        return self.lost

    def set(self, issued: Issued, bundles: Mapping[str, Iterable[FakeCa]]) -> None:
        """A rotation, or a withdrawal, as the next generation."""
        generation = 1 if self.state is None else self.state.generation + 1
        self.state = snapshot(issued, bundles, generation)


def identity(
    issued: Issued, bundles: Mapping[str, Iterable[FakeCa]], *, clock: Callable[[], float] = lambda: NOW
) -> FakeIdentity:
    return FakeIdentity(state=snapshot(issued, bundles, 1), clock=clock)


def snapshot(issued: Issued, bundles: Mapping[str, Iterable[FakeCa]], generation: int = 1) -> X509Snapshot:
    leaf = x509.load_der_x509_certificate(issued.leaf)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return X509Snapshot(
        spiffe_id=san.get_values_for_type(x509.UniformResourceIdentifier)[0],
        chain=issued.chain,
        private_key=issued.key,
        bundles=MappingProxyType(ders(bundles)),
        generation=generation,
        expires_at=leaf.not_valid_after_utc.timestamp(),
    )


def ders(bundles: Mapping[str, Iterable[FakeCa]]) -> dict[str, tuple[bytes, ...]]:
    return {domain: tuple(ca.der for ca in authorities) for domain, authorities in bundles.items()}


def raw_client(issued: Issued | None, *roots: FakeCa, tickets: bool = True) -> ssl.SSLContext:
    """A plain TLS client as an attacker would build it: none of our checks, any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if roots else ssl.CERT_NONE
    if roots:
        context.load_verify_locations(cadata=b"".join(ca.der for ca in roots))
    if issued is not None:
        load_key_pair(context, issued)
    return context


def load_key_pair(context: ssl.SSLContext, issued: Issued) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*write_pem(issued, Path(folder)))


def write_pem(issued: Issued, folder: Path) -> tuple[Path, Path]:
    """Certificate chain and key as PEM files in the folder."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    pems = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in issued.chain)
    certificate.write_bytes(b"".join(pems))
    key.write_bytes(issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


def key_der(issued: Issued) -> bytes:
    return issued.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_usage(*wanted: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in wanted for name in names})


def _leaf(
    ca: FakeCa,
    public: Any,
    spiffe_id: str,
    *,
    uris: tuple[str, ...] | None = None,
    dns: tuple[str, ...] = (),
    san: bool = True,
    san_critical: bool | None = None,
    subject: bool = True,
    usage: tuple[str, ...] | None = ("digital_signature",),
    usage_critical: bool = True,
    eku: tuple[x509.ObjectIdentifier, ...] | None = BOTH,
    is_ca: bool | None = False,
    begins: float = -10,
    ends: float = 3600,
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> x509.Certificate:
    """begins, ends: seconds from the authority's `now`. None leaves an extension out."""
    builder = _builder(ca, public, _name("SPIRE") if subject else x509.Name([]), begins, ends)
    extensions: list[tuple[x509.ExtensionType, bool]] = [*extra]
    if is_ca is not None:
        extensions.append((x509.BasicConstraints(ca=is_ca, path_length=None), True))
    if usage is not None:
        extensions.append((key_usage(*usage), usage_critical))
    if eku is not None:
        extensions.append((x509.ExtendedKeyUsage(list(eku)), False))
    if san:
        names = _uris(uris if uris is not None else (spiffe_id,), dns)
        extensions.append((names, not subject if san_critical is None else san_critical))
    extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _sign(builder, ca.key)


def _builder(
    signer: FakeCa, public: Any, subject: x509.Name, begins: float, ends: float
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(signer.now, UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=begins))
        .not_valid_after(now + timedelta(seconds=ends))
    )


def _sign(builder: x509.CertificateBuilder, key: Any) -> x509.Certificate:
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def _uris(uris: tuple[str, ...], dns: tuple[str, ...] = ()) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [*(x509.UniformResourceIdentifier(uri) for uri in uris), *(x509.DNSName(name) for name in dns)]
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
