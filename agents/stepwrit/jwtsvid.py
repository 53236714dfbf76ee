"""The one verifier of JWT-SVIDs.

Source: JWT-SVID.md sections 2-5. The signature is PyJWT's; what the specification forbids and PyJWT does
not know is here. A token is verified only by the authorities of the trust domain that its `sub` names
(SPIFFE_Workload_API.md section 6.3), and never by a key that it brings or points to itself.

A JWT-SVID is a bearer: it proves that its holder was given it, not that its holder is its subject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

import jwt

from stepwrit.digest import DigestError, JsonValue, parse_json, unb64u
from stepwrit.spiffe_bundle import JwtAuthorities, JwtKey
from stepwrit.spiffe_id import SCHEME, check_workload_id, trust_domain_of
from stepwrit.wire import LEEWAY_S

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
)
MAX_TOKEN_BYTES: Final = 16_384
_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_LATEST: Final = 253_402_300_800  # the year 10000

Fault = Literal[
    "malformed", "too_large", "serialization", "header", "type", "algorithm", "no_key_id",
    "bad_subject", "not_spiffe", "root_path", "bad_spiffe_id",
    "no_audience", "audience", "many_audiences", "no_expiry", "no_issued_at", "bad_time",
    "expired", "not_yet_valid", "too_long_lived",
    "unknown_trust_domain", "refused_trust_domain", "stale_bundle", "two_bundle_sources",
    "empty_bundle", "unknown_key", "signature",
]  # fmt: skip


class JwtSvidRefused(Exception):  # noqa: N818  reads as a verdict
    """Not a valid JWT-SVID here. `reason`: one word of `Fault`; `detail`: for the log, never the token."""

    def __init__(self, reason: Fault, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Final[Fault] = reason
        self.detail: Final = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedJwtSvid:
    """What a token proved. expires_at, issued_at: seconds since the epoch; issued_at None if it says nothing.

    digest: names the token in logs and pins (hex SHA-256 of what was signed: a signature may be rewritten).
    """

    spiffe_id: str
    trust_domain: str
    expires_at: float
    issued_at: float | None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A token taken apart; nothing in here is true yet."""

    text: str
    algorithm: str
    kid: str
    claims: Mapping[str, JsonValue]
    spiffe_id: str


def verify_jwt_svid(
    token: str,
    *,
    audience: str,
    authorities: Mapping[str, JwtAuthorities],
    now: float,
    sole_audience: bool = True,
    max_life: float | None = None,
) -> VerifiedJwtSvid:
    """Verify one token at `now` (seconds since the epoch).

    audience: who we are. sole_audience: it must be the only one (draft-ietf-oauth-spiffe-client-auth).
    authorities: trust domain -> its keys; an empty set distrusts the domain. max_life: seconds from `iat` to
    `exp`; with it a token without `iat` is refused. Beginnings have LEEWAY_S of leeway, the end has none.

    Raises:
        JwtSvidRefused: with the first fault found.
    """
    unverified = split(token)
    keys = _authorities(authorities, trust_domain_of(unverified.spiffe_id))
    _check_audience(unverified.claims, audience, sole=sole_audience)
    expires, issued = _check_times(unverified.claims, now, max_life)
    _check_signature(unverified, keys)
    return VerifiedJwtSvid(
        spiffe_id=unverified.spiffe_id,
        trust_domain=trust_domain_of(unverified.spiffe_id),
        expires_at=expires,
        issued_at=issued,
        digest=digest_of(token),
    )


def digest_of(token: str) -> str:
    """Hex SHA-256 of a compact token without its signature: an ECDSA signature has a second form."""
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def split(token: str) -> Unverified:
    """Take a token apart, by every rule that needs no key. Raises JwtSvidRefused."""
    if len(token) > MAX_TOKEN_BYTES:
        raise JwtSvidRefused("too_large", f"more than {MAX_TOKEN_BYTES} bytes")
    if token.lstrip().startswith("{"):
        raise JwtSvidRefused("serialization", "JWS JSON serialization (JWT-SVID.md 2)")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise JwtSvidRefused("malformed", "not three parts")
    algorithm, kid = _header(_part(parts[0]))
    claims = _part(parts[1])
    _decoded(parts[2])
    return Unverified(
        text=token, algorithm=algorithm, kid=kid, claims=claims, spiffe_id=_subject(claims.get("sub"))
    )


def _part(encoded: str) -> Mapping[str, JsonValue]:
    try:
        value = parse_json(_decoded(encoded))
    except DigestError as bad:
        raise JwtSvidRefused("malformed", str(bad)) from None
    if not isinstance(value, dict):
        raise JwtSvidRefused("malformed", "not a JSON object")
    return value


def _decoded(encoded: str) -> bytes:
    """Strict, also for the signature, which PyJWT would read with padding and strays (RFC 7515 section 2)."""
    try:
        return unb64u(encoded)
    except DigestError as bad:
        raise JwtSvidRefused("malformed", str(bad)) from None


def _header(header: Mapping[str, JsonValue]) -> tuple[str, str]:
    """`alg`, `kid` and `typ` are all that may be there (JWT-SVID.md 2); without `kid` no key is named."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JwtSvidRefused("algorithm", "not RS, ES or PS with 256, 384 or 512 bits (JWT-SVID.md 2.1)")
    if not _HEADERS.issuperset(header):
        raise JwtSvidRefused("header", "a header beside alg, kid and typ (JWT-SVID.md 2)")
    if header.get("typ", "JWT") not in ("JWT", "JOSE"):
        raise JwtSvidRefused("type", "typ is neither JWT nor JOSE (JWT-SVID.md 2.3)")
    if not isinstance(kid, str) or not kid:
        raise JwtSvidRefused("no_key_id", "kid names no key")
    return algorithm, kid


def _subject(subject: object) -> str:
    if not isinstance(subject, str) or not subject:
        raise JwtSvidRefused("bad_subject", "sub: missing or not a string (JWT-SVID.md 3.1)")
    if not subject.startswith(SCHEME):
        raise JwtSvidRefused("not_spiffe", "the scheme of sub is not spiffe")
    if not subject[len(SCHEME) :].partition("/")[2]:
        raise JwtSvidRefused("root_path", "a workload has a non-root path")
    try:
        return check_workload_id(subject)
    except ValueError as bad:
        raise JwtSvidRefused("bad_spiffe_id", str(bad)) from None


def _authorities(authorities: Mapping[str, JwtAuthorities], domain: str) -> JwtAuthorities:
    keys = authorities.get(domain)
    if keys is None:
        raise JwtSvidRefused("unknown_trust_domain", domain)
    if not keys:
        raise JwtSvidRefused("empty_bundle", domain)
    return keys


def _check_audience(claims: Mapping[str, JsonValue], audience: str, *, sole: bool) -> None:
    claimed = claims.get("aud")
    listed = [claimed] if isinstance(claimed, str) else claimed
    if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
        raise JwtSvidRefused("no_audience", "aud: missing or not strings (JWT-SVID.md 3.2)")
    if audience not in listed:
        raise JwtSvidRefused("audience", "made for somebody else")
    if sole and len(listed) != 1:
        raise JwtSvidRefused("many_audiences", "the audience must be the only one")


def _check_times(
    claims: Mapping[str, JsonValue], now: float, max_life: float | None
) -> tuple[float, float | None]:
    expires, issued, begins = (_time(claims, name) for name in ("exp", "iat", "nbf"))
    if expires is None:
        raise JwtSvidRefused("no_expiry", "exp: missing (JWT-SVID.md 3.3)")
    if not now < expires:
        raise JwtSvidRefused("expired")
    if any(each is not None and each > now + LEEWAY_S for each in (issued, begins)):
        raise JwtSvidRefused("not_yet_valid", "iat or nbf is in the future")
    if max_life is not None:
        if issued is None:
            raise JwtSvidRefused("no_issued_at", "without iat nobody knows how long it lives")
        if expires - issued > max_life:
            raise JwtSvidRefused("too_long_lived", f"lives more than {max_life:g} s")
    return expires, issued


def _time(claims: Mapping[str, JsonValue], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise JwtSvidRefused("bad_time", f"{name}: not a time")
    return float(value)


def _check_signature(unverified: Unverified, keys: JwtAuthorities) -> None:
    key = keys.get(unverified.kid)
    if key is None:
        raise JwtSvidRefused("unknown_key", "no authority of the trust domain has this kid")
    if unverified.algorithm not in key.algorithms:
        raise JwtSvidRefused("algorithm", "not an algorithm of this key")
    if not _holds(unverified, key):
        raise JwtSvidRefused("signature", "the signature does not hold")


_JWS: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


def _holds(unverified: Unverified, key: JwtKey) -> bool:
    try:
        cast("object", _JWS.decode(unverified.text, key.public, algorithms=[unverified.algorithm]))
    except (jwt.PyJWTError, ValueError):
        return False
    return True
