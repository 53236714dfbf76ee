"""Grants of other trust domains' brokers: the peer's own registered keys, and strict reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from stepwrit._tls import Identity
from stepwrit._transport import HttpTransport
from stepwrit.digest import DigestError, parse_json
from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost, Request
from stepwrit.jws import TokenRefused, Unverified, VerifyKey, split, verify
from stepwrit.wire import LEEWAY_S
from stepwrit.wire_chain import GRANT_MAX_S, TYP_ID_JAG
from stepwrit_broker.core.errors import Unavailable, Unproven
from stepwrit_broker.core.jag import BadGrant, GrantClaims, grant_digest
from stepwrit_broker.core.peers import Peer
from stepwrit_broker.ports_peer import VerifiedGrant

CACHE_S: Final = 300.0
REFETCH_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 262_144
_METADATA: Final = "/.well-known/oauth-authorization-server"
_JWKS: Final = "/oauth/jwks"


class Reads(Protocol):
    """Reads one JSON object from a peer's broker."""

    async def get(self, peer: Peer, path: str) -> Mapping[str, Any]:
        """Raises OSError or ValueError when it cannot be had."""
        ...


class OverMtls:
    """Reads over mutual TLS: as our own broker, from exactly the registered SPIFFE ID of the peer's."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def get(self, peer: Peer, path: str) -> Mapping[str, Any]:
        """One GET on a connection of its own: keys are asked for seldom."""
        if peer.url is None or peer.broker is None:
            raise ValueError("the registry names no broker of this peer")
        transport = HttpTransport(peer.url, self._identity, peer.broker)
        try:
            answer = await transport.send(Request(method="GET", path=path, headers={}))
        except (Lost, IdentityUnavailable) as failed:
            raise OSError(str(failed)) from failed
        finally:
            await transport.close()
        if answer.status != 200 or len(answer.body) > MAX_ANSWER_BYTES:
            raise ValueError(f"{path} answers {answer.status}")
        value = json.loads(answer.body)
        if not isinstance(value, dict):
            raise ValueError(f"{path} is no object")
        return cast("Mapping[str, Any]", value)


@dataclass(slots=True)
class _Held:
    """A peer's keys: when they came, when they were last asked for (seconds)."""

    keys: Mapping[str, VerifyKey] = field(default_factory=dict)
    fetched_at: float = -1e18
    tried_at: float = -1e18
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PeerKeys:
    """The PeerGrants port. fetched: hears of each fetch, by the peer's name and whether it succeeded."""

    def __init__(
        self, reads: Reads, fetched: Callable[[str, bool], None] = lambda _name, _good: None
    ) -> None:
        self._reads, self._fetched = reads, fetched
        self._held: dict[tuple[str, str | None, str | None], _Held] = {}

    async def judge(self, unverified: str, peers: Mapping[str, Peer], now: float) -> VerifiedGrant:
        """See the port."""
        try:
            token = split(unverified)
            if token.header.typ != TYP_ID_JAG or token.header.kid is None:
                raise _no("it is not an ID-JAG that names its key", "typ")
            said = _object(token.claims_bytes)
            peer = peers.get(str(said.get("iss")))
            if peer is None:
                raise _no("its issuer is no peer of this broker", "registry peers")
            key = await self._key(peer, token.header.kid, now)
            return _judged(peer, token, key, now)
        except (TokenRefused, BadGrant, DigestError) as bad:
            raise _no(f"it does not hold: {bad}", "grant") from bad

    async def _key(self, peer: Peer, kid: str, now: float) -> VerifyKey:
        found = (await self._keys(peer, kid, now)).get(kid)
        if found is None:
            raise _no("it is signed by a key that its issuer does not publish", "key")
        return found

    async def _keys(self, peer: Peer, kid: str, now: float) -> Mapping[str, VerifyKey]:
        if peer.keys:
            return {jwk["kid"]: VerifyKey.from_jwk(jwk) for jwk in peer.keys}
        held = self._held.setdefault((peer.issuer, peer.broker, peer.url), _Held())
        if kid in held.keys and now - held.fetched_at < CACHE_S:
            return held.keys
        async with held.lock:
            await self._refresh(peer, held, now)
        if now - held.fetched_at >= CACHE_S:
            raise Unavailable(
                "unavailable",
                "the keys of the grant's issuer cannot be had",
                rule=f"peer {peer.name}",
                retry_after=REFETCH_S,
            )
        return held.keys

    async def _refresh(self, peer: Peer, held: _Held, now: float) -> None:
        """At most once in REFETCH_S seconds, whatever arrives."""
        if now - held.tried_at < REFETCH_S:
            return
        held.tried_at = now
        try:
            if (await self._reads.get(peer, _METADATA)).get("issuer") != peer.issuer:
                raise ValueError("it names itself otherwise")
            held.keys, held.fetched_at = _usable(await self._reads.get(peer, _JWKS)), now
        except (OSError, ValueError, RecursionError):
            self._fetched(peer.name, False)
            return
        self._fetched(peer.name, True)


def _usable(jwks: Mapping[str, Any]) -> dict[str, VerifyKey]:
    """What is no key for us is left out (RFC 7517 section 5)."""
    listed = jwks.get("keys")
    if not isinstance(listed, list):
        raise ValueError("not a JWKS")
    found: dict[str, VerifyKey] = {}
    for jwk in listed:
        try:
            found[str(jwk["kid"])] = VerifyKey.from_jwk(jwk)
        except (TokenRefused, KeyError, TypeError):
            continue
    return found


def _judged(peer: Peer, token: Unverified, key: VerifyKey, now: float) -> VerifiedGrant:
    said = cast("Mapping[str, object]", verify(token, key, typ=TYP_ID_JAG))
    claims = GrantClaims.of(said)
    if not claims.iat - LEEWAY_S <= now < claims.exp + LEEWAY_S:
        raise _no("it has expired, or is not valid yet", "life")
    if claims.exp - claims.iat > GRANT_MAX_S:
        raise _no(f"it lives longer than {GRANT_MAX_S} seconds", "life")
    return VerifiedGrant(
        peer=peer, claims=claims, digest=grant_digest(token.claims_bytes), text=token.claims_bytes.decode()
    )


def _object(raw: bytes) -> Mapping[str, object]:
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise BadGrant("claims: no object")
    return cast("Mapping[str, object]", value)


def _no(what: str, rule: str) -> Unproven:
    return Unproven("invalid_grant", f"the grant was not accepted: {what}", rule=rule)
