"""A certificate authority for development: keys in memory, gone with the process. Never for production."""

from __future__ import annotations

import base64
import ipaddress
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN

_BACKDATE: Final = timedelta(seconds=10)
_CA_LIFE: Final = timedelta(days=1)
_LEAF_USAGE: Final = {"digital_signature": True, "key_cert_sign": False, "crl_sign": False}
_CA_USAGE: Final = {"digital_signature": False, "key_cert_sign": True, "crl_sign": True}

Clock = Callable[[], float]


class DevelopmentModeWarning(UserWarning):
    """Something that must never run in production is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedX509:
    """One X.509-SVID as the Workload API hands it out."""

    certificate: bytes
    key: bytes = field(repr=False)


class DevCa:
    """The authority of one development trust domain: X.509 and JWT.

    x509_life, jwt_life: seconds. names: further host names and addresses in an ID's certificates, for clients
    that verify those. `authorities` and `jwks` are what is published; empty after `withdraw`.
    """

    def __init__(
        self,
        trust_domain: str = DEV_TRUST_DOMAIN,
        *,
        x509_life: float = 3600.0,
        jwt_life: float = 300.0,
        clock: Clock = time.time,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.trust_domain: Final = trust_domain
        self._names = names or {}
        self._x509_life = x509_life
        self._jwt_life = jwt_life
        self._clock = clock
        self._serial = 0
        self._published: list[bytes] = []
        self._jwt_keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.rotate(keep_previous=False)

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """The published CA certificates, DER."""
        return tuple(self._published)

    def rotate(self, *, keep_previous: bool) -> None:
        """New CA and JWT keys, published; the previous ones stay published too if `keep_previous`."""
        self._serial += 1
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._self_signed()
        kept = self._published if keep_previous else []
        self._published = [self._certificate.public_bytes(Encoding.DER), *kept]
        kept_keys = self._jwt_keys if keep_previous else {}
        self._kid = f"{self.trust_domain}-{self._serial}"
        self._jwt_keys = {**kept_keys, self._kid: ec.generate_private_key(ec.SECP256R1())}

    def withdraw(self) -> None:
        """Publish nothing: everyone must distrust the whole domain from now on."""
        self._published = []
        self._jwt_keys = {}

    def x509_svid(self, spiffe_id: str, life: float | None = None) -> IssuedX509:
        """A fresh key and certificate in the shape that SPIRE makes."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(spiffe_id, timedelta(seconds=life or self._x509_life), key.public_key())
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Stepwrit development")]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(_LEAF_USAGE), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return IssuedX509(
            certificate=signed.public_bytes(Encoding.DER),
            key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        )

    def jwt_svid(
        self, spiffe_id: str, audience: Sequence[str], life: float | None = None, **claims: object
    ) -> str:
        """A JWT-SVID (ES256) with further `claims`. LookupError after `withdraw`."""
        now = int(self._clock())
        claimed = {
            "sub": spiffe_id,
            "aud": list(audience),
            "iat": now,
            "exp": now + int(life or self._jwt_life),
            **claims,
        }
        return jwt.encode(claimed, self._jwt_keys[self._kid], "ES256", headers={"kid": self._kid})

    def validate_jwt(self, token: str, audience: str) -> dict[str, Any]:
        """The claims of one of our JWT-SVIDs; jwt.PyJWTError or LookupError if it is none."""
        key = self._jwt_keys[str(jwt.get_unverified_header(token).get("kid"))]
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public_key(),
            ["ES256"],
            audience=audience,
            options={"require": ["exp", "sub", "aud"]},
        )
        return claims

    def jwks(self) -> bytes:
        """The JWT bundle (JWT-SVID.md section 6)."""
        return json.dumps({"keys": [_jwk(kid, key) for kid, key in self._jwt_keys.items()]}).encode()

    def _self_signed(self) -> x509.Certificate:
        public = self._key.public_key()
        return (
            self._builder(f"spiffe://{self.trust_domain}", _CA_LIFE, public)
            .subject_name(self._name())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(_CA_USAGE), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self, spiffe_id: str, life: timedelta, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(self._clock(), UTC)
        names = [x509.UniformResourceIdentifier(spiffe_id), *map(_host, self._names.get(spiffe_id, ()))]
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name())
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + life)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )

    def _name(self) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Stepwrit DEVELOPMENT, not for production"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self.trust_domain} {self._serial}"),
            ]
        )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(wanted: dict[str, bool]) -> x509.KeyUsage:
    return x509.KeyUsage(
        **wanted,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _jwk(kid: str, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "use": "jwt-svid",
        "kid": kid,
        "x": _b64(numbers.x),
        "y": _b64(numbers.y),
    }


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
