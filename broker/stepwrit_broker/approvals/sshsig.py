"""SSH signatures, as `ssh-keygen -Y sign` makes them, verified strictly.

Source: OpenSSH PROTOCOL.sshsig; keys and signatures as in RFC 8709 (Ed25519) and RFC 5656 (P-256).
"""

from __future__ import annotations

import hashlib
from binascii import Error as NotBase64
from binascii import a2b_base64
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MAGIC: Final = b"SSHSIG"
MAX_BYTES: Final = 2_048
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_ED25519, _P256, _CURVE = b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"nistp256"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSig:
    """The parts of a signature's blob."""

    key: bytes
    namespace: bytes
    hash: bytes
    signature: bytes


def dearmored(text: str) -> bytes:
    """The blob of an armored signature. Raises ValueError."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 3 or (lines[0], lines[-1]) != (_BEGIN, _END):
        raise ValueError("not an SSH signature")
    try:
        return a2b_base64("".join(lines[1:-1]), strict_mode=True)
    except NotBase64 as bad:
        raise ValueError("not base64") from bad


def parse(blob: bytes) -> SshSig:
    """Raises ValueError for anything but one whole signature of version 1."""
    if len(blob) > MAX_BYTES or not blob.startswith(MAGIC + (1).to_bytes(4)):
        raise ValueError("not an SSH signature of version 1")
    key, namespace, reserved, hashed, signature = _strings(blob[len(MAGIC) + 4 :], 5)
    if reserved or hashed not in _HASHES:
        raise ValueError("a reserved field, or another hash")
    return SshSig(key=key, namespace=namespace, hash=hashed, signature=signature)


def check(
    blob: bytes, key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey, namespace: str, said: bytes
) -> None:
    """Pass if it is this key's, in this namespace, over these bytes.

    Raises ValueError for what is not of the form, or of another key or namespace; InvalidSignature.
    """
    found = parse(blob)
    if found.key != _blob_of(key):
        raise ValueError("a signature by another key")
    if found.namespace != namespace.encode():
        raise ValueError("a signature in another namespace")
    digest = _HASHES[found.hash](said).digest()
    signed = MAGIC + b"".join(_string(each) for each in (found.namespace, b"", found.hash, digest))
    kind, signature = _strings(found.signature, 2)
    if isinstance(key, ed25519.Ed25519PublicKey):
        _expect(kind, _ED25519)
        key.verify(signature, signed)
    else:
        _expect(kind, _P256)
        key.verify(_der(signature), signed, ec.ECDSA(SHA256()))


def _blob_of(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    if isinstance(key, ed25519.Ed25519PublicKey):
        parts = [_ED25519, key.public_bytes(Encoding.Raw, PublicFormat.Raw)]
    else:
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        parts = [_P256, _CURVE, point]
    return b"".join(_string(each) for each in parts)


def _der(signature: bytes) -> bytes:
    r, s = (_positive(each) for each in _strings(signature, 2))
    return encode_dss_signature(r, s)


def _positive(mpint: bytes) -> int:
    """RFC 4251 section 5: shortest form, above zero."""
    number = int.from_bytes(mpint, "big", signed=True)
    if number <= 0 or mpint != number.to_bytes(number.bit_length() // 8 + 1, "big"):
        raise ValueError("not a positive integer in its shortest form")
    return number


def _expect(kind: bytes, expected: bytes) -> None:
    if kind != expected:
        raise ValueError("a signature of another kind than its key")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """Exactly `count` strings (RFC 4251 section 5) and nothing behind them."""
    found: list[bytes] = []
    for _ in range(count):
        size = int.from_bytes(data[:4])
        if len(data) < 4 + size or len(data) < 4:
            raise ValueError("cut off")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise ValueError("something behind the end")
    return found
