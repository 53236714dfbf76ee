"""Stage 1 for JWT-SVIDs: the only place that makes a `Workload` of a token.

Source: draft-ietf-oauth-spiffe-client-auth section 3: `sub`, `aud` and `exp` are there, the issuer is the
only audience, and the keys are those of the trust domain of `sub`. A JWT-SVID is a bearer: whoever holds it
is believed, for at most five minutes, with one key (see `edge.caller`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from stepwrit.jwtsvid import Fault, JwtSvidRefused, VerifiedJwtSvid, verify_jwt_svid
from stepwrit.spiffe_bundle import JwtAuthorities
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.workload import SpiffeId, Workload

MAX_LIFE_S: Final = 300.0
KEPT: Final = 4_096
_REASONS: Final[dict[Fault, str]] = {
    "expired": "the JWT-SVID has expired: fetch a fresh one",
    "audience": "the JWT-SVID is for another audience: ask for the issuer's identifier",
    "many_audiences": "the JWT-SVID has several audiences: ask for the issuer's identifier alone",
    "too_long_lived": f"the JWT-SVID lives longer than {MAX_LIFE_S:g} seconds",
    "no_issued_at": "the JWT-SVID has no iat, so its life is not known",
    "unknown_trust_domain": "no JWT authorities are known for the trust domain of the JWT-SVID",
    "refused_trust_domain": "this broker does not accept the trust domain of the JWT-SVID",
    "stale_bundle": "the bundle of the JWT-SVID's trust domain is older than allowed",
    "two_bundle_sources": "the bundle of the JWT-SVID's trust domain comes from two sources",
    "empty_bundle": "the trust domain of the JWT-SVID is distrusted: it has no JWT authorities",
    "unknown_key": "no authority of the claimed trust domain signed the JWT-SVID",
    "signature": "the signature of the JWT-SVID does not hold",
}


Withheld = Mapping[str, Literal["refused_trust_domain", "stale_bundle", "two_bundle_sources"]]
"""Trust domain -> why it counts for nothing, though a bundle of it is at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedAuthorities:
    """Trust domain -> JWT authorities. What was true under one generation stays so under it."""

    generation: int
    by_domain: Mapping[str, JwtAuthorities]
    withheld: Withheld


class Authorities(Protocol):
    """Whose signature counts."""

    def current(self, now: float) -> TrustedAuthorities:
        """The authorities at `now`; Unavailable if they are in doubt."""
        ...


class JwtAttestor:
    """Proves callers by a JWT-SVID for `audience`, which is this broker's issuer identifier."""

    def __init__(self, authorities: Authorities, *, audience: str) -> None:
        self._authorities, self._audience = authorities, audience
        self._kept: OrderedDict[str, tuple[int, VerifiedJwtSvid]] = OrderedDict()

    def attest(self, unverified: str, now: float) -> Workload:
        """The caller at `now` (seconds since the epoch).

        A token is verified once per generation of the authorities; its end is checked at every call.
        Unproven(`unattested`) with the fault in `rule`, or Unavailable if the authorities are in doubt.
        """
        svid = self._verified(unverified, self._authorities.current(now), now)
        if svid.expires_at <= now:
            raise _unproven("expired")
        return Workload(
            id=SpiffeId(svid.spiffe_id), attested_by="jwt", expires_at=svid.expires_at, serial=svid.digest
        )

    def _verified(self, unverified: str, trusted: TrustedAuthorities, now: float) -> VerifiedJwtSvid:
        """The whole token is the key: one with another signature over the same claims is another token."""
        kept = self._kept.get(unverified)
        if kept is not None and kept[0] == trusted.generation:
            return kept[1]
        self._kept.pop(unverified, None)
        svid = self._verify(unverified, trusted, now)
        self._kept[unverified] = trusted.generation, svid
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return svid

    def _verify(self, unverified: str, trusted: TrustedAuthorities, now: float) -> VerifiedJwtSvid:
        try:
            return verify_jwt_svid(
                unverified,
                audience=self._audience,
                authorities=trusted.by_domain,
                now=now,
                max_life=MAX_LIFE_S,
            )
        except JwtSvidRefused as refused:
            unknown = refused.reason == "unknown_trust_domain"
            why = trusted.withheld.get(refused.detail) if unknown else None
            raise _unproven(why or refused.reason) from refused


def _unproven(fault: Fault) -> Unproven:
    reason = _REASONS.get(fault, "client_assertion is not a valid JWT-SVID")
    return Unproven("unattested", reason, rule=f"jwt:{fault}", who_can_change_it="the operator of the caller")
