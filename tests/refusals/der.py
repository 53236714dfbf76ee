"""Certificates that `cryptography` does not build: DER taken apart, changed and signed again (X.690)."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

STAND_IN = x509.ObjectIdentifier("2.5.29.127")  # no extension has it; as long as a real one's identifier


def changed(der: bytes, old: bytes, new: bytes, key: Any) -> bytes:
    """The certificate with `old` replaced in what is signed (both of one length), signed by an EC key."""
    certificate = x509.load_der_x509_certificate(der)
    signed = certificate.tbs_certificate_bytes
    assert len(old) == len(new)
    assert signed.count(old) == 1, signed.count(old)
    again = signed.replace(old, new)
    algorithm = der[len(_head(der)) + len(signed) :][:12]  # ecdsa-with-SHA256, always 12 bytes
    return element(
        0x30, again + algorithm + element(0x03, b"\x00" + key.sign(again, ec.ECDSA(hashes.SHA256())))
    )


def element(tag: int, content: bytes) -> bytes:
    """Tag, length, content."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def identifier(oid: x509.ObjectIdentifier) -> bytes:
    """An identifier under 2.5.29 as DER."""
    last = int(oid.dotted_string.removeprefix("2.5.29."))
    assert last < 0x80
    return element(0x06, bytes([0x55, 0x1D, last]))


def uri_names(*uris: bytes) -> bytes:
    """The value of a subject alternative name with these URIs, whatever their bytes."""
    return element(0x30, b"".join(element(0x86, uri) for uri in uris))


def _head(der: bytes) -> bytes:
    return der[: 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)]
