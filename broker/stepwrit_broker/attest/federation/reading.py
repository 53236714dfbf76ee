"""A bundle document as something to hold: parsed strictly, its keys under one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepwrit.spiffe_bundle import BundleRefused, SpiffeBundle, parse_bundle
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Held
from stepwrit_broker.core.federation import Revision


def read(raw: bytes, trust_domain: str, now: float) -> Held:
    """What an endpoint, or a file of the operator's, says. Raises BundleNotTaken(`malformed`)."""
    try:
        return held_of(parse_bundle(raw, trust_domain), confirmed_at=now)
    except BundleRefused as bad:
        raise BundleNotTaken("malformed", str(bad)) from bad


def held_of(bundle: SpiffeBundle, *, confirmed_at: float) -> Held:
    """A bundle with its revision: whatever its spelling and order, the same keys have the same digest."""
    digest = hashlib.sha256()
    for part in _keys(bundle):
        digest.update(len(part).to_bytes(4, "big") + part)
    revision = Revision(sequence=bundle.sequence, digest=digest.hexdigest())
    return Held(bundle=bundle, revision=revision, confirmed_at=confirmed_at)


def _keys(bundle: SpiffeBundle) -> Iterator[bytes]:
    yield from sorted(set(bundle.x509))
    yield b"jwt"
    for kid, key in sorted(bundle.jwt.items()):
        yield kid.encode("utf-8", "surrogatepass")
        yield ",".join(sorted(key.algorithms)).encode()
        yield key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
