"""Proofs that the sender holds a key: DPoP (RFC 9449), and the initiator's proof over one step.

Both are JWS with the public key in the header. A proof says who holds the key, not who that is: the key is
bound to a workload elsewhere (`cnf.jkt`, or the attested connection).

Two things are the caller's: that there is exactly one `DPoP` header (RFC 9449 section 4.3, check 1), and that
a `jti` is seen once per key until `usable_until`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from stepwrit.digest import DigestError, JsonValue, body_digest, normalise_url
from stepwrit.jws import Reason, SigningKey, TokenRefused, Unverified, VerifyKey, split, verify
from stepwrit.wire import TYP_DPOP, TYP_STEP_PROOF

MAX_AGE_S: Final = 60
MAX_JTI_CHARS: Final = 128
MAX_URL_CHARS: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class DpopProof:
    """A proof that held. iat, usable_until: seconds since the epoch; remember `jti` until `usable_until`.

    nonce: as it says; whose it is was only looked at where one was demanded.
    """

    jkt: str
    jti: str
    iat: float
    usable_until: float
    key: VerifyKey
    nonce: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProof:
    """The initiator's proof over this step token, these arguments and this round. Fields as in DpopProof."""

    jkt: str
    jti: str
    iat: float
    usable_until: float
    key: VerifyKey


def token_hash(token: str) -> str:
    """Base64url SHA-256 of a token's ASCII bytes: `ath` (RFC 9449 section 4.2) and `tkh`.

    Raises:
        TokenRefused: `malformed`: a token is ASCII.
    """
    try:
        return body_digest(token.encode("ascii"))
    except UnicodeEncodeError:
        raise TokenRefused("malformed", "a token is ASCII") from None


# --- DPoP


def make_proof(
    key: SigningKey,
    htm: str,
    htu: str,
    now: float,
    jti: str,
    *,
    ath: str | None = None,
    nonce: str | None = None,
) -> str:
    """A DPoP proof for one request. `htu`: the request's URL; query and fragment are left out.

    Raises:
        DigestError: `htu` is not an absolute http(s) URL.
    """
    claims: dict[str, object] = {"htm": htm, "htu": _htu(htu), "iat": int(now), "jti": jti}
    if ath is not None:
        claims["ath"] = ath
    if nonce is not None:
        claims["nonce"] = nonce
    return key.sign(TYP_DPOP, claims, embed_jwk=True)


def verify_proof(
    proof: str,
    *,
    htm: str,
    htu: str,
    now: float,
    leeway: float,
    max_age: float = MAX_AGE_S,
    ath: str | None = None,
    nonce: str | None = None,
    jkt: str | None = None,
) -> DpopProof:
    """Checks 2 to 12 of RFC 9449 section 4.3. What is None is not demanded.

    htu: from configuration and the request's path, never from `Host`. ath: `token_hash` of the presented
    token. nonce: the one we gave. jkt: the key that the token is bound to.

    Raises:
        TokenRefused: `nonce` (answer with a fresh one), `request`, `token`, `binding`, `expired`,
            `not_yet_valid`, `claims`, or what `split` and `verify` refuse.
        DigestError: our own `htu` is not a URL.
    """
    key, claims = _opened(proof, TYP_DPOP)
    _same(claims, "htm", htm, "request")
    if claims.get("htu") != htu and _claimed_htu(claims) != _htu(htu):
        raise TokenRefused("request", "htu is another URL")
    if nonce is not None:
        _same(claims, "nonce", nonce, "nonce")
    if ath is not None:
        _same(claims, "ath", ath, "token")
    _bound(key, jkt)
    iat, until = _fresh(claims, now, leeway, max_age)
    shown = claims.get("nonce")
    return DpopProof(
        jkt=key.thumbprint,
        jti=_jti(claims),
        iat=iat,
        usable_until=until,
        key=key,
        nonce=shown if isinstance(shown, str) else None,
    )


@lru_cache(maxsize=512)
def _htu(url: str) -> str:
    return normalise_url(url.partition("#")[0].partition("?")[0])


def _claimed_htu(claims: Mapping[str, JsonValue]) -> str:
    claimed = claims.get("htu")
    if not isinstance(claimed, str) or len(claimed) > MAX_URL_CHARS:
        raise TokenRefused("claims", "htu: missing, too long or not a string")
    try:
        return _htu(claimed)
    except DigestError:
        raise TokenRefused("request", "htu is not a URL") from None


# --- the initiator's proof over a step


def make_step_proof(
    key: SigningKey,
    *,
    token: str,
    args: str,
    round: int,  # noqa: A002  the wire's word
    now: float,
    jti: str,
) -> str:
    """The proof that goes with a step token in `_meta`. `args`: `args_digest` of the arguments sent."""
    claims = {"tkh": token_hash(token), "args": args, "round": round, "iat": int(now), "jti": jti}
    return key.sign(TYP_STEP_PROOF, claims, embed_jwk=True)


def verify_step_proof(
    proof: str,
    *,
    token: str,
    args: str,
    round: int,  # noqa: A002  the wire's word
    jkt: str,
    now: float,
    leeway: float,
    max_age: float = MAX_AGE_S,
) -> StepProof:
    """Pass if the holder of `jkt` (the token's `cnf`) sent this very token, arguments digest and round.

    Raises:
        TokenRefused: `token`, `arguments`, `round`, `binding`, `expired`, `not_yet_valid`, `claims`, or what
            `split` and `verify` refuse.
    """
    key, claims = _opened(proof, TYP_STEP_PROOF)
    _bound(key, jkt)
    _same(claims, "tkh", token_hash(token), "token")
    _same(claims, "args", args, "arguments")
    claimed = claims.get("round")
    if type(claimed) is not int or claimed != round:
        raise TokenRefused("round", "the proof is for another round")
    iat, until = _fresh(claims, now, leeway, max_age)
    return StepProof(jkt=key.thumbprint, jti=_jti(claims), iat=iat, usable_until=until, key=key)


# --- what both share


def _opened(proof: str, typ: str) -> tuple[VerifyKey, dict[str, JsonValue]]:
    unverified: Unverified = split(proof)
    key = unverified.header.key
    if key is None:
        raise TokenRefused("key", "a proof holds its key as jwk")
    return key, verify(unverified, key, typ=typ)


def _same(claims: Mapping[str, JsonValue], name: str, expected: str, reason: Reason) -> None:
    claimed = claims.get(name)
    if not isinstance(claimed, str):
        missing: Reason = "nonce" if name == "nonce" else "claims"
        raise TokenRefused(missing, f"{name}: missing or not a string")
    if not hmac.compare_digest(claimed.encode(), expected.encode()):
        raise TokenRefused(reason, f"{name} is another one")


def _bound(key: VerifyKey, jkt: str | None) -> None:
    if jkt is not None and not hmac.compare_digest(key.thumbprint.encode(), jkt.encode()):
        raise TokenRefused("binding", "the proof is by another key than the token is bound to")


def _fresh(claims: Mapping[str, JsonValue], now: float, leeway: float, max_age: float) -> tuple[float, float]:
    iat = claims.get("iat")
    if isinstance(iat, bool) or not isinstance(iat, int | float):
        raise TokenRefused("claims", "iat: missing or not a number")
    until = iat + max_age + leeway
    if not now <= until:  # said this way round, a clock that answers NaN refuses
        raise TokenRefused("expired", f"the proof is older than {max_age:g} s")
    if not iat <= now + leeway:
        raise TokenRefused("not_yet_valid", "the proof is from the future")
    return iat, until


def _jti(claims: Mapping[str, JsonValue]) -> str:
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI_CHARS:
        raise TokenRefused("claims", f"jti: missing, or not 1 to {MAX_JTI_CHARS} characters")
    return jti
