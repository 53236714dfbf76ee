"""What a run of the fleet's bench measured: per cycle, by process."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.cycle import VERBS
from tests.bench.fleet_rig import Reading
from tests.bench.measure import Window
from tests.bench.report import SIGNS, VERIFIES, percentile, table


@dataclass(slots=True, kw_only=True)
class Sample:
    """One window of all brokers together. brokers, driver: CPU seconds. settled: read after the streams."""

    seconds: float
    windows: list[Window]
    brokers: list[float]
    driver: float
    before: Reading
    after: Reading
    settled: Reading

    @property
    def cycles(self) -> int:
        return sum(each.cycles for each in self.windows)

    @property
    def per_second(self) -> float:
        return self.cycles / self.seconds

    def times(self, name: str) -> list[float]:
        """Seconds of a verb, or of the whole `cycle`, over all brokers."""
        return [took for window in self.windows for took in window.times[name]]

    def used(self, what: str, *, is_settled: bool = False) -> float:
        """How much of a reading this window took."""
        last = self.settled if is_settled else self.after
        return float(getattr(last, what) - getattr(self.before, what))


@dataclass(slots=True, kw_only=True)
class Floor:
    """Constants over the same TLS, and CPU microseconds of one signature and one verification."""

    window: Window
    crypto: Mapping[str, float]

    @property
    def us(self) -> float:
        """Per cycle, as the embedded bench reckons it."""
        return self.window.cpu_us + SIGNS * self.crypto["sign"] + VERIFIES * self.crypto["verify"]


@dataclass(slots=True, kw_only=True)
class Stage:
    """A fleet of one size. apart: its callers at the broker that does not lead; leader: the one that does."""

    brokers: int
    idle: Sample
    full: list[Sample]
    half: Sample
    verbs: Mapping[str, Window] = field(default_factory=dict)
    apart: Sample | None = None
    leader: int = 0


@dataclass(slots=True, kw_only=True)
class Measured:
    """All of it."""

    lanes: int
    floor: Floor
    stages: list[Stage]


def failures(run: Measured) -> list[str]:
    """What did not succeed."""
    samples = [each for stage in run.stages for each in (*stage.full, stage.half, stage.apart) if each]
    windows = [window for each in samples for window in each.windows]
    verbs = [window for stage in run.stages for window in stage.verbs.values()]
    return [failure for window in (*windows, *verbs, run.floor.window) for failure in window.failures]


def numbers(run: Measured) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "lanes": run.lanes,
        "floor_us_per_cycle": round(run.floor.us, 1),
        "floor_us": {
            "http_tls": round(run.floor.window.cpu_us, 1),
            **{name: round(value, 1) for name, value in run.floor.crypto.items()},
        },
        "fleets": [_fleet(stage, run.floor) for stage in run.stages],
        "failures": len(failures(run)),
    }


def _fleet(stage: Stage, floor: Floor) -> dict[str, Any]:
    brokers = _mid(stage.full, lambda each: _us(each, sum(each.brokers)))
    engines = [_mid(stage.full, lambda each, n=name: _us(each, each.used(n))) for name in _ENGINES]
    return {
        "brokers": stage.brokers,
        "cycles_per_s": _mid(stage.full, lambda each: each.per_second),
        "cycles": sum(each.cycles for each in (*stage.full, stage.half)),
        "cpu_us_per_cycle": {
            "brokers": brokers,
            "redis": engines[0],
            "postgres": engines[1],
            "driver": _mid(stage.full, lambda each: _us(each, each.driver)),
        },
        "floor_ratio": {
            "brokers": round(brokers / floor.us, 2),
            "fleet": round((brokers + sum(engines)) / floor.us, 2),
        },
        "cpu_share_of_cores": _mid(stage.full, _share),
        "full": _latency(stage.full[len(stage.full) // 2]),
        "half": {"cycles_per_s": round(stage.half.per_second, 1), **_latency(stage.half)},
        "half_cpu_us_per_cycle": _cpu(stage.half),
        "bytes_per_cycle": _bytes(stage.full),
        "redis": _redis(stage.full),
        "postgres": _postgres(stage.full),
        "idle_cpu_share": _idle(stage.idle),
        "verbs_cpu_us": {verb: round(window.cpu_us, 1) for verb, window in stage.verbs.items()},
        "sequencer": None if stage.apart is None else _sequencer(stage, stage.apart),
    }


_ENGINES = ("redis_cpu", "postgres_cpu")


def _mid(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return round(median(of(each) for each in samples), 1)


def _us(sample: Sample, seconds: float) -> float:
    return seconds / max(1, sample.cycles) * 1e6


def _cpu(sample: Sample) -> dict[str, float]:
    used = {
        "brokers": sum(sample.brokers),
        "redis": sample.used("redis_cpu"),
        "postgres": sample.used("postgres_cpu"),
        "driver": sample.driver,
    }
    return {name: round(_us(sample, value), 1) for name, value in used.items()}


def _share(sample: Sample) -> float:
    """Cores that all of it kept busy."""
    engines = sample.used("redis_cpu") + sample.used("postgres_cpu")
    return (sum(sample.brokers) + engines + sample.driver) / sample.seconds


def _latency(sample: Sample) -> dict[str, Any]:
    return {name: {f"p{share}_ms": _ms(sample.times(name), share) for share in (50, 99)}
            for name in ("cycle", *VERBS)}  # fmt: skip


def _ms(values: Sequence[float], share: int) -> float:
    return round(percentile(values, share / 100) * 1e3, 2)


_SIZES = {
    "redis_memory": "redis_memory",
    "redis_aof": "redis_aof",
    "redis_wire": "redis_wire",
    "postgres_wal": "wal",
    "postgres_ledger": "ledger",
    "postgres_tables": "tables",
}


def _bytes(samples: Sequence[Sample]) -> dict[str, float]:
    """Over all windows together: tables grow by whole pages."""
    cycles = max(1, sum(each.cycles for each in samples))
    return {name: round(sum(each.used(what, is_settled=True) for each in samples) / cycles)
            for name, what in _SIZES.items()}  # fmt: skip


def _redis(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "scripts_per_cycle": _mid(samples, lambda each: each.used("redis_scripts") / max(1, each.cycles)),
        "script_us_per_cycle": _mid(samples, lambda each: each.used("redis_script_us") / max(1, each.cycles)),
    }


def _postgres(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "commits_per_s": _mid(samples, lambda each: each.used("commits") / each.seconds),
        "works_per_commit": _mid(
            samples, lambda each: len(VERBS) * each.cycles / max(1, each.used("commits"))
        ),
        "wal_syncs_per_s": _mid(samples, lambda each: each.used("wal_syncs") / each.seconds),
    }


def _commits(sample: Sample) -> float:
    """PostgreSQL shows them a second late."""
    return max(1.0, sample.used("commits", is_settled=True))


def _idle(sample: Sample) -> dict[str, float]:
    """Of one core, with nobody calling."""
    used = {
        "broker": sum(sample.brokers) / len(sample.brokers),
        "redis": sample.used("redis_cpu"),
        "postgres": sample.used("postgres_cpu"),
    }
    return {name: round(value / sample.seconds, 3) for name, value in used.items()}


def _sequencer(stage: Stage, apart: Sample) -> dict[str, Any]:
    """A broker that carries the streams for another and is asked nothing; its idle work taken off."""
    idle = stage.idle.brokers[stage.leader] / stage.idle.seconds
    carried = apart.brokers[stage.leader] - idle * apart.seconds
    return {
        "cycles_per_s": round(apart.per_second, 1),
        "us_per_cycle": round(_us(apart, carried), 1),
        "serving_us_per_cycle": round(_us(apart, apart.brokers[1 - stage.leader]), 1),
    }


# --- as tables


def text(run: Measured) -> str:
    """The tables, and what they mean."""
    said = numbers(run)
    fleets = said["fleets"]
    head = ("per cycle", *(f"{each['brokers']} broker{'s' * (each['brokers'] > 1)}" for each in fleets))
    parts = [
        table(head, [(name, *(_cell(of, each) for each in fleets)) for name, of in _ROWS]),
        table(("half load: p50 / p99, ms", *head[1:]), [(name, *_calls(name, fleets)) for name in _CALLS]),
    ]
    verbs = fleets[0]["verbs_cpu_us"]
    if verbs:
        rows = [(verb, f"{value:.0f}") for verb, value in verbs.items()]
        parts.append(table(("verb by verb, at one broker", "its CPU us"), rows))
    return "\n\n".join([*parts, _plainly(said)])


def _path(*names: str) -> Callable[[Mapping[str, Any]], float]:
    def of(fleet: Mapping[str, Any]) -> float:
        found: Any = fleet
        for name in names:
            found = found[name]
        return float(found)

    return of


_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], float]], ...] = (
    ("brokers, CPU us", _path("cpu_us_per_cycle", "brokers")),
    ("Redis, CPU us", _path("cpu_us_per_cycle", "redis")),
    ("PostgreSQL, CPU us", _path("cpu_us_per_cycle", "postgres")),
    ("(driver, CPU us)", _path("cpu_us_per_cycle", "driver")),
    ("brokers to the floor", _path("floor_ratio", "brokers")),
    ("brokers and engines to the floor", _path("floor_ratio", "fleet")),
    ("Redis: scripts", _path("redis", "scripts_per_cycle")),
    ("Redis: us in them", _path("redis", "script_us_per_cycle")),
    ("Redis: memory kept, bytes", _path("bytes_per_cycle", "redis_memory")),
    ("Redis: append-only file, bytes", _path("bytes_per_cycle", "redis_aof")),
    ("Redis: on the wire, bytes", _path("bytes_per_cycle", "redis_wire")),
    ("PostgreSQL: WAL, bytes", _path("bytes_per_cycle", "postgres_wal")),
    ("PostgreSQL: ledger grown, bytes", _path("bytes_per_cycle", "postgres_ledger")),
    ("PostgreSQL: other tables grown, bytes", _path("bytes_per_cycle", "postgres_tables")),
    ("PostgreSQL: works in a commit", _path("postgres", "works_per_commit")),
    ("PostgreSQL: commits a second", _path("postgres", "commits_per_s")),
    ("cycles a second, full load", _path("cycles_per_s")),
    ("cores kept busy, full load", _path("cpu_share_of_cores")),
    ("full load: p50 of a cycle, ms", _path("full", "cycle", "p50_ms")),
    ("full load: p99 of a cycle, ms", _path("full", "cycle", "p99_ms")),
)
_CALLS = ("cycle", *VERBS)


def _cell(of: Callable[[Mapping[str, Any]], float], fleet: Mapping[str, Any]) -> str:
    value = of(fleet)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _calls(name: str, fleets: Sequence[Mapping[str, Any]]) -> list[str]:
    times = [fleet["half"][name] for fleet in fleets]
    return [f"{each['p50_ms']:.1f} / {each['p99_ms']:.1f}" for each in times]


def _plainly(said: Mapping[str, Any]) -> str:
    cores, most = said["cores"], said["fleets"][-1]["brokers"]
    idle = said["fleets"][0]["idle_cpu_share"]
    sentences = [
        f"{cores} cores for callers, brokers, Redis and PostgreSQL; {said['lanes']} cycles at once.",
        f"{most} brokers on {cores} cores show contention, not scaling:",
        "the CPU per cycle is the number that carries over.",
        f"Floor: {said['floor_us_per_cycle']:.0f} us per cycle.",
        f"Idle, a broker takes {idle['broker']:.1%} of a core,",
        f"Redis {idle['redis']:.1%} and PostgreSQL {idle['postgres']:.1%}.",
        *_apart(said),
        f"Failures: {said['failures']}.",
    ]
    return textwrap.fill(" ".join(sentences), 100)


def _apart(said: Mapping[str, Any]) -> list[str]:
    for each in (fleet["sequencer"] for fleet in said["fleets"] if fleet["sequencer"]):
        return [
            "A broker that carries the streams for another and is asked nothing needs",
            f"{each['us_per_cycle']:.0f} us per cycle, the one that is asked",
            f"{each['serving_us_per_cycle']:.0f} (at {each['cycles_per_s']:.0f} cycles a second).",
        ]
    return []
