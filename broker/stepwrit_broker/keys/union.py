"""Every key that the brokers of a fleet sign with: our own, and those that others have stated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stepwrit.jws import SigningKey, VerifyKey
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.ports_fleet import KeyUse, Stated


@dataclass(frozen=True, slots=True, kw_only=True)
class _Foreign:
    """One verified key of another broker."""

    key: VerifyKey
    jwk: dict[str, str]
    until: float


class StatedKeys:
    """What other brokers have stated, as last judged; replaced as a whole."""

    def __init__(self) -> None:
        self._known: dict[KeyUse, dict[str, _Foreign]] = {}

    def replace(self, stated: Iterable[Stated]) -> None:
        """From now on these, and no others."""
        known: dict[KeyUse, dict[str, _Foreign]] = {}
        for each in stated:
            of_use = known.setdefault(each.use, {})
            before = of_use.get(each.kid)
            if before is None or before.until < each.until:
                key = VerifyKey.from_jwk(each.jwk)
                of_use[each.kid] = _Foreign(key=key, jwk=dict(each.jwk), until=each.until)
        self._known = known

    def keys(self, use: KeyUse, now: float) -> dict[str, VerifyKey]:
        """Those that hold, by `kid`."""
        return {kid: each.key for kid, each in self._known.get(use, {}).items() if now < each.until}

    def jwks(self, use: KeyUse, now: float) -> list[dict[str, str]]:
        """The same as RFC 7517 keys."""
        return [each.jwk for each in self._known.get(use, {}).values() if now < each.until]


class UnionRing:
    """A key ring that signs with its own keys and verifies by everybody's."""

    def __init__(self, own: Keyring, others: StatedKeys, use: KeyUse) -> None:
        self.own: Final = own
        self._others: Final = others
        self._use: Final[KeyUse] = use

    def signing_key(self, now: float) -> SigningKey:
        """Our own; see `Keyring`."""
        return self.own.signing_key(now)

    def verify_keys(self, now: float) -> dict[str, VerifyKey]:
        """Ours, and what others have stated; ours where both have a `kid`."""
        return {**self._others.keys(self._use, now), **self.own.verify_keys(now)}

    def jwks(self, now: float) -> list[dict[str, str]]:
        """RFC 7517 keys, each once."""
        own = self.own.jwks(now)
        known = {each["kid"] for each in own}
        return [*own, *(each for each in self._others.jwks(self._use, now) if each["kid"] not in known)]
