"""Stage 1 for X.509-SVIDs: the only place that makes a `Workload` from a TLS connection."""

from __future__ import annotations

from typing import Final

from stepwrit.x509svid import Fault, SvidRefused, TlsPeer, VerifiedSvid, verify_x509_svid
from stepwrit_broker.attest.bundles import BundleSource, TrustedBundles
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.workload import SpiffeId, Workload

_REASONS: Final[dict[Fault, str]] = {
    "no_certificate": "no client certificate was shown",
    "expired": "the X.509-SVID has expired: reconnect with the current one",
    "not_yet_valid": "the X.509-SVID is not valid yet",
    "unknown_trust_domain": "no bundle is known for the trust domain of the X.509-SVID",
    "refused_trust_domain": "this broker does not accept the trust domain of the X.509-SVID",
    "stale_bundle": "the bundle of the X.509-SVID's trust domain is older than allowed",
    "two_bundle_sources": "the bundle of the X.509-SVID's trust domain comes from two sources",
    "empty_bundle": "the trust domain of the X.509-SVID is distrusted: its bundle is empty",
    "untrusted": "no authority of the claimed trust domain signed the X.509-SVID",
}


class X509Attestor:
    """Proves callers by their certificate, against the bundle of their own trust domain."""

    def __init__(self, bundles: BundleSource) -> None:
        self._bundles = bundles

    def attest(self, tls: TlsPeer | None, now: float, via: SpiffeId | None = None) -> Workload:
        """The caller at `now` (seconds since the epoch).

        The chain is verified once per `tls` and bundle generation; its end is checked at every call. via:
        the attested proxy that forwarded it. Unproven(`unattested`) with the fault in `rule`, or Unavailable
        if bundles are in doubt.
        """
        if tls is None:
            raise _unproven("no_certificate")
        svid = self._verified(tls, self._bundles.current(now), now)
        if svid.expires_at <= now:
            raise _unproven("expired")
        return Workload(
            id=SpiffeId(svid.spiffe_id),
            attested_by="x509",
            expires_at=svid.expires_at,
            serial=svid.serial,
            via=via,
        )

    def _verified(self, tls: TlsPeer, bundles: TrustedBundles, now: float) -> VerifiedSvid:
        if tls.memo is not None and tls.memo[0] == bundles.generation:
            return tls.memo[1]
        tls.memo = None
        svid = _verify(tls, bundles, now)
        tls.memo = bundles.generation, svid
        return svid


def _verify(tls: TlsPeer, bundles: TrustedBundles, now: float) -> VerifiedSvid:
    try:
        return verify_x509_svid(tls.leaf, tls.intermediates, bundles.by_domain, now)
    except SvidRefused as refused:
        why = bundles.withheld.get(refused.detail) if refused.reason == "unknown_trust_domain" else None
        raise _unproven(why or refused.reason) from refused


def _unproven(fault: Fault) -> Unproven:
    reason = _REASONS.get(fault, "the client certificate is not a valid X.509-SVID")
    return Unproven(
        "unattested", reason, rule=f"x509:{fault}", who_can_change_it="the operator of the caller"
    )
