"""Approvers' public keys, and their signatures: Ed25519 and P-256, plain or as SSH signatures.

Formats read: PEM SubjectPublicKeyInfo (RFC 7468), and OpenSSH's one line (RFC 4253 section 6.6, RFC 5656).
Kept: the JWK (RFC 7517, RFC 8037) with its required members alone, in canonical form.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from stepwrit.digest import DigestError, b64u, canonical, parse_json, unb64u
from stepwrit_broker.approvals import sshsig
from stepwrit_broker.core.errors import Malformed, Unproven
from stepwrit_broker.core.statement import Purpose

MAX_TEXT: Final = 4_096
RAW_BYTES: Final = 64
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
_ES256: Final = ec.ECDSA(SHA256())
# points of small order, as y without its sign: signatures "by" such a key can be made without a private one
_SMALL: Final = frozenset(
    {
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    }
)


class KeySignatures:
    """The `Keys` port."""

    def read(self, text: str) -> str:
        """See `read_key`."""
        return read_key(text)

    def check(self, public_key: str, purpose: Purpose, said: bytes, signature: bytes) -> None:
        """See `check`."""
        check(public_key, purpose, said, signature)


def read_key(text: str) -> str:
    """The JWK, as kept, of a public key in PEM or OpenSSH form. Raises Malformed, which says what passes."""
    if "PRIVATE KEY" in text:
        raise Malformed("invalid_request", "this is a private key: keep it, and give the public one (.pub)")
    try:
        if len(text) > MAX_TEXT or not _is_bare(text.strip().partition(" ")[0]):
            raise ValueError("not a bare key")
        return jwk_of(_loaded(text.strip().encode("ascii")))
    except (ValueError, UnsupportedAlgorithm) as bad:
        raise Malformed(
            "invalid_request", "not a public key that is taken: Ed25519 or P-256, as PEM or an OpenSSH line"
        ) from bad


def _is_bare(kind: str) -> bool:
    """Neither a certificate nor a security key (PROTOCOL.u2f), whose signatures are not its bare key's."""
    return "-cert-" not in kind and not kind.startswith("sk-")


def _loaded(raw: bytes) -> object:
    """One key and nothing beside it."""
    if raw.startswith(b"-----BEGIN PUBLIC KEY-----") and raw.count(b"-----BEGIN") == 1:
        return load_pem_public_key(raw)
    if raw.startswith(b"-----BEGIN") or b"\n" in raw:
        raise ValueError("not one public key")
    return load_ssh_public_key(raw)


def jwk_of(key: object) -> str:
    """The JWK of a public key. Raises ValueError for another kind, and for one that proves nothing."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if int.from_bytes(raw, "little") & (2**255 - 1) in _SMALL:
            raise ValueError("a point of small order")
        return canonical({"kty": "OKP", "crv": "Ed25519", "x": b64u(raw)}).decode()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        numbers = key.public_numbers()
        x, y = (b64u(each.to_bytes(32, "big")) for each in (numbers.x, numbers.y))
        return canonical({"kty": "EC", "crv": "P-256", "x": x, "y": y}).decode()
    raise ValueError("neither Ed25519 nor P-256")


def key_of(jwk: str) -> PublicKey:
    """The key of a JWK as kept. Raises ValueError."""
    members = parse_json(jwk)
    if not isinstance(members, dict) or canonical(members).decode() != jwk:
        raise ValueError("not a JWK as kept")
    x, y = members.get("x"), members.get("y")
    if members.get("crv") == "Ed25519" and isinstance(x, str):
        return ed25519.Ed25519PublicKey.from_public_bytes(unb64u(x))
    if members.get("crv") == "P-256" and isinstance(x, str) and isinstance(y, str):
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + unb64u(x) + unb64u(y))
    raise ValueError("neither Ed25519 nor P-256")


def check(public_key: str, purpose: Purpose, said: bytes, signature: bytes) -> None:
    """Pass if it is this key's signature over the statement `said`. public_key: a JWK as kept.

    signature: 64 bytes are Ed25519's (RFC 8032) or r ‖ s (RFC 7518 section 3.4) over the statement itself;
    all else is the blob of an SSH signature in the namespace `purpose`. Raises Unproven(`invalid_proof`).
    """
    try:
        key = key_of(public_key)
        if len(signature) == RAW_BYTES:
            _check_raw(key, said, signature)
        else:
            sshsig.check(signature, key, purpose, said)
    except (InvalidSignature, DigestError, ValueError) as bad:
        raise Unproven("invalid_proof", "the signature does not hold", rule="signature") from bad


def _check_raw(key: PublicKey, said: bytes, signature: bytes) -> None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, said)
        return
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), said, _ES256)
