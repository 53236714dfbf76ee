"""Certificates as proxies write them into headers."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def sequence(der: bytes) -> bytes:
    """RFC 8941 byte sequence."""
    return b":" + b64encode(der) + b":"


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def encoded(*ders: bytes) -> bytes:
    """URL-encoded PEM, as Envoy and nginx write it."""
    return quote(b"".join(map(pem, ders)), safe="-._~").encode()


def xfcc(leaf: bytes, chain: Iterable[bytes] = ()) -> bytes:
    """An element as Envoy writes it with all its details."""
    chain = tuple(chain)
    parts = [
        b"By=spiffe://a.test/proxy",
        b"Hash=" + hashlib.sha256(leaf).hexdigest().encode(),
        b'Cert="%b"' % encoded(leaf),
        *([b'Chain="%b"' % encoded(leaf, *chain)] if chain else []),
        rb'Subject="O=SPIRE,CN=a \"quoted\" name"',
        b"URI=spiffe://a.test/agent",
    ]
    return b";".join(parts)
