"""The in-memory broker: who calls, and what it signs with."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwrit._testing_books import No
from stepwrit.jws import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the SPIFFE ID that the transport vouches for, and the key proven in this request."""

    spiffe_id: str
    jkt: str | None = None

    def key(self) -> str:
        """The proven key. Raises No."""
        if self.jkt is None:
            raise No("invalid_proof", "this verb needs a DPoP proof")
        return self.jkt


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What the broker signs with, and the identity provider of its persons."""

    step: SigningKey = field(default_factory=lambda: _key("st-test"))
    credential: SigningKey = field(default_factory=lambda: _key("at-test"))
    persons: SigningKey = field(default_factory=lambda: _key("idp-test"))


def _key(kid: str) -> SigningKey:
    return SigningKey.generate(kid=kid)
