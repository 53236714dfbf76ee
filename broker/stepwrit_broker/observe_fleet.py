"""What a broker of a fleet counts beside what every broker counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram

TRUTH_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class FleetMetrics:
    """Gauges are set by `told`; the histogram by each operation that waited."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, says: str) -> Gauge:
            return Gauge(f"stepwrit_fleet_{name}", says, registry=registry)

        self._waiting = gauge("waiting", "Operations here that wait until PostgreSQL has them")
        self._backlog = gauge("backlog", "Works in Redis' streams that are not trimmed yet, of all shards")
        self._leads = gauge("leads", "1 while this broker carries the streams into PostgreSQL")
        self._committed = gauge("committed", "Works that this broker has carried since its start")
        self._epochs = gauge("epochs", "How many epochs there were, of the whole fleet")
        self._forged = gauge("forged", "How often Redis held what no broker of this fleet wrote, seen here")
        self._clock = gauge("clock_offset_seconds", "PostgreSQL's clock minus this broker's")
        self._accepted = Gauge(
            "stepwrit_fleet_accepted",
            "Servers with a weakness that [fleet] accept names",
            ("setting",),
            registry=registry,
        )
        self.truth = Histogram(
            "stepwrit_fleet_truth_seconds",
            "From the write to Redis until PostgreSQL has it",
            buckets=TRUTH_BUCKETS,
            registry=registry,
        )

    def told(self, *, waiting: int, backlog: int | None, leads: bool, committed: int, epochs: int) -> None:
        """How it is now; backlog: None where Redis cannot be asked."""
        self._waiting.set(waiting)
        if backlog is not None:
            self._backlog.set(backlog)
        self._leads.set(leads)
        self._committed.set(committed)
        self._epochs.set(epochs)

    def forged(self, times: int) -> None:
        """How often Redis held what nobody of us wrote."""
        self._forged.set(times)

    def clock(self, offset_s: float) -> None:
        """How far PostgreSQL's clock is before ours."""
        self._clock.set(offset_s)

    def accepted(self, weaknesses: Mapping[str, float]) -> None:
        """How many servers have each."""
        self._accepted.clear()
        for name, count in weaknesses.items():
            self._accepted.labels(name).set(count)
