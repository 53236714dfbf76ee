"""Step tokens and action tokens by this broker's own keys.

What this process signed it recognises by the hash of its exact bytes, without verifying its own signature
again: nobody can make those bytes but by having been given them.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Generic, TypeVar

from stepwrit.dpop import token_hash, verify_proof, verify_step_proof
from stepwrit.jws import TokenRefused, split, verify
from stepwrit.tokens import ClaimError, CredentialClaims, StepToken
from stepwrit.verify import verify_step_token
from stepwrit.wire import LEEWAY_S, TYP_CREDENTIAL, TYP_STEP_TOKEN
from stepwrit_broker.core.errors import Refused, Unproven
from stepwrit_broker.keys.keyring import Keys
from stepwrit_broker.ports import Presented, ProofUse

REMEMBERED = 16_384
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_T = TypeVar("_T")


class _Made(Generic[_T]):
    """What was signed here lately, by the hash of its bytes; bounded, oldest out."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _T] = OrderedDict()

    def put(self, token: str, claims: _T) -> None:
        self._known[hashlib.sha256(token.encode()).digest()] = claims
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def get(self, token: str) -> _T | None:
        return self._known.get(hashlib.sha256(token.encode("utf-8", "replace")).digest())


class OwnStepTokens:
    """The StepTokens port."""

    def __init__(self, ring: Keys, *, issuer: str, trust_domain: str) -> None:
        self._ring, self._issuer, self._trust_domain = ring, issuer, trust_domain
        self._made: _Made[StepToken] = _Made()

    def mint(self, token: StepToken, now: float) -> str:
        """A compact JWS of `typ txntoken+jwt`."""
        made = self._ring.signing_key(now).sign_text(TYP_STEP_TOKEN, _encode(token.claims()))
        self._made.put(made, token)
        return made

    def read(self, unverified: str, now: float) -> StepToken:
        """The verified claims. Raises Unproven."""
        token = self._made.get(unverified) or self._verified(unverified, now)
        if now > token.exp + LEEWAY_S:
            raise Unproven(
                "expired", "the step token has expired: the initiator asks for a fresh one", rule="step_token"
            )
        return token

    def _verified(self, unverified: str, now: float) -> StepToken:
        try:
            return verify_step_token(
                unverified,
                self._ring.verify_keys(now),
                issuer=self._issuer,
                trust_domain=self._trust_domain,
                now=now,
                leeway=LEEWAY_S,
            )
        except TokenRefused as refused:
            code = "expired" if refused.reason == "expired" else "invalid_token"
            raise Unproven(
                code, "the step token is not one of this broker's", rule=refused.reason
            ) from refused

    def initiated(self, proof: str, *, token: str, args: str, round_: int, jkt: str, now: float) -> ProofUse:
        """The initiator's proof over this very token, arguments and round. Raises Unproven."""
        try:
            shown = verify_step_proof(
                proof, token=token, args=args, round=round_, jkt=jkt, now=now, leeway=LEEWAY_S
            )
        except TokenRefused as refused:
            raise Unproven(
                "invalid_proof", "the initiator's proof does not hold", rule=refused.reason
            ) from refused
        return ProofUse(kind="step", key=f"{shown.jkt}.{shown.jti}", until=shown.usable_until)


class OwnCredentials:
    """The Credentials port."""

    def __init__(self, ring: Keys, *, issuer: str) -> None:
        self._ring, self._issuer = ring, issuer
        self._made: _Made[str] = _Made()

    def sign(self, plan: str, now: float) -> str:
        """A compact JWS of `typ at+jwt` over the stored plan, byte for byte."""
        made = self._ring.signing_key(now).sign_text(TYP_CREDENTIAL, plan)
        self._made.put(made, plan)
        return made

    def read(self, unverified: str, now: float) -> CredentialClaims:
        """Signature, type and issuer; a dead credential can still be reported. Raises Unproven."""
        known = self._made.get(unverified)
        if known is not None:
            return CredentialClaims.of(json.loads(known))
        try:
            token = split(unverified)
            key = self._ring.verify_keys(now).get(token.header.kid or "")
            if key is None:
                raise TokenRefused("key", "unknown key")
            claims = CredentialClaims.of(verify(token, key, typ=TYP_CREDENTIAL))
        except (TokenRefused, ClaimError) as refused:
            raise Unproven("invalid_token", "the credential is not one of this broker's") from refused
        if claims.issuer != self._issuer:
            raise Unproven("invalid_token", "the credential is not one of this broker's", rule="iss")
        return claims

    def present(self, unverified: str, proof: str, *, method: str, url: str, now: float) -> Presented:
        """Credential and proof together; no leeway on the credential's end. Raises Unproven."""
        claims = self.read(unverified, now)
        if now >= claims.exp:
            raise Unproven("expired", "the credential has expired", rule="credential")
        try:
            shown = verify_proof(
                proof,
                htm=method,
                htu=url,
                now=now,
                leeway=LEEWAY_S,
                ath=token_hash(unverified),
                jkt=claims.jkt,
            )
        except TokenRefused as refused:
            if refused.reason == "binding":  # proven with another key: somebody else holds the credential
                raise Refused(
                    "wrong_workload", "the credential is bound to another key", rule="cnf"
                ) from refused
            raise Unproven(
                "invalid_proof", "the presenter's key proof does not hold", rule=refused.reason
            ) from refused
        return Presented(claims=claims, jkt=shown.jkt, proof_jti=shown.jti, proof_until=shown.usable_until)
