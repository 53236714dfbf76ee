"""The shape of a SPIFFE ID (SPIFFE-ID.md sections 2.1-2.3). Compared as exact bytes, never normalised."""

from __future__ import annotations

import re
from typing import Final

SCHEME: Final = "spiffe://"
_MAX_ID_BYTES: Final = 2048
_MAX_TRUST_DOMAIN_BYTES: Final = 255
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+\Z")


def check_trust_domain(unverified: str) -> str:
    """The name itself, or ValueError that says what is wrong."""
    if len(unverified) > _MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.match(unverified):
        raise ValueError("trust domain: only a-z 0-9 . - _, 1 to 255 bytes")
    return unverified


def check_workload_id(unverified: str) -> str:
    """The ID itself if it can name a workload (so not a trust domain's root), or ValueError."""
    if len(unverified) > _MAX_ID_BYTES:
        raise ValueError(f"SPIFFE ID: longer than {_MAX_ID_BYTES} bytes")
    if not unverified.startswith(SCHEME):
        raise ValueError("SPIFFE ID: scheme is not spiffe")
    domain, _, path = unverified[len(SCHEME) :].partition("/")
    check_trust_domain(domain)
    if not path:
        raise ValueError("SPIFFE ID: a workload needs a non-root path")
    if not all(_SEGMENT.match(part) and part not in (".", "..") for part in path.split("/")):
        raise ValueError("SPIFFE ID: path segments hold only a-z A-Z 0-9 . - _, none empty, '.' or '..'")
    return unverified


def trust_domain_of(checked: str) -> str:
    """The trust domain of a checked ID, or of `spiffe://domain`."""
    return checked[len(SCHEME) :].partition("/")[0]
