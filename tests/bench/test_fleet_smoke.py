"""The fleet's bench: a tiny run on real engines has all its fields, and every cycle succeeds. No timings."""

from __future__ import annotations

import json

import pytest
from tests.bench import fleet
from tests.bench.cycle import VERBS
from tests.bench.fleet_report import Sample
from tests.bench.fleet_rig import Reading, cpu_s
from tests.bench.measure import Window
from tests.bench.test_bench_smoke import started

TINY = ("--json", "--seconds", "0.2", "--windows", "1", "--lanes", "2", "--brokers", "2")
NAMED = {"redis_memory", "redis_aof", "redis_wire", "postgres_wal", "postgres_ledger", "postgres_tables"}


@pytest.mark.live
async def test_a_tiny_run_measures_every_process() -> None:
    code, out, said = await started("tests.bench.fleet", *TINY)
    assert code == 0, said
    told = json.loads(out)
    assert told["failures"] == 0
    (two,) = told["fleets"]
    assert (two["brokers"], two["cycles"] > 0) == (2, True)
    assert set(two["verbs_cpu_us"]) == set(VERBS)
    assert two["sequencer"]["cycles_per_s"] > 0
    assert two["bytes_per_cycle"].keys() == NAMED
    assert all(two["bytes_per_cycle"][name] > 0 for name in ("redis_aof", "redis_wire", "postgres_wal"))
    assert two["cpu_us_per_cycle"].keys() == {"brokers", "redis", "postgres", "driver"}
    assert two["redis"]["scripts_per_cycle"] >= len(VERBS)
    assert set(two["half"]) == {"cycles_per_s", "cycle", *VERBS}


def reading(**more: float) -> Reading:
    none = dict.fromkeys(Reading.__dataclass_fields__, 0)
    return Reading(**{**none, **more})  # type: ignore[arg-type]


def test_what_a_window_took_is_a_difference() -> None:
    window = Window(cycles=4, seconds=1.0, broker_user=0.0, broker_system=0.0, generator_cpu=0.0, rss=1)
    sample = Sample(
        seconds=2.0, windows=[window, window], brokers=[0.1], driver=0.1,
        before=reading(wal=10), after=reading(wal=30), settled=reading(wal=31),
    )  # fmt: skip
    assert (sample.cycles, sample.per_second) == (8, 4.0)
    assert (sample.used("wal"), sample.used("wal", is_settled=True)) == (20.0, 21.0)


def test_the_cpu_of_a_process_that_is_gone_is_none() -> None:
    assert cpu_s(2**22 + 1) == (0.0, 0.0)


def test_sizes_are_told_by_options() -> None:
    assert fleet.options(["--brokers", "1", "3"]).brokers == [1, 3]
