"""DPoP nonces (RFC 9449 section 8): the server's own clock in every proof, without a table of what was given
out.

A nonce is a time window and a MAC of it under a key of the store, so every broker of a store takes the nonces
of every other, and a restart changes nothing. It bounds the age of a proof; that each is used once is its
`jti`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from stepwrit.digest import DigestError, b64u, unb64u

WINDOW_S: Final = 60
_OLDEST: Final = 2  # windows: a nonce serves at least two minutes, at most three
_AHEAD: Final = 1  # another broker's clock may be a little ahead
_LABEL: Final = b"stepwrit dpop nonce\x00"
_MAC_BYTES: Final = 16


class Nonces:
    """Makes and judges nonces. secret: of the store, never shown."""

    def __init__(self, secret: bytes) -> None:
        self._key: Final = hmac.digest(secret, _LABEL, hashlib.sha256)

    def fresh(self, now: float) -> str:
        """The nonce of this moment (seconds since the epoch)."""
        return self._of(int(now // WINDOW_S))

    def is_ours(self, unverified: str | None, now: float) -> bool:
        """Whether it is one of ours and recent."""
        if unverified is None or len(unverified) > 64:
            return False
        try:
            window = int.from_bytes(unb64u(unverified)[:8], "big")
        except DigestError:
            return False
        current = int(now // WINDOW_S)
        recent = current - _OLDEST <= window <= current + _AHEAD
        return recent and hmac.compare_digest(unverified.encode(), self._of(window).encode())

    def _of(self, window: int) -> str:
        said = window.to_bytes(8, "big")
        return b64u(said + hmac.digest(self._key, said, hashlib.sha256)[:_MAC_BYTES])
