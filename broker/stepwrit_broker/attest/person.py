"""Judge a person's proof: an OpenID Connect ID token, by its issuer's keys.

OpenID Connect Core 1.0 section 3.1.3.7. Discovery and keys are cached; algorithms are pinned by
configuration; freshness is `auth_time`, never `iat`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx2
import jwt

from stepwrit.wire import LEEWAY_S
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.persons import SUBJECT_MAX
from stepwrit_broker.ports import PersonProof

REFETCH_S = 10.0
MAX_TOKEN_BYTES = 16_384
MAX_ANSWER_BYTES = 262_144
_LATEST = 253_402_300_800.0  # the year 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A trusted issuer. jwks_url: None means discovery. cache_s, stale_s: how long keys serve without a
    refresh, and how long when refreshing fails (seconds).
    """

    issuer: str
    algorithms: tuple[str, ...] = ("ES256", "RS256")
    jwks_url: str | None = None
    cache_s: float = 600.0
    stale_s: float = 3600.0


@dataclass(slots=True)
class _Keys:
    fetched_at: float = -1e18
    tried_at: float = -1e18
    by_kid: Mapping[str, jwt.PyJWK] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class OidcPeople:
    """The PersonProofs port over OIDC issuers named in configuration."""

    def __init__(self, issuers: tuple[Issuer, ...], http: httpx2.AsyncClient) -> None:
        self._issuers = {each.issuer: each for each in issuers}
        self._http = http
        self._keys = {each.issuer: _Keys() for each in issuers}

    async def judge(self, id_token: str, now: float) -> PersonProof:
        """The verified claims. Raises Refused(`human_proof`), Unavailable(rule="oidc")."""
        if len(id_token) > MAX_TOKEN_BYTES:
            raise _no("too large")
        if not id_token.isascii():
            raise _no("not a JWT")
        issuer, kid, algorithm = self._unverified(id_token)
        if algorithm not in issuer.algorithms:
            raise _no("its algorithm is not one that is pinned for the issuer")
        key = await self._key(issuer, kid, now)
        if key.algorithm_name != algorithm:
            raise _no("its algorithm is not its key's")
        return replace(_proof(id_token, _claims(id_token, key, issuer, now), now), key=_public(key))

    async def key(self, issuer: str, kid: str, algorithm: str, now: float) -> jwt.PyJWK:
        """A registered issuer's key, of an algorithm that is pinned for it.

        Raises Refused(`human_proof`) where it publishes none, Unavailable(rule="oidc").
        """
        known = self._issuers[issuer]
        key = await self._key(known, kid, now)
        if algorithm not in known.algorithms or key.algorithm_name != algorithm:
            raise _no("its algorithm is not its key's, or not one that is pinned for the issuer")
        return key

    def _unverified(self, id_token: str) -> tuple[Issuer, str, str]:
        try:
            head = jwt.get_unverified_header(id_token)
            claims = jwt.decode(id_token, options={"verify_signature": False})
        except (jwt.PyJWTError, RecursionError) as bad:
            raise _no("not a JWT") from bad
        unverified_issuer = claims.get("iss")
        issuer = self._issuers.get(unverified_issuer) if isinstance(unverified_issuer, str) else None
        if issuer is None:
            raise _no("its issuer is not one of the broker's", rule="oidc issuer")
        return issuer, str(head.get("kid", "")), str(head.get("alg", ""))

    async def _key(self, issuer: Issuer, kid: str, now: float) -> jwt.PyJWK:
        keys = self._keys[issuer.issuer]
        wanted = keys.by_kid.get(kid)
        if wanted is not None and now - keys.fetched_at < issuer.cache_s:
            return wanted
        async with keys.lock:
            await self._refresh(issuer, keys, now)
        found = keys.by_kid.get(kid)
        if now - keys.fetched_at > issuer.stale_s:
            raise Unavailable(
                "unavailable",
                "the issuer's keys cannot be had",
                rule=f"oidc {issuer.issuer}",
                retry_after=REFETCH_S,
            )
        if found is None:
            raise _no("it is signed by a key that the issuer does not publish")
        return found

    async def _refresh(self, issuer: Issuer, keys: _Keys, now: float) -> None:
        """Fetch, at most once in REFETCH_S seconds whatever arrives."""
        if now - keys.tried_at < REFETCH_S:
            return
        keys.tried_at = now
        try:
            url = issuer.jwks_url or await self._discover(issuer)
            keys.by_kid = _usable(await self._json(url), issuer)
            keys.fetched_at = now
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError):
            return

    async def _discover(self, issuer: Issuer) -> str:
        found = await self._json(issuer.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != issuer.issuer or not isinstance(found.get("jwks_uri"), str):
            raise ValueError("discovery names another issuer")
        return cast("str", found["jwks_uri"])

    async def _json(self, url: str) -> dict[str, Any]:
        answer = await self._http.get(url, timeout=5.0)
        answer.raise_for_status()
        if len(answer.content) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        value = answer.json()
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return cast("dict[str, Any]", value)


def _usable(jwks: Mapping[str, Any], issuer: Issuer) -> dict[str, jwt.PyJWK]:
    """The signature keys of pinned algorithms; what is not understood is left out (RFC 7517 section 5)."""
    listed = jwks.get("keys")
    if not isinstance(listed, list):
        raise ValueError("not a JWKS")
    found: dict[str, jwt.PyJWK] = {}
    for jwk in listed:
        key = _key_of(jwk) if isinstance(jwk, dict) else None
        if key is not None and key.algorithm_name in issuer.algorithms:
            found[str(key.key_id or "")] = key
    return found


def _key_of(jwk: dict[str, Any]) -> jwt.PyJWK | None:
    if jwk.get("use", "sig") != "sig" or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        return jwt.PyJWK(jwk)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def _claims(id_token: str, key: jwt.PyJWK, issuer: Issuer, now: float) -> dict[str, Any]:
    """Signature, issuer and the claims an ID token must have; times against the broker's own clock."""
    try:
        claims = jwt.decode(
            id_token,
            key,
            algorithms=list(issuer.algorithms),
            issuer=issuer.issuer,
            options={
                "require": ["iss", "sub", "aud", "exp", "iat"],
                "verify_aud": False,  # judged by the flow against the agent's registered clients
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.PyJWTError as bad:
        raise _no("its signature or claims do not hold") from bad
    expires, issued, begins = (_seconds(claims, name) for name in ("exp", "iat", "nbf"))
    if now >= expires + LEEWAY_S or issued > now + LEEWAY_S or begins > now + LEEWAY_S:
        raise _no("it has expired or is not valid yet")
    return claims


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """A time; `nbf` may be absent. JSON as Python reads it has NaN, which no comparison would refuse."""
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise _no(f"{name} is not a time")
    return float(value)


def _proof(id_token: str, claims: Mapping[str, Any], now: float) -> PersonProof:
    if claims.get("auth_time") is None:
        raise _no("it has no auth_time: ask the issuer for it with max_age", rule="auth_time")
    auth_time, nonce = _seconds(claims, "auth_time"), claims.get("nonce")
    if auth_time > now + LEEWAY_S:
        raise _no("its auth_time is in the future", rule="auth_time")
    sub = claims["sub"]
    if not isinstance(sub, str) or not 0 < len(sub) <= SUBJECT_MAX or not sub.isprintable():
        raise _no(f"sub is not 1 to {SUBJECT_MAX} printable characters")
    return PersonProof(
        issuer=claims["iss"],
        subject=claims["sub"],
        clients=_clients(claims),
        auth_time=auth_time,
        nonce=nonce if isinstance(nonce, str) else None,
        digest=hashlib.sha256(id_token.rpartition(".")[0].encode()).hexdigest(),
        until=float(claims["exp"]),
        may_act=_may_act(claims),
        acr=_acr(claims),
    )


def _public(key: jwt.PyJWK) -> dict[str, object]:
    """The public JWK (RFC 7517), whatever else the issuer published."""
    jwk = cast("dict[str, object]", key.Algorithm.to_jwk(key.key, as_dict=True))
    told: dict[str, object] = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    return {**told, "alg": key.algorithm_name, **({"kid": key.key_id} if key.key_id else {})}


def _acr(claims: Mapping[str, Any]) -> str | None:
    """OpenID Connect Core 1.0 section 2: one string; what is none says nothing."""
    acr = claims.get("acr")
    return acr if isinstance(acr, str) else None


def _may_act(claims: Mapping[str, Any]) -> str | None:
    """Who alone may act with it (RFC 8693 section 4.4); what names an actor in another way is not for us."""
    if "may_act" not in claims:
        return None
    named = claims["may_act"]
    if not isinstance(named, dict) or set(named) != {"sub"} or not isinstance(named["sub"], str):
        raise _no("its may_act does not name one SPIFFE ID by sub alone", rule="may_act")
    return named["sub"]


def _clients(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom the token was made for: `azp`, which must be among the audiences, or the one audience."""
    audience, party = claims["aud"], claims.get("azp")
    clients = [audience] if isinstance(audience, str) else audience
    if not isinstance(clients, list) or not all(isinstance(name, str) for name in clients):
        raise _no("aud is not a string or an array of them")
    names = cast("list[str]", clients)
    if party is not None and party not in names:
        raise _no("azp is not among its audiences")
    if len(names) != 1 and party is None:
        raise _no("not one audience, and no azp")
    return (names[0] if party is None else str(party),)


def _no(what: str, rule: str | None = None) -> Refused:
    return Refused("human_proof", f"the ID token was not accepted: {what}", rule=rule)
