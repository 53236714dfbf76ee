"""From windows to numbers, and from numbers to a table that can be read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.cycle import VERBS
from tests.bench.measure import Window

SIGNS, VERIFIES = 2, 3  # step token and credential; the proofs at open, credential and redeem
AIM_CYCLES, AIM_RATIO, AIM_P99_MS, AIM_GROWTH = 800.0, 2.5, 15.0, 0.05
GENERATOR_MOST = 0.85  # beyond this share of its core the generator may be what bounds it


@dataclass(slots=True, kw_only=True)
class Measured:
    """All that one run of the bench has measured."""

    lanes: int
    full: list[Window]
    floor: list[Window]
    half: Window
    floor_half: Window
    verbs: Mapping[str, Window]
    crypto: Mapping[str, float]
    stages: Mapping[str, float]
    fsync_us: float
    bytes_per_cycle: float
    notes: list[str] = field(default_factory=list)
    long_run: list[tuple[int, int]] = field(default_factory=list)
    """(cycles so far, resident bytes)."""
    long_failures: list[str] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 for nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def numbers(run: Measured) -> dict[str, Any]:
    """What `--json` prints."""
    cpu = median(each.cpu_us for each in run.full)
    wire = median(each.cpu_us for each in run.floor)
    crypto = SIGNS * run.crypto["sign"] + VERIFIES * run.crypto["verify"]
    whole = run.half.times["cycle"]
    return {
        "cycles_per_s": round(median(each.per_second for each in run.full), 1),
        "p50_ms": _ms(whole, 0.50),
        "p95_ms": _ms(whole, 0.95),
        "p99_ms": _ms(whole, 0.99),
        "cpu_us_per_cycle": round(cpu, 1),
        "floor_us_per_cycle": round(wire + crypto, 1),
        "floor_ratio": round(cpu / (wire + crypto), 2),
        "floor_us": {"http_tls": round(wire, 1), "sign": run.crypto["sign"], "verify": run.crypto["verify"]},
        "floor_p50_ms": _ms(run.floor_half.times["cycle"], 0.50),
        "floor_p99_ms": _ms(run.floor_half.times["cycle"], 0.99),
        "half_cpu_us_per_cycle": round(run.half.cpu_us, 1),
        "floor_half_http_tls_us": round(run.floor_half.cpu_us, 1),
        "stages_us": {name: round(value, 1) for name, value in run.stages.items()},
        "verbs": {verb: _verb(run, verb) for verb in VERBS},
        "half_load_cycles_per_s": round(run.half.per_second, 1),
        "broker_busy": round(median(each.busy for each in run.full), 3),
        "broker_system_share": round(median(_system(each) for each in run.full), 3),
        "generator_us_per_cycle": round(median(each.generator_us for each in run.full), 1),
        "generator_busy": round(median(each.generator_busy for each in run.full), 3),
        "spread_cycles_per_s": [round(each.per_second, 1) for each in run.full],
        "failures": len(failures(run)),
        "cycles": sum(each.cycles for each in (*run.full, run.half)),
        "lanes": run.lanes,
        "fdatasync_us": round(run.fsync_us, 1),
        "store_bytes_per_cycle": round(run.bytes_per_cycle),
        "memory": [{"cycles": done, "rss_bytes": rss} for done, rss in run.long_run],
        "notes": run.notes,
    }


def failures(run: Measured) -> list[str]:
    """What did not succeed, in any window."""
    windows = (*run.full, *run.floor, run.half, run.floor_half, *run.verbs.values())
    return [failure for window in windows for failure in window.failures] + run.long_failures


def _verb(run: Measured, verb: str) -> dict[str, float]:
    alone, at_half = run.verbs[verb], run.half.times[verb]
    return {
        "per_s": round(alone.per_second, 1),
        "cpu_us": round(alone.cpu_us, 1),
        "p50_ms": _ms(at_half, 0.50),
        "p95_ms": _ms(at_half, 0.95),
        "p99_ms": _ms(at_half, 0.99),
    }


def _ms(values: Sequence[float], share: float) -> float:
    return round(percentile(values, share) * 1e3, 2)


def _system(window: Window) -> float:
    return window.broker_system / max(1e-9, window.broker_user + window.broker_system)


def growth(long_run: Sequence[tuple[int, int]]) -> float | None:
    """How much the resident memory grew over the second half of a long run; None without one."""
    if len(long_run) < 3:
        return None
    return long_run[-1][1] / long_run[len(long_run) // 2][1] - 1.0


def text(run: Measured) -> str:
    """The tables, the notes, and what bounds it."""
    said = numbers(run)
    parts = [_aims(run, said), _verbs(said), _stages(said), _bounds(said)]
    parts += [f"note: {note}" for note in said["notes"]]
    return "\n\n".join(parts)


def _aims(run: Measured, said: dict[str, Any]) -> str:
    speed, p99, ratio = said["cycles_per_s"], said["p99_ms"], said["floor_ratio"]
    floors = f"{said['floor_p50_ms']:.1f} / {said['floor_p99_ms']:.1f}"
    rows: list[tuple[str, str, str, bool | None]] = [
        ("whole durable cycles/s", f"{speed:.0f}", f">= {AIM_CYCLES:.0f}", speed >= AIM_CYCLES),
        ("p99 of a cycle at half load, ms", f"{p99:.1f}", f"<= {AIM_P99_MS:.0f}", p99 <= AIM_P99_MS),
        ("  p95, ms", f"{said['p95_ms']:.1f}", "", None),
        ("  p50, ms", f"{said['p50_ms']:.1f}", "", None),
        ("  the floor's p50 / p99 at that rate, ms", floors, "", None),
        ("broker CPU per cycle, us", f"{said['cpu_us_per_cycle']:.0f}", "", None),
        ("floor per cycle, us", f"{said['floor_us_per_cycle']:.0f}", "", None),
        ("floor ratio", f"{ratio:.2f}", f"<= {AIM_RATIO}", ratio <= AIM_RATIO),
    ]
    grown = growth(run.long_run)
    if grown is not None:
        name = f"memory, 2nd half of {run.long_run[-1][0]:,} cycles"
        rows.append((name, f"{grown:+.1%}", "flat", abs(grown) <= AIM_GROWTH))
    return table(("what", "value", "aim", "met"), [(*row[:3], _met(row[3])) for row in rows])


def _met(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"


def _verbs(said: dict[str, Any]) -> str:
    rows = [
        (verb, f"{v['per_s']:.0f}", f"{v['cpu_us']:.0f}", *(f"{v[name]:.2f}" for name in _AT_HALF))
        for verb, v in said["verbs"].items()
    ]
    return table(("verb", "req/s alone", "CPU us", "p50 ms", "p95 ms", "p99 ms"), rows)


_AT_HALF = ("p50_ms", "p95_ms", "p99_ms")


def _stages(said: dict[str, Any]) -> str:
    rows = [(name, f"{value:.0f}") for name, value in said["stages_us"].items()]
    return table(("stage of a credential", "us"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    wide = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = [
        "  ".join(f"{cell:<{wide[at]}}" if at == 0 else f"{cell:>{wide[at]}}" for at, cell in enumerate(row))
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _bounds(said: dict[str, Any]) -> str:
    cpu, wire = said["cpu_us_per_cycle"], said["floor_us"]["http_tls"]
    crypto = said["floor_us_per_cycle"] - wire
    dearest = max(said["verbs"], key=lambda verb: said["verbs"][verb]["cpu_us"])
    rest = cpu - said["floor_us_per_cycle"]
    sentences = (
        f"What bounds it: {_who(said)}.",
        f"Of {cpu:.0f} us of broker CPU per cycle, HTTP and TLS take {wire:.0f},",
        f"{SIGNS} signatures and {VERIFIES} verifications {crypto:.0f}, and everything else",
        f"(parsing, policy, the store's transaction, the ledger) {rest:.0f};",
        f"{said['broker_system_share']:.0%} of it is the kernel's. The dearest verb is {dearest}.",
        f"At half load a cycle takes {said['half_cpu_us_per_cycle']:.0f} us, the floor's HTTP",
        f"and TLS then {said['floor_half_http_tls_us']:.0f}.",
        f"Generator: {said['generator_us_per_cycle']:.0f} us per cycle,",
        f"{said['generator_busy']:.0%} of its core.",
        f"Disk: fdatasync {said['fdatasync_us']:.0f} us, {said['store_bytes_per_cycle']:,} bytes per cycle.",
        f"Failures: {said['failures']} of {said['cycles']:,} cycles.",
    )
    return textwrap.fill(" ".join(sentences), 100)


def _who(said: dict[str, Any]) -> str:
    if said["generator_busy"] > GENERATOR_MOST:
        return "the GENERATOR is at its limit, so this says little of the broker"
    if said["broker_busy"] > 0.85:
        return f"the broker's one core ({said['broker_busy']:.0%} busy)"
    return (
        f"neither core (broker {said['broker_busy']:.0%}, generator {said['generator_busy']:.0%} busy):"
        " waiting for the disk, or other work on this machine"
    )
