"""The foreign trust domains whose bundles we fetch ourselves: made, checked, and told about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stepwrit_broker.attest.bundles import BundleSource
from stepwrit_broker.attest.federation.feed import Feed, FeedHealth, Surroundings
from stepwrit_broker.attest.federation.memory import Memory
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Partner
from stepwrit_broker.attest.federation.trust import Federation
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock, Entropy

FOLDER: Final = "federation"
_OPERATOR: Final = "the operator (broker.toml [[federation]])"
Say = Callable[[str, dict[str, object]], Awaitable[None]]


def one_source_each(partners: Collection[Partner], given: Collection[str]) -> None:
    """Raises Unavailable when a trust domain also comes from the Workload API. given: the domains of that."""
    both = sorted({each.trust_domain for each in partners}.intersection(given))
    if both:
        raise Unavailable(
            "unavailable",
            f"the Workload API hands out the bundle of {', '.join(both)}: each trust domain has one source",
            rule="federation",
            who_can_change_it=_OPERATOR,
        )


class Federating:
    """Builds the feeds and tells the ledger, metrics and /healthz what they do."""

    def __init__(
        self, partners: Sequence[Partner], folder: Path, *, clock: Clock, entropy: Entropy, metrics: Metrics
    ) -> None:
        self._clock, self._entropy, self._metrics = clock, entropy, metrics
        self.bundles: BundleSource | None = None
        self.say: Say | None = None
        around = Surroundings(now=clock.now, luck=self._luck, roots=self._roots, told=self._told)
        feeds = [Feed(each, Memory(folder, each.trust_domain), around) for each in partners]
        self.federation: Final = Federation(feeds)

    def load(self) -> None:
        """What was accepted before this start. Raises Unavailable for a file that cannot be believed."""
        for feed in self.federation.feeds:
            try:
                feed.load()
            except BundleNotTaken as bad:
                raise Unavailable(
                    "unavailable",
                    f"federation with {feed.partner.trust_domain}: {bad}",
                    rule="federation",
                    who_can_change_it=_OPERATOR,
                ) from bad
        self.federation.at(self._clock.now())

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """The work of all feeds, to be run until the end."""
        return [feed.run for feed in self.federation.feeds]

    def health(self) -> dict[str, object]:
        """For `/healthz?verbose=true`: by trust domain."""
        try:
            now = self._clock.now()
        except Problem as doubt:
            return {each: {"state": "unknown", "why": doubt.reason} for each in self.federation.domains}
        return {feed.partner.trust_domain: _told(feed.health(now)) for feed in self.federation.feeds}

    async def gauge(self) -> None:
        """Look at what went stale, and set the gauges."""
        now = self._clock.now()
        self.federation.at(now)
        for feed in self.federation.feeds:
            held, stale = feed.held, feed.is_stale(now)
            age = None if held is None else now - held.confirmed_at
            self._metrics.federated(feed.partner.trust_domain, age, serves=held is not None and not stale)

    def _luck(self) -> float:
        return int.from_bytes(self._entropy.bytes(4), "big") / 2**32

    def _roots(self, domain: str) -> Sequence[bytes]:
        """Of another domain than the partner's own: whatever is in force of it."""
        try:
            trusted = None if self.bundles is None else self.bundles.current(self._clock.now())
        except Problem:
            return ()
        return () if trusted is None else trusted.by_domain.get(domain, ())

    async def _told(self, domain: str, outcome: str, news: bool) -> None:
        self._metrics.polled(domain, outcome)
        now = self._clock.now()
        self.federation.at(now)
        if not news or self.say is None:
            return
        feed = next(each for each in self.federation.feeds if each.partner.trust_domain == domain)
        kind = "federation.bundle" if outcome == "ok" else "federation.refused"
        facts: dict[str, object] = {"trust_domain": domain, "outcome": outcome, "sequence": _sequence(feed)}
        await self.say(kind, {**facts, **_counts(feed)})


def _sequence(feed: Feed) -> str | None:
    """As text: it may be larger than JSON numbers are exact."""
    sequence = None if feed.held is None else feed.held.revision.sequence
    return None if sequence is None else str(sequence)


def _counts(feed: Feed) -> dict[str, object]:
    bundle = None if feed.held is None else feed.held.bundle
    return (
        {} if bundle is None else {"x509_authorities": len(bundle.x509), "jwt_authorities": len(bundle.jwt)}
    )


def _told(health: FeedHealth) -> dict[str, object]:
    return {
        "state": health.state,
        "since": _when(health.since),
        "why": health.why,
        "detail": health.detail,
        "tries": health.tries,
        "sequence": None if health.sequence is None else str(health.sequence),
        "confirmed": None if health.confirmed_at is None else _when(health.confirmed_at),
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
