"""Verify our two tokens offline: no I/O, and `now` is an argument.

Each function fixes its `typ`, so no token of one kind ever passes for another, whatever key signed it. That a
token verifies is not a go-ahead: a step token opens nothing, and a credential must still be bound to its
presenter's key (`cnf`), to the request that arrived, and be redeemed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast, get_args

from stepwrit.digest import JsonValue
from stepwrit.jws import TokenRefused, UnknownKey, VerifyKey, split, verify
from stepwrit.tokens import ClaimError, CredentialClaims, StepToken
from stepwrit.wire import (
    ACCEPTED_VERSIONS,
    CLAIM_STEP,
    CREDENTIAL_MAX_S,
    STEP_TOKEN_MAX_S,
    TYP_CREDENTIAL,
    TYP_STEP_TOKEN,
    Impact,
    Proof,
)

Keys = Mapping[str, VerifyKey]
_IMPACTS: Final = frozenset[str](get_args(Impact))
_PROOFS: Final = frozenset[str | None](get_args(Proof)) | {None}


def key_set(jwks: Mapping[str, object]) -> dict[str, VerifyKey]:
    """The ES256 keys of a parsed JWKS by `kid`; keys of other kinds are ignored (RFC 7517 section 5).

    Raises:
        TokenRefused: `key`: no key list, an EC P-256 key without a `kid` or unusable, or one `kid` twice.
    """
    listed = jwks.get("keys")
    if not isinstance(listed, list):
        raise TokenRefused("key", "not a JWKS")
    found: dict[str, VerifyKey] = {}
    for each in cast("list[object]", listed):
        jwk = cast("Mapping[str, object]", each) if isinstance(each, Mapping) else {}
        if (jwk.get("kty"), jwk.get("crv"), jwk.get("use", "sig")) != ("EC", "P-256", "sig"):
            continue
        kid = jwk.get("kid")
        if not isinstance(kid, str) or kid in found:
            raise TokenRefused("key", "a key of the JWKS has no kid of its own")
        found[kid] = VerifyKey.from_jwk(jwk)
    return found


def verify_step_token(
    token: str, keys: Keys, *, issuer: str, trust_domain: str, now: float, leeway: float
) -> StepToken:
    """The claims of a step token (`typ txntoken+jwt`). keys: the issuer's step-token keys by `kid`.

    now, leeway: seconds. The caller still checks the initiator's proof and that it is the performer.

    Raises:
        TokenRefused: see `stepwrit.jws.Reason`; `UnknownKey` when a fresher key set may help.
    """
    claims = _opened(token, keys, TYP_STEP_TOKEN)
    try:
        read = StepToken.of(claims)
    except ClaimError as bad:
        raise TokenRefused("claims", str(bad)) from None
    if read.proof not in _PROOFS:
        raise TokenRefused("claims", "tctx.proof: unknown value")
    _from_to(read.issuer, issuer, read.trust_domain, trust_domain)
    _in_time(read.iat, read.exp, now, leeway, STEP_TOKEN_MAX_S)
    return read


def verify_credential(
    token: str, keys: Keys, *, issuer: str, audience: str, now: float, leeway: float
) -> CredentialClaims:
    """The claims of a credential (`typ at+jwt`, RFC 9068). keys: the issuer's credential keys by `kid`.

    now, leeway: seconds. The caller still checks the DPoP proof against `jkt`, the request's digest, and
    redeems.

    Raises:
        TokenRefused: see `stepwrit.jws.Reason`; `UnknownKey` when a fresher key set may help.
    """
    claims = _opened(token, keys, TYP_CREDENTIAL)
    try:
        read = CredentialClaims.of(claims)
    except ClaimError as bad:
        raise TokenRefused("claims", str(bad)) from None
    if read.impact not in _IMPACTS:
        raise TokenRefused("claims", "authorization_details.impact: unknown value")
    if read.chain[:1] != (read.performer,):  # RFC 8693 section 4.1: the outermost actor is the current one
        raise TokenRefused("claims", "act and client_id name different performers")
    _from_to(read.issuer, issuer, read.audience, audience)
    _in_time(read.iat, read.exp, now, leeway, CREDENTIAL_MAX_S)
    return read


def _opened(token: str, keys: Keys, typ: str) -> dict[str, JsonValue]:
    unverified = split(token)
    kid = unverified.header.kid
    if unverified.header.typ != typ:  # before the key: another kind of token has its own keys
        raise TokenRefused("type", f"expected {typ}")
    if kid is None:
        raise TokenRefused("key", "a token names its key by kid")
    if kid not in keys:
        raise UnknownKey
    claims = verify(unverified, keys[kid], typ=typ)
    step = claims.get(CLAIM_STEP)
    version = step.get("v") if isinstance(step, dict) else None
    if type(version) is not int or version not in ACCEPTED_VERSIONS:
        raise TokenRefused("version", "this version of the step claim is not understood")
    return claims


def _from_to(issuer: str, expected_issuer: str, audience: str, expected_audience: str) -> None:
    if issuer != expected_issuer:
        raise TokenRefused("issuer", "the token is by another issuer")
    if audience != expected_audience:
        raise TokenRefused("audience", "the token is for another audience")


def _in_time(iat: int, exp: int, now: float, leeway: float, longest: int) -> None:
    if not 0 < exp - iat <= longest:
        raise TokenRefused("life", f"a life of this type is 1 to {longest} s")
    if not now < exp + leeway:  # said this way round, a clock that answers NaN refuses
        raise TokenRefused("expired", "the token has expired")
    if not iat <= now + leeway:
        raise TokenRefused("not_yet_valid", "the token is from the future")
