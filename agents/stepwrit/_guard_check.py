"""The guard's offline checks: credential, key proof, request. None of them is a go-ahead; redeem is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from stepwrit._guard_answer import denied, unavailable
from stepwrit._guard_asgi import Presented
from stepwrit._guard_keys import ProofsFull, PublishedKeys, SeenProofs, credential_keys, kid_of, signed_with
from stepwrit._guard_redeem import Redeemer
from stepwrit.digest import request_digest_of
from stepwrit.dpop import DpopProof, token_hash, verify_proof
from stepwrit.errors import StepwritError
from stepwrit.jws import TokenRefused
from stepwrit.spiffe_id import trust_domain_of
from stepwrit.tokens import CredentialClaims
from stepwrit.verify import verify_credential
from stepwrit.wire import LEEWAY_S


class Checks:
    """What can be told without asking: for one audience, by one issuer's published keys.

    Clocks of three hosts meet here, so lives are judged with LEEWAY_S; the broker judges its own credential
    at redeem by its own clock, with none.
    """

    def __init__(
        self, *, audience: str, broker: Redeemer, now: Callable[[], float], foreign: Collection[str] = ()
    ) -> None:
        """foreign: the trust domains, beside the broker's own, whose workloads may be performers here."""
        self._audience: Final = audience
        self._foreign: Final = frozenset(foreign)
        self._broker: Final = broker
        self._keys: Final = PublishedKeys(broker.keys, now)
        self._now: Final = now
        self._seen: Final = SeenProofs()

    async def issuer(self) -> str:
        """Who signs for this audience. Raises Denied when it cannot be learned now."""
        try:
            await self._keys.all()
            return self._broker.issuer
        except (StepwritError, OSError) as doubt:
            raise unavailable("the issuer's keys cannot be had") from doubt

    async def credential(self, shown: Presented) -> CredentialClaims:
        """The verified claims of a DPoP-bound credential for this audience. Raises Denied."""
        issuer = await self.issuer()
        try:
            keys = await self._keys.holding(kid_of(shown.token))
        except (StepwritError, OSError) as doubt:
            raise unavailable("the issuer's keys cannot be had") from doubt
        try:
            claims = verify_credential(
                shown.token,
                credential_keys(keys),
                issuer=issuer,
                audience=self._audience,
                now=self._now(),
                leeway=LEEWAY_S,
            )
        except TokenRefused as bad:
            code = "expired" if bad.reason == "expired" else "invalid_token"
            raise denied(code, str(bad), signed=signed_with(keys, shown.token)) from None
        if shown.scheme != "dpop":  # RFC 9449 section 7.2
            raise denied("invalid_token", "a DPoP-bound credential was sent as something else", signed=True)
        self._of_a_domain_named_here(claims.performer)
        return claims

    def _of_a_domain_named_here(self, performer: str) -> None:
        """The broker may know partners that this resource does not. Raises Denied."""
        domain = trust_domain_of(performer)
        if domain != self._broker.trust_domain and domain not in self._foreign:
            reason = f"workloads of trust domain {domain} are not accepted here"
            raise denied("wrong_workload", reason, signed=True)

    def proof(self, proof: str, token: str, *, claims: CredentialClaims, method: str, url: str) -> DpopProof:
        """The key proof of this very request by the credential's key. Raises Denied."""
        try:
            return verify_proof(
                proof,
                htm=method,
                htu=url,
                now=self._now(),
                leeway=LEEWAY_S,
                ath=token_hash(token),
                jkt=claims.jkt,
            )
        except TokenRefused as bad:
            # proven with another key: somebody else holds the credential
            code = "wrong_workload" if bad.reason == "binding" else "invalid_proof"
            raise denied(code, str(bad), signed=True) from None

    def request(self, claims: CredentialClaims, method: str, url: str, body: str) -> None:
        """Pass the one request that the credential is for. body: its digest. Raises Denied."""
        if request_digest_of(method, url, body) != claims.request:
            raise denied("request_changed", "the credential is for another request", signed=True)

    def first(self, proof: DpopProof) -> None:
        """Pass a proof once. Raises Denied."""
        try:
            new = self._seen.first(proof.jkt, proof.jti, proof.usable_until, self._now())
        except ProofsFull as full:
            raise unavailable(str(full), signed=True) from full
        if not new:
            raise denied("replay", "this proof was used before", signed=True)
