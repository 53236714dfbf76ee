"""Envoy's `X-Forwarded-Client-Cert`, read strictly: one element, the whole certificate in it.

Source: Envoy's documentation of the header: elements parted by commas, `Key=Value` pairs by semicolons,
values that hold one of these or `=` in double quotes, a quote behind a backslash, PEM URL-encoded, keys in
any case.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from stepwrit_broker.edge.encoded import canonical_base64

REPEATED: Final = frozenset({"by", "uri", "dns"})
KEYS: Final = REPEATED | {"hash", "cert", "chain", "subject"}
MAX_PAIRS: Final = 64

_PAIR: Final = re.compile(rb'([A-Za-z]{1,16})=(?:"((?:[^"\\]|\\.)*)"|([^",;=\\]*))')
_ENCODED: Final = re.compile(rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n"
    rb"((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/=]{1,64}\n)"
    rb"-----END CERTIFICATE-----\n?"
)


def read_xfcc(value: bytes) -> list[bytes]:
    """The forwarded certificates, DER, leaf first. Raises ValueError.

    Needs `Cert=`; a `Chain=` must begin with that very certificate, a `Hash=` be its SHA-256. What else is
    said (`Subject=`, `URI=`, …) is not read: the certificate says it.
    """
    said = _element(value)
    (leaf,) = _pems(said.get("cert", b""), 1)
    chain = _pems(said["chain"], 0) if said.get("chain") else [leaf]
    if chain[0] != leaf:
        raise ValueError("Chain does not begin with Cert")
    stated = said.get("hash", b"").decode("ascii", "replace").lower()
    if stated and stated != hashlib.sha256(leaf).hexdigest():
        raise ValueError("Hash is of another certificate")
    return chain


def _element(value: bytes) -> dict[str, bytes]:
    """The pairs of the only element; of a repeated key the last."""
    said: dict[str, bytes] = {}
    at, count = 0, 0
    while at <= len(value):
        pair = _PAIR.match(value, at)
        count += 1
        if pair is None or count > MAX_PAIRS:
            raise ValueError("not Key=Value pairs")
        key = pair[1].lower().decode()
        if key not in KEYS or (key in said and key not in REPEATED):
            raise ValueError(f"the key {key} is unknown, or there twice")
        said[key] = pair[3] if pair[2] is None else pair[2]
        at = pair.end()
        if value[at : at + 1] not in (b"", b";"):
            raise ValueError("a second element, so a second proxy; or a value that is not quoted")
        at += 1
    return said


def _pems(encoded: bytes, exactly: int) -> list[bytes]:
    """DER of each URL-encoded PEM certificate, with nothing between. exactly: how many, 0 for one or more."""
    if not _ENCODED.fullmatch(encoded):
        raise ValueError("not URL-encoded")
    text, at, found = unquote_to_bytes(encoded), 0, []
    while at < len(text):
        pem = _PEM.match(text, at)
        if pem is None:
            raise ValueError("not PEM certificates")
        found.append(canonical_base64(pem[1].replace(b"\n", b"")))
        at = pem.end()
    if not found or (exactly and len(found) != exactly):
        raise ValueError("not as many certificates as there must be")
    return found
