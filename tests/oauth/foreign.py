"""An OAuth client that has never heard of us: files as SPIRE's agent writes them, key proofs by PyJWT.

Nothing here imports the SDK.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
STEP = "urn:stepwrit:params:oauth:token-type:step"
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


@dataclass(frozen=True, kw_only=True)
class SvidFiles:
    """What `spire-agent api fetch x509 -write DIR` leaves in a folder."""

    cert: Path
    key: Path
    bundle: Path


def write_svid(folder: Path, certificate: bytes, key: bytes, authorities: tuple[bytes, ...]) -> SvidFiles:
    """All three as PEM; what comes in is DER."""
    files = SvidFiles(cert=folder / "svid.0.pem", key=folder / "svid.0.key", bundle=folder / "bundle.0.pem")
    files.cert.write_bytes(_pem(certificate))
    private = load_der_private_key(key, None)
    files.key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.bundle.write_bytes(b"".join(map(_pem, authorities)))
    return files


def _pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


class ProofKey:
    """A P-256 key and its proofs (RFC 9449 section 4.2)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        found = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {name: found[name] for name in ("kty", "crv", "x", "y")}

    def proof(self, method: str, url: str, *, nonce: str | None = None, **changes: Any) -> str:
        """A fresh proof; `changes` may break it, None leaves a claim out."""
        headers = {"typ": changes.pop("typ", "dpop+jwt"), "jwk": changes.pop("jwk", self.jwk)}
        claims = {
            "htm": method, "htu": url, "iat": int(time.time()), "jti": secrets.token_hex(16), "nonce": nonce,
            **changes,
        }  # fmt: skip
        said = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(said, self._key, "ES256", headers=headers)


def exchange_form(step: str, resource: str, details: dict[str, str]) -> dict[str, str]:
    """RFC 8693 section 2.1 with RFC 9396 section 2."""
    return {
        "grant_type": EXCHANGE,
        "subject_token": step,
        "subject_token_type": STEP,
        "resource": resource,
        "authorization_details": json.dumps([details]),
    }


def access_hash(token: str) -> str:
    """RFC 9449 section 4.2: `ath`."""
    digest = hashlib.sha256(token.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
