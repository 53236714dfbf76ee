"""What a broker of a fleet counts beside what every broker counts. Labels are closed words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

TRUTH_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
REACHED_S = 2.0  # PostgreSQL is asked four times a second


@dataclass(frozen=True, kw_only=True)
class FleetNow:
    """How it is with this broker now. backlog: None where Redis cannot be asked. Seconds: waiting_s (of the
    operation that waits longest), idle_s (since our last commit, 0 where we do not lead), blind_s (since
    PostgreSQL last told what stands). Tallies since the start: ended, retries, by why.
    """

    waiting: int
    waiting_s: float
    backlog: int | None
    leads: bool
    committed: int
    idle_s: float
    blind_s: float
    epochs: int
    ended: Mapping[str, int]
    retries: Mapping[str, int]
    rules_here: int
    rules_there: int
    forged: int
    clock_s: float


class FleetMetrics:
    """Gauges are set by `told`; `truth` by each operation that waited, `commit` by each that carried."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, says: str, *labels: str) -> Gauge:
            return Gauge(f"stepwrit_fleet_{name}", says, labels, registry=registry)

        def timed(name: str, says: str) -> Histogram:
            return Histogram(f"stepwrit_fleet_{name}_seconds", says, buckets=TRUTH_BUCKETS, registry=registry)

        self._waiting = gauge("waiting", "Operations here that wait until PostgreSQL has them")
        self._waiting_s = gauge("waiting_seconds", "How long the oldest of them has waited")
        self._backlog = gauge("backlog", "Works in Redis' streams that are not trimmed yet, of all shards")
        self._leads = gauge("leads", "1 while this broker carries the streams into PostgreSQL")
        self._committed = gauge("committed", "Works that this broker has carried since its start")
        self._idle_s = gauge(
            "commit_age_seconds", "Since this broker's last commit; 0 where it does not lead"
        )
        self._blind_s = gauge("truth_age_seconds", "Since PostgreSQL last told this broker what stands")
        self._reachable = gauge("reachable", "1 while the engine answers this broker", "engine")
        self._epochs = gauge("epochs", "How many epochs there were, of the whole fleet")
        self._rules = gauge("rules", "Number of the marks and versions in force", "at")
        self._forged = gauge("forged", "How often Redis held what no broker of this fleet wrote, seen here")
        self._clock = gauge("clock_offset_seconds", "PostgreSQL's clock minus this broker's")
        self._accepted = gauge("accepted", "Servers with a weakness that [fleet] accept names", "setting")
        self._ended = _Tally(registry, "epochs_ended", "Epochs that this broker ended")
        self._retries = _Tally(registry, "retries", "Tries of operations that were made again")
        self.truth = timed("truth", "From the write to Redis until PostgreSQL has it")
        self.commit = timed("commit", "A commit of works to PostgreSQL, by the broker that leads")

    def told(self, now: FleetNow) -> None:
        """How it is now."""
        self._waiting.set(now.waiting)
        self._waiting_s.set(now.waiting_s)
        if now.backlog is not None:
            self._backlog.set(now.backlog)
        self._leads.set(now.leads)
        self._committed.set(now.committed)
        self._idle_s.set(now.idle_s)
        self._blind_s.set(now.blind_s)
        self._reachable.labels("redis").set(now.backlog is not None)
        self._reachable.labels("postgresql").set(now.blind_s < REACHED_S)
        self._epochs.set(now.epochs)
        self._rules.labels("here").set(now.rules_here)
        self._rules.labels("postgresql").set(now.rules_there)
        self._forged.set(now.forged)
        if math.isfinite(now.clock_s):
            self._clock.set(now.clock_s)
        self._ended.upto(now.ended)
        self._retries.upto(now.retries)

    def accepted(self, weaknesses: Mapping[str, float]) -> None:
        """How many servers have each."""
        self._accepted.clear()
        for name, count in weaknesses.items():
            self._accepted.labels(name).set(count)


class _Tally:
    """A counter that follows a tally kept elsewhere."""

    def __init__(self, registry: CollectorRegistry, name: str, says: str) -> None:
        self._counter = Counter(f"stepwrit_fleet_{name}", says, ("why",), registry=registry)
        self._seen: dict[str, int] = {}

    def upto(self, tally: Mapping[str, int]) -> None:
        for why, count in dict(tally).items():
            self._counter.labels(why).inc(count - self._seen.get(why, 0))
            self._seen[why] = count
