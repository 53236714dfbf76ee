"""Whose word counts beside what the Workload API gives: the partners' bundles, and the view that has both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from stepwrit.identity import X509Snapshot
from stepwrit.spiffe_bundle import JwtAuthorities
from stepwrit_broker.attest.federation.feed import Feed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartnerTrust:
    """One coherent state of all partners; by trust domain.

    generation: grows with each change. stale: those whose bundle counts no longer; it is still in `x509` and
    `jwt`, so that they can be told why.
    """

    generation: int
    x509: Mapping[str, tuple[bytes, ...]]
    jwt: Mapping[str, JwtAuthorities]
    stale: frozenset[str]


NOBODY: Final = PartnerTrust(
    generation=0, x509=MappingProxyType({}), jwt=MappingProxyType({}), stale=frozenset()
)


class Partners(Protocol):
    """The foreign trust domains whose bundles come from endpoints."""

    @property
    def domains(self) -> frozenset[str]:
        """All of them, also those of which there is no bundle yet."""
        ...

    @property
    def latest(self) -> PartnerTrust:
        """The state last looked at."""
        ...

    def at(self, now: float) -> PartnerTrust:
        """The state at `now` (seconds since the epoch)."""
        ...


class NoPartners:
    """Without a [[federation]] in the configuration."""

    domains: frozenset[str] = frozenset()
    latest = NOBODY

    def at(self, now: float) -> PartnerTrust:  # noqa: ARG002  whenever
        """Nobody."""
        return NOBODY


class Federation:
    """The feeds of all partners as one state. A trust domain has one feed, and its keys stay its own."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds: Final = tuple(feeds)
        self.domains: Final = frozenset(feed.partner.trust_domain for feed in feeds)
        self._state = NOBODY
        self._seen: object = None

    @property
    def latest(self) -> PartnerTrust:
        """The state last looked at."""
        return self._state

    def at(self, now: float) -> PartnerTrust:
        """The state at `now` (seconds since the epoch)."""
        versions = tuple(feed.version for feed in self.feeds)
        stale = frozenset(feed.partner.trust_domain for feed in self.feeds if feed.is_stale(now))
        if self._seen != (versions, stale):
            self._seen = versions, stale
            self._state = self._made(stale)
        return self._state

    def _made(self, stale: frozenset[str]) -> PartnerTrust:
        held = {feed.partner.trust_domain: feed.held.bundle for feed in self.feeds if feed.held is not None}
        return PartnerTrust(
            generation=self._state.generation + 1,
            x509=MappingProxyType({name: bundle.x509 for name, bundle in held.items()}),
            jwt=MappingProxyType({name: bundle.jwt for name, bundle in held.items()}),
            stale=stale,
        )


class Identity(Protocol):
    """The part of `stepwrit.identity.WorkloadIdentity` that the view needs."""

    @property
    def generation(self) -> int:
        """Grows with each update."""
        ...

    def snapshot(self) -> X509Snapshot:
        """The current state, or IdentityUnavailable."""
        ...

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class PooledIdentity:
    """Our identity with the roots of all partners, for handshakes on the listener; who passes one is still
    nobody, until attestation has judged the chain by its own domain's bundle.
    """

    def __init__(self, identity: Identity, partners: Partners) -> None:
        self._identity, self._partners = identity, partners
        self._kept: tuple[int, X509Snapshot] | None = None

    @property
    def generation(self) -> int:
        """Of both together; grows with each change."""
        return self._identity.generation + self._partners.latest.generation

    def snapshot(self) -> X509Snapshot:
        """The current state, or IdentityUnavailable."""
        own, theirs = self._identity.snapshot(), self._partners.latest
        generation = own.generation + theirs.generation
        if self._kept is None or self._kept[0] != generation:
            bundles = together(own.bundles, theirs.x509)
            self._kept = generation, replace(own, bundles=bundles, generation=generation)
        return self._kept[1]

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._identity.now()


def together(given: Mapping[str, T], fetched: Mapping[str, T]) -> Mapping[str, T]:
    """Both, by trust domain; of one in both only what the Workload API gave: nothing is ever merged."""
    return MappingProxyType({**fetched, **given})
