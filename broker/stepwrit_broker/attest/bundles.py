"""Whose word counts: the bundles of every trust domain, as one coherent state with a generation.

Bundles are per trust domain and never merged (SPIFFE_Federation.md section 7.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import X509Snapshot
from stepwrit.jwt_bundles import JwtBundles
from stepwrit_broker.attest.jwt import TrustedAuthorities
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
    refused: frozenset[str]


class BundleSource:
    """The bundles in force.

    max_age: seconds for which bundles count after the Workload API was lost. refuse: trust domains that
    are not believed whatever the Workload API says (a development domain, in production).
    """

    def __init__(
        self, identity: IdentitySource, *, max_age: float, refuse: frozenset[str] = frozenset()
    ) -> None:
        self._identity = identity
        self._max_age = max_age
        self._refuse = refuse
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
        cached = self._cached
        if cached is None or cached.generation != snapshot.generation:
            cached = self._cached = self._read(snapshot)
        return cached

    def _read(self, snapshot: X509Snapshot) -> TrustedBundles:
        return TrustedBundles(
            generation=snapshot.generation,
            by_domain={name: roots for name, roots in snapshot.bundles.items() if name not in self._refuse},
            refused=self._refuse,
        )


class JwtSource(Protocol):
    """The part of `stepwrit.jwt_bundles.JwtBundleWatch` that attestation needs."""

    def current(self) -> JwtBundles:
        """The newest state."""
        ...

    def lost_at(self) -> float | None:
        """Since when (seconds since the epoch) no news could come; None while they can."""
        ...


class AuthoritySource:
    """The JWT authorities in force; `max_age` and `refuse` as in BundleSource."""

    def __init__(self, watch: JwtSource, *, max_age: float, refuse: frozenset[str] = frozenset()) -> None:
        self._watch, self._max_age, self._refuse = watch, max_age, refuse

    def current(self, now: float) -> TrustedAuthorities:
        """The authorities at `now` (seconds since the epoch); Unavailable if they are in doubt."""
        lost_at, known = self._watch.lost_at(), self._watch.current()
        if known.generation == 0 or (lost_at is not None and now - lost_at > self._max_age):
            raise _in_doubt("JWT authorities are not known, or older than allowed", "bundle_max_age")
        return TrustedAuthorities(
            generation=known.generation,
            by_domain={name: keys for name, keys in known.by_domain.items() if name not in self._refuse},
            refused=self._refuse,
        )


def _in_doubt(reason: str, rule: str) -> Unavailable:
    return Unavailable(
        "unavailable",
        f"callers cannot be attested now: {reason}",
        rule=rule,
        retry_after=RETRY_S,
        who_can_change_it="the operator of the broker's Workload API",
    )
