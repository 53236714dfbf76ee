"""The bench itself: a tiny run starts and ends everything, and every cycle of it succeeds. No timings."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.bench import decide
from tests.bench.measure import Window
from tests.bench.policies import STANCE, policy
from tests.bench.report import growth, percentile
from tests.bench.runner import verb_of

from stepwrit_broker.policy.files import compile_policy, load

KEYS = {
    "cycles_per_s",
    "p50_ms",
    "p99_ms",
    "cpu_us_per_cycle",
    "floor_us_per_cycle",
    "floor_ratio",
    "stages_us",
    "decisions",
    "call",
    "cascade",
}
TINY = (
    "--json",
    "--seconds",
    "0.2",
    "--windows",
    "1",
    "--lanes",
    "2",
    "--cycles",
    "20",
    "--decisions",
    "50",
    "--calls",
    "20",
    "--tree",
    "3",
    "2",
)


async def bench(*given: str) -> tuple[int, str, str]:
    return await started("tests.bench", *given)


async def started(module: str, *given: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, said = await process.communicate()
    return process.returncode or 0, out.decode(), said.decode()


@pytest.mark.slow
async def test_a_tiny_bench_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    code, out, said = await bench(*TINY, "--folder", str(tmp_path))
    assert code == 0, said
    told = json.loads(out)
    assert told.keys() >= KEYS
    assert set(told["verbs"]) == {"open", "accept", "credential", "redeem", "close"}
    assert (told["failures"], told["cycles"] > 0) == (0, True)
    assert {row["statements"] for row in told["decisions"]} == {11, 200}
    assert (told["call"]["calls"], told["cascade"]["steps"]) == (20, 6)
    assert {"open", "accept", "close"} <= told["call"]["verbs"].keys()
    assert told["memory"][-1]["cycles"] == 20
    assert list(tmp_path.iterdir()) == []


def test_percentiles_are_of_the_sorted_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert percentile([], 0.5) == 0.0


def test_cpu_per_cycle_counts_user_and_system() -> None:
    window = Window(cycles=1000, seconds=2.0, broker_user=1.0, broker_system=0.5, generator_cpu=0.4, rss=1)
    assert (window.per_second, window.cpu_us, window.busy) == (500.0, 1500.0, 0.75)
    assert (round(window.generator_us), window.generator_busy) == (400, 0.2)


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_benchs_policies_have_as_many_statements_as_they_say(everywhere: bool) -> None:
    cedar = policy("cedar", 200, everywhere=everywhere)
    assert len(compile_policy(load(cedar).doc, 1)._rules) == 200  # type: ignore[union-attr]
    rego = "".join(policy("opa", 200, everywhere=everywhere).values())
    assert rego.count('{"id": "r') == 200 - STANCE


@pytest.mark.live
async def test_opa_is_measured_beside_it() -> None:
    (row,) = await decide.asked_of_opa(50, 40)
    assert (row.what, row.statements) == ("OPA, Unix socket", 40)


def test_the_floor_knows_the_five_calls_by_their_paths() -> None:
    paths = ("/v1/steps", "/v1/steps/stp_1/accept", "/oauth/token", "/v1/redeem", "/v1/steps/stp_1/close")
    assert [verb_of(path) for path in paths] == ["open", "accept", "credential", "redeem", "close"]


def test_memory_growth_is_that_of_the_second_half() -> None:
    assert growth([(1, 100), (2, 200), (3, 200), (4, 220)]) == pytest.approx(0.1)
    assert growth([(1, 100)]) is None
