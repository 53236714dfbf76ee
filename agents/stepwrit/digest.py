"""What is hashed: argument and request digests, base64url, key thumbprints.

Standard library and `rfc8785` only, no I/O: the broker's pure core imports it. What JSON is refused, and
why, is told in `stepwrit.strict_json`, whose names are to be had here.
"""

from __future__ import annotations

import binascii
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from stepwrit.strict_json import (
    MAX_DEPTH,
    MAX_SAFE_INTEGER,
    DigestError,
    JsonValue,
    canonical,
    check_value,
    parse_json,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_SAFE_INTEGER",
    "DigestError",
    "JsonValue",
    "args_digest",
    "b64u",
    "body_digest",
    "canonical",
    "check_value",
    "normalise_url",
    "parse_json",
    "request_digest",
    "request_digest_of",
    "salted",
    "thumbprint",
    "unb64u",
]

# --- base64url and SHA-256


def b64u(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    text = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    return text.translate(_TO_URL).decode("ascii")


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def unb64u(text: str) -> bytes:
    """The bytes of strict base64url: no padding, no stray character, trailing bits zero.

    Raises:
        DigestError: any other text, also one that a lenient decoder would read.
    """
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"==="[: -len(text) % 4])
    except ValueError:
        raise DigestError("not base64url") from None
    if b64u(data) != text:  # the lenient decoder skips strays; only one text is right for these bytes
        raise DigestError("not canonical base64url without padding")
    return data


def body_digest(body: bytes) -> str:
    """Base64url SHA-256 of the bytes as sent; also the hash of a token's ASCII bytes (`ath`, `tkh`)."""
    return b64u(hashlib.sha256(body).digest())


def salted(salt: bytes, digest: str) -> str:
    """Base64url SHA-256(salt ‖ digest's bytes): what the ledger keeps; erasing the salt unlinks it.

    Raises:
        DigestError: `digest` is not a base64url SHA-256, or the salt is under 16 bytes.
    """
    raw = unb64u(digest)
    if len(raw) != 32 or len(salt) < 16:
        raise DigestError("a SHA-256 digest and a salt of at least 16 bytes are needed")
    return body_digest(salt + raw)


def schema_digest(input_schema: Mapping[str, object]) -> str:
    """How the registry pins a tool: `sha256-` and base64url SHA-256 of its input schema in RFC 8785 form.

    Raises DigestError.
    """
    return f"sha256-{b64u(hashlib.sha256(canonical(input_schema)).digest())}"


def args_digest(args: Mapping[str, object] | None) -> str:
    """Base64url SHA-256 of the canonical arguments (a dict) of a tool call; absent arguments count as `{}`.

    Raises:
        DigestError: what `check_value` refuses: a digest of anything less exact would prove nothing.
    """
    if args is None:
        return _NO_ARGS
    if type(args) is not dict:
        raise DigestError("arguments are a JSON object")
    return body_digest(canonical(args))


_NO_ARGS: Final = body_digest(b"{}")


# --- requests


def request_digest(method: str, url: str, body: bytes) -> str:
    """Base64url SHA-256 of the canonical `{m, u, d}`: method, normalised URL with query, body digest.

    Raises:
        DigestError: the method is no RFC 9110 token, or `normalise_url` refuses the URL.
    """
    return request_digest_of(method, url, body_digest(body))


def request_digest_of(method: str, url: str, body: str) -> str:
    """`request_digest` for whoever holds only the body's digest, as the broker does."""
    if not _METHOD.fullmatch(method):
        raise DigestError("the method is not an HTTP token")
    return body_digest(canonical({"m": method, "u": normalise_url(url), "d": body}))


_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_URL: Final = re.compile(
    r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{0,5}))?"
    # besides RFC 3986's own characters those that HTTP clients send as they are in paths and queries
    r"(?P<path>(?:/[!$-;=@-\[\]-~]*)?)(?P<query>(?:\?[!$-;=?-\[\]-~]*)?)"
)
_PERCENT: Final = re.compile(r"%(?:([0-9A-Fa-f]{2}))?")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PORTS: Final = {"http": 80, "https": 443}


def normalise_url(url: str) -> str:
    """An absolute http(s) URL in the one form that is hashed (RFC 3986 sections 6.2.2 and 6.2.3).

    Scheme and host in lower case, default port dropped, unreserved characters decoded, percent-encoding in
    upper case, dot segments removed, empty path `/`. An empty query (`/a?`) stays, as section 6.2.3 asks.

    Raises:
        DigestError: another scheme, a relative reference, userinfo, a fragment, or a character that must be
            percent-encoded.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise DigestError("not an absolute http(s) URL without userinfo and fragment, or not percent-encoded")
    scheme = found["scheme"].lower()
    path, query = found["path"], found["query"]
    if "%" in path or "%" in query:
        path, query = _PERCENT.sub(_percent, path), _PERCENT.sub(_percent, query)
    if "/." in path:
        path = _without_dots(path)
    return f"{scheme}://{_host(found['host'])}{_port(scheme, found['port'])}{path or '/'}{query}"


def _percent(found: re.Match[str]) -> str:
    if found[1] is None:
        raise DigestError("a percent sign that encodes nothing")
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0].upper()


def _host(host: str) -> str:
    if host[0] != "[":
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    except ValueError:
        raise DigestError("not an IPv6 address in the URL") from None


def _port(scheme: str, port: str | None) -> str:
    number = int(port) if port else _PORTS[scheme]
    if number > 65535:
        raise DigestError("the URL's port is beyond 65535")
    return "" if number == _PORTS[scheme] else f":{number}"


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4; `..` above the root stays at the root."""
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join([*kept, ""] if segments[-1] in (".", "..") else kept)


# --- keys


def thumbprint(jwk: Mapping[str, object]) -> str:
    """The RFC 7638 thumbprint of an EC P-256 public key; other members of the JWK do not count.

    Raises:
        DigestError: another key type or curve, or a coordinate that is not base64url of 32 bytes.
    """
    x, y = jwk.get("x"), jwk.get("y")
    if (
        jwk.get("kty") != "EC"
        or jwk.get("crv") != "P-256"
        or not isinstance(x, str)
        or not isinstance(y, str)
    ):
        raise DigestError("not an EC P-256 key")
    if len(unb64u(x)) != 32 or len(unb64u(y)) != 32:
        raise DigestError("a coordinate of the key is not 32 bytes")
    return body_digest(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode())
