"""This process's short-lived ES256 keys: published before use, rotated, retired after their last token.

Private keys never leave the process. Two key rings (step tokens, credentials), two sets of `kid`s, so that
one can never stand in for the other even if a `typ` were overlooked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from stepwrit.jws import SigningKey, VerifyKey
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ports_fleet import KeyUse, OwnKey

ROTATE_S = 3600.0
LEAD_S = 300.0  # a key is published this long before it signs, so that no verifier meets it unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """One key and its clock (seconds): signs in [signs_from, signs_until), verifies until dead_at."""

    key: SigningKey
    signs_from: float
    signs_until: float
    dead_at: float


class Keys(Protocol):
    """What signs and verifies one sort of token."""

    def signing_key(self, now: float) -> SigningKey:
        """The key in force. Raises Unavailable(rule="keys") where none may be used yet."""
        ...

    def verify_keys(self, now: float) -> dict[str, VerifyKey]:
        """Every key whose tokens may still be alive, by `kid`."""
        ...

    def jwks(self, now: float) -> list[dict[str, str]]:
        """The same as RFC 7517 keys, public members only."""
        ...


class Keyring:
    """One set of keys. `longest_s`: the longest life of what they sign. held: a new key signs nothing until
    it is released, because others have to know it first.
    """

    def __init__(
        self,
        prefix: KeyUse,
        *,
        now: float,
        longest_s: float,
        rotate_s: float = ROTATE_S,
        lead_s: float = LEAD_S,
        published: Callable[[str, str], None] | None = None,
        held: bool = False,
    ) -> None:
        self._held: set[str] | None = set() if held else None
        self._prefix: KeyUse = prefix
        self._rotate_s, self._lead_s, self._longest_s = rotate_s, lead_s, longest_s
        self._published = published
        self._serial = 0
        self._keys: tuple[_Key, ...] = ()
        self._next_turn = 0.0
        self._keys = (self._make(now),)  # the first is published before any listener opens
        self._turn(now)

    def _make(self, signs_from: float) -> _Key:
        private = ec.generate_private_key(ec.SECP256R1())
        thumbprint = VerifyKey.from_public_key(private.public_key()).thumbprint
        key = SigningKey(private, kid=f"{self._prefix}-{thumbprint[:16]}")
        if self._published is not None:
            self._published(key.kid, key.thumbprint)
        if self._held is not None:
            self._held.add(key.kid)
        until = signs_from + self._rotate_s
        return _Key(
            key=key, signs_from=signs_from, signs_until=until, dead_at=until + self._longest_s + self._lead_s
        )

    def _turn(self, now: float) -> None:
        """Publish the next key in time and drop the dead ones."""
        while self._keys[-1].signs_until - self._lead_s <= now:
            self._keys = (*self._keys, self._make(max(self._keys[-1].signs_until, now)))
        self._keys = tuple(each for each in self._keys if each.dead_at > now)
        self._next_turn = self._keys[-1].signs_until - self._lead_s

    def signing_key(self, now: float) -> SigningKey:
        """The key in force at `now`; at a time before all of them, by a clock set back, the oldest."""
        if now >= self._next_turn:
            self._turn(now)
        if self._held is not None:
            return self._released(now, self._held)
        return next((each.key for each in reversed(self._keys) if each.signs_from <= now), self._keys[0].key)

    def _released(self, now: float, held: set[str]) -> SigningKey:
        """While the next one may not be used, the last one is, for as long as it would have been known
        anyhow.
        """
        for each in reversed(self._keys):
            may_sign = each.signs_from <= now < each.signs_until + self._lead_s
            if may_sign and each.key.kid not in held:
                return each.key
        raise Unavailable(
            "unavailable",
            "no key of this broker is published to the others yet",
            rule="keys",
            retry_after=1.0,
        )

    def release(self, kid: str) -> None:
        """It is known to everybody now."""
        if self._held is not None:
            self._held.discard(kid)

    def stated(self, now: float) -> list[OwnKey]:
        """What is to be said of each key that is not dead."""
        self.verify_keys(now)
        return [
            OwnKey(
                use=self._prefix,
                kid=each.key.kid,
                jwk=each.key.published_jwk,
                since=each.signs_from,
                until=each.dead_at,
            )
            for each in self._keys
            if each.dead_at > now
        ]

    def verify_keys(self, now: float) -> dict[str, VerifyKey]:
        """Every key whose tokens may still be alive, and the next one."""
        if now >= self._next_turn:
            self._turn(now)
        return {each.key.kid: each.key.verify_key for each in self._keys if each.dead_at > now}

    def jwks(self, now: float) -> list[dict[str, str]]:
        """RFC 7517 keys, public members only."""
        self.verify_keys(now)
        return [each.key.published_jwk for each in self._keys if each.dead_at > now]
