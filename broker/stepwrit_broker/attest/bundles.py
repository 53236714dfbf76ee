"""Whose word counts: the bundles of every trust domain, as one coherent state with a generation.

Bundles are per trust domain and never merged (SPIFFE_Federation.md section 7.3). Each domain has one source:
the Workload API, or a bundle endpoint (`attest.federation`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import X509Snapshot
from stepwrit.jwt_bundles import JwtBundles
from stepwrit_broker.attest.federation.trust import NoPartners, Partners, PartnerTrust, together
from stepwrit_broker.attest.jwt import TrustedAuthorities, Withheld
from stepwrit_broker.core.errors import Unavailable

RETRY_S: Final = 5.0


class IdentitySource(Protocol):
    """The part of `stepwrit.identity.WorkloadIdentity` that attestation needs."""

    def snapshot(self) -> X509Snapshot:
        """The current state, or IdentityUnavailable."""
        ...

    def lost_at(self) -> float | None:
        """Since when (seconds since the epoch) no news could come; None while they can."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedBundles:
    """Trust domain -> CA certificates (DER). What was true under one generation stays so under it."""

    generation: int
    by_domain: Mapping[str, tuple[bytes, ...]]
    withheld: Withheld


class BundleSource:
    """The bundles in force.

    max_age: seconds for which bundles count after the Workload API was lost. refuse: trust domains that
    are not believed whatever the Workload API says (a development domain, in production). partners: those
    whose bundles come from endpoints.
    """

    def __init__(
        self,
        identity: IdentitySource,
        *,
        max_age: float,
        refuse: frozenset[str] = frozenset(),
        partners: Partners | None = None,
    ) -> None:
        self._identity = identity
        self._max_age = max_age
        self._refuse = refuse
        self._partners = partners or NoPartners()
        self._cached: TrustedBundles | None = None

    def current(self, now: float) -> TrustedBundles:
        """The bundles at `now` (seconds since the epoch); Unavailable if they are in doubt."""
        try:
            snapshot = self._identity.snapshot()
        except IdentityUnavailable:
            raise _in_doubt("the broker has no identity of its own", "identity") from None
        lost_at = self._identity.lost_at()
        if lost_at is not None and now - lost_at > self._max_age:
            raise _in_doubt("trust bundles are older than allowed", "bundle_max_age")
        cached, theirs = self._cached, self._partners.at(now)
        if cached is None or cached.generation != snapshot.generation + theirs.generation:
            cached = self._cached = self._read(snapshot, theirs)
        return cached

    def _read(self, snapshot: X509Snapshot, theirs: PartnerTrust) -> TrustedBundles:
        withheld = _withheld(self._refuse, theirs, self._partners.domains, snapshot.bundles)
        known = together(snapshot.bundles, theirs.x509)
        return TrustedBundles(
            generation=snapshot.generation + theirs.generation,
            by_domain={name: roots for name, roots in known.items() if name not in withheld},
            withheld=withheld,
        )


def _withheld(
    refuse: Collection[str], theirs: PartnerTrust, partners: frozenset[str], given: Collection[str]
) -> Withheld:
    """The trust domains of which a bundle is at hand that does not count, and why.

    One that has two sources has none: which of two bundles is the older nobody can tell.
    """
    both = partners.intersection(given)
    return {
        **dict.fromkeys(theirs.stale, "stale_bundle"),
        **dict.fromkeys(both, "two_bundle_sources"),
        **dict.fromkeys(refuse, "refused_trust_domain"),
    }


class JwtSource(Protocol):
    """The part of `stepwrit.jwt_bundles.JwtBundleWatch` that attestation needs."""

    def current(self) -> JwtBundles:
        """The newest state."""
        ...

    def lost_at(self) -> float | None:
        """Since when (seconds since the epoch) no news could come; None while they can."""
        ...


class AuthoritySource:
    """The JWT authorities in force; `max_age`, `refuse` and `partners` as in BundleSource."""

    def __init__(
        self,
        watch: JwtSource,
        *,
        max_age: float,
        refuse: frozenset[str] = frozenset(),
        partners: Partners | None = None,
    ) -> None:
        self._watch, self._max_age, self._refuse = watch, max_age, refuse
        self._partners = partners or NoPartners()
        self._cached: TrustedAuthorities | None = None

    def current(self, now: float) -> TrustedAuthorities:
        """The authorities at `now` (seconds since the epoch); Unavailable if they are in doubt."""
        lost_at, known = self._watch.lost_at(), self._watch.current()
        if known.generation == 0 or (lost_at is not None and now - lost_at > self._max_age):
            raise _in_doubt("JWT authorities are not known, or older than allowed", "bundle_max_age")
        cached, theirs = self._cached, self._partners.at(now)
        if cached is None or cached.generation != known.generation + theirs.generation:
            cached = self._cached = self._read(known, theirs)
        return cached

    def _read(self, known: JwtBundles, theirs: PartnerTrust) -> TrustedAuthorities:
        withheld = _withheld(self._refuse, theirs, self._partners.domains, known.by_domain)
        both = together(known.by_domain, theirs.jwt)
        return TrustedAuthorities(
            generation=known.generation + theirs.generation,
            by_domain={name: keys for name, keys in both.items() if name not in withheld},
            withheld=withheld,
        )


def _in_doubt(reason: str, rule: str) -> Unavailable:
    return Unavailable(
        "unavailable",
        f"callers cannot be attested now: {reason}",
        rule=rule,
        retry_after=RETRY_S,
        who_can_change_it="the operator of the broker's Workload API",
    )
