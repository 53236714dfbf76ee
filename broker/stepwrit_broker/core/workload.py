"""Who a caller is: SPIFFE IDs, trust domains and the attested workload.

Source: SPIFFE-ID.md sections 2 and 2.1-2.3. IDs are compared as exact bytes and never normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NewType

MAX_ID_BYTES = 2048
DEV_TRUST_DOMAIN = "dev.stepwrit.internal"  # of development identities; a real broker never believes it
MAX_TRUST_DOMAIN_BYTES = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+\Z")

TrustDomain = NewType("TrustDomain", str)
SpiffeId = NewType("SpiffeId", str)
AttestedBy = Literal["x509", "jwt"]
ForwardedSource = Literal["client-cert", "xfcc"]
"""The one header in which a proxy forwards a client's certificate: RFC 9440's, or Envoy's."""


def parse_trust_domain(unverified: str) -> TrustDomain:
    """The trust domain name, or ValueError that says what is wrong (SPIFFE-ID.md section 2.1)."""
    if not _TRUST_DOMAIN.match(unverified) or len(unverified) > MAX_TRUST_DOMAIN_BYTES:
        raise ValueError("trust domain: only a-z 0-9 . - _, 1 to 255 bytes")
    return TrustDomain(unverified)


def parse_spiffe_id(unverified: str) -> SpiffeId:
    """A workload's SPIFFE ID with a non-root path, or ValueError that says what is wrong."""
    if len(unverified) > MAX_ID_BYTES:
        raise ValueError(f"SPIFFE ID: longer than {MAX_ID_BYTES} bytes")
    if not unverified.startswith("spiffe://"):
        raise ValueError("SPIFFE ID: scheme is not spiffe")
    domain, slash, path = unverified[len("spiffe://") :].partition("/")
    parse_trust_domain(domain)
    if not slash or not path:
        raise ValueError("SPIFFE ID: a workload needs a non-root path")
    for segment in path.split("/"):
        if not _SEGMENT.match(segment) or segment in (".", ".."):
            raise ValueError("SPIFFE ID: path segments hold only a-z A-Z 0-9 . - _, none empty, '.' or '..'")
    return SpiffeId(unverified)


def trust_domain_of(spiffe_id: SpiffeId) -> TrustDomain:
    """The trust domain of a parsed ID."""
    return TrustDomain(spiffe_id[len("spiffe://") :].partition("/")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An attested caller: SPIFFE ID, how it was proved and until when. Built only in `attest/`.

    `expires_at`: the SVID's end in seconds since the epoch; no credential outlives it.
    `serial`: names the SVID in logs (X.509 serial in hex); never a secret. `via`: the proxy that ended its
    TLS and forwarded its certificate; None on a connection of its own.
    """

    id: SpiffeId
    attested_by: AttestedBy
    expires_at: float
    serial: str
    via: SpiffeId | None = None

    @property
    def trust_domain(self) -> TrustDomain:
        """The domain whose bundle vouched for this workload."""
        return trust_domain_of(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The TLS-terminating proxy that is believed to have seen its clients prove their keys."""

    id: SpiffeId
    source: ForwardedSource
