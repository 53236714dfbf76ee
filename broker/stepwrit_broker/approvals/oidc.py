"""The broker as an OpenID Connect relying party: authorization code with PKCE, nothing else.

Sources: OpenID Connect Core 1.0 section 3.1, Discovery 1.0; RFC 7636 (PKCE), RFC 9207 (`iss` in the answer),
RFC 9470 (step-up), RFC 9700 (best current practice). The ID token is judged elsewhere, by the code that
judges all of them; the access token is dropped unread.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

import httpx2

from stepwrit.digest import b64u
from stepwrit.jws import SigningKey
from stepwrit_broker.core.errors import Refused, Unavailable, Unproven
from stepwrit_broker.ports import Clock, Entropy
from stepwrit_broker.ports_approval import Leaving

ClientAuth = Literal["none", "client_secret_basic", "private_key_jwt"]
TIMEOUT_S: Final = 5.0
CACHE_S: Final = 600.0
RETRY_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 262_144
MAX_CODE_CHARS: Final = 4_096
ASSERTION_S: Final = 60
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_WORD: Final = re.compile(r"[a-z_]{1,60}\Z")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One OpenID provider and our client there. secret, key: for the `auth` that needs it."""

    issuer: str
    client_id: str
    redirect_uri: str
    label: str
    acr: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("openid",)
    auth: ClientAuth = "none"
    secret: str = field(default="", repr=False)
    key: SigningKey | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoints:
    """Of the provider's own metadata (Discovery 1.0 section 3). sends_iss: as RFC 9207 section 3. acr: what
    it says that it can; empty where it does not say.
    """

    authorization: str
    token: str
    sends_iss: bool
    acr: frozenset[str]


class OidcSignIns:
    """The `SignIns` port. redirect_uri: must be registered with the provider, character by character."""

    def __init__(self, provider: Provider, http: httpx2.AsyncClient, clock: Clock, entropy: Entropy) -> None:
        self._provider, self._http, self._clock, self._entropy = provider, http, clock, entropy
        self._known: _Endpoints | None = None
        self._fetched_at = self._tried_at = -1e18
        self._fetching = asyncio.Lock()
        self.issuer: Final = provider.issuer
        self.client_id: Final = provider.client_id
        self.label: Final = provider.label
        self.acr: Final = frozenset(provider.acr)

    async def address(self, leaving: Leaving) -> str:
        """An authentication request (Core section 3.1.2.1). Raises Unavailable."""
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self._provider.redirect_uri,
            "scope": " ".join(self._provider.scopes),
            "state": leaving.state,
            "nonce": leaving.nonce,
            "code_challenge": b64u(hashlib.sha256(leaving.verifier.encode()).digest()),
            "code_challenge_method": "S256",
            **self._strength(leaving),
        }
        endpoint = (await self._endpoints()).authorization
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def reached(self) -> frozenset[str]:
        """The `acr` values that the provider says it can, empty where it does not say. Raises Unavailable."""
        return (await self._endpoints()).acr

    def _strength(self, leaving: Leaving) -> dict[str, str]:
        anew = {"prompt": "login", "acr_values": " ".join(self._provider.acr)}
        return {"max_age": str(leaving.max_age_s), **(anew if leaving.step_up else {})}

    async def redeem(self, answer: Mapping[str, str], leaving: Leaving) -> str:
        """The ID token for an authorization response (Core section 3.1.3). Raises as the port says."""
        endpoints = await self._endpoints()
        _check_iss(answer, self.issuer, endpoints)
        if "error" in answer:
            raise _said_no(answer["error"])
        code = answer.get("code", "")
        if not 0 < len(code) <= MAX_CODE_CHARS:
            raise Unproven("invalid_proof", "the identity provider's answer holds no code", rule="code")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._provider.redirect_uri,
            "code_verifier": leaving.verifier,
        }
        members = await self._ask(endpoints.token, form)
        id_token = members.get("id_token")
        if not isinstance(id_token, str):
            raise Unproven("invalid_proof", "the identity provider gave no ID token", rule="id_token")
        return id_token

    async def _ask(self, url: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        more, headers = self._authenticated()
        try:
            reply = await self._http.post(url, data={**form, **more}, headers=headers, timeout=TIMEOUT_S)
        except (httpx2.HTTPError, httpx2.InvalidURL) as lost:
            raise self._doubt() from lost
        if reply.status_code >= 500 or reply.status_code == 429:
            raise self._doubt()
        if reply.status_code != 200:
            raise Unproven("invalid_proof", "the identity provider did not take the code", rule="code")
        return _object(reply, self._doubt)

    def _authenticated(self) -> tuple[dict[str, str], dict[str, str]]:
        """Form members and headers by which our client is known (Core section 9)."""
        provider = self._provider
        if provider.auth == "client_secret_basic":  # RFC 6749 section 2.3.1: each part is form-encoded first
            pair = f"{quote(self.client_id, safe='')}:{quote(provider.secret, safe='')}"
            return {}, {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        if provider.auth == "private_key_jwt" and provider.key is not None:
            assertion = self._assertion(provider.key)
            return {
                "client_id": self.client_id,
                "client_assertion_type": _ASSERTION,
                "client_assertion": assertion,
            }, {}
        return {"client_id": self.client_id}, {}

    def _assertion(self, key: SigningKey) -> str:
        """RFC 7523 section 3, for the issuer alone and for a minute."""
        now = int(self._clock.now())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "iat": now,
            "exp": now + ASSERTION_S,
            "jti": self._entropy.bytes(16).hex(),
        }
        return key.sign("JWT", claims)

    async def _endpoints(self) -> _Endpoints:
        """At most CACHE_S old; older while the metadata cannot be had. Raises Unavailable."""
        async with self._fetching:
            now = self._clock.now()
            if now - self._fetched_at >= CACHE_S and now - self._tried_at >= RETRY_S:
                self._tried_at = now
                await self._discover(now)
        if self._known is None:
            raise self._doubt()
        return self._known

    async def _discover(self, now: float) -> None:
        url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            reply = await self._http.get(url, timeout=TIMEOUT_S)
            if reply.status_code == 200:
                self._known = _read(_object(reply, self._doubt), self.issuer)
                self._fetched_at = now
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, Unavailable):
            return  # what is known serves on; if nothing is, the caller is told

    def _doubt(self) -> Unavailable:
        return Unavailable(
            "unavailable",
            "the identity provider cannot be reached, or does not answer as one",
            rule=f"oidc {self.issuer}",
            retry_after=RETRY_S,
        )


def _check_iss(answer: Mapping[str, str], issuer: str, endpoints: _Endpoints) -> None:
    """RFC 9207 section 2.4: an answer of another issuer, or of nobody where this one says who it is."""
    said = answer.get("iss")
    if said != issuer and (said is not None or endpoints.sends_iss):
        raise Unproven("invalid_proof", "the answer is of another identity provider", rule="iss")


def _said_no(error: str) -> Refused:
    word = error if _WORD.match(error) else "something that is no error code"
    return Refused("access_denied", f"the identity provider said no: {word}", rule="identity provider")


def _object(reply: httpx2.Response, doubt: Callable[[], Unavailable]) -> Mapping[str, Any]:
    try:
        if len(reply.content) > MAX_ANSWER_BYTES:
            raise ValueError("too large")
        value = reply.json()
    except (ValueError, RecursionError) as bad:
        raise doubt() from bad
    if not isinstance(value, dict):
        raise doubt()
    return cast("Mapping[str, Any]", value)


def _read(metadata: Mapping[str, Any], issuer: str) -> _Endpoints:
    """Raises ValueError for another issuer's, or one that we cannot speak to safely."""
    methods = metadata.get("code_challenge_methods_supported", ["S256"])
    if metadata.get("issuer") != issuer or not isinstance(methods, list) or "S256" not in methods:
        raise ValueError("another issuer, or no PKCE with S256")
    return _Endpoints(
        authorization=_url(metadata.get("authorization_endpoint"), issuer),
        token=_url(metadata.get("token_endpoint"), issuer),
        sends_iss=metadata.get("authorization_response_iss_parameter_supported") is True,
        acr=_words(metadata.get("acr_values_supported")),
    )


def _words(value: object) -> frozenset[str]:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    return frozenset(each for each in listed if isinstance(each, str))


def _url(value: object, issuer: str) -> str:
    """https; on loopback, where the issuer is there too, http."""
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.fragment or parts.username or not parts.hostname:
        raise ValueError("not an endpoint")
    is_local = urlsplit(issuer).scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise ValueError("an endpoint without TLS")
    return cast("str", value)
