"""The public MCP conformance suite against a guarded server, and against the same one without the guard."""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.fakes.serving import serving
from tests.live.conformance.everything import everything

from stepwrit_broker.dev import suites
from stepwrit_broker.dev.broker import LIMITS, DevBroker, DevOptions
from stepwrit_broker.dev.ca import DevelopmentModeWarning

pytestmark = pytest.mark.live
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "conformance.md"
SERVER = Path(__file__).with_name("everything.py")
REVISIONS = ("2025-11-25", "2026-07-28")
Checks = Mapping[tuple[str, str], str]
"""(scenario, check) to its status."""


def listed(title: str, columns: int) -> set[tuple[str, ...]]:
    """The rows of the table under a title of the page, without the reasons."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
    rows = [tuple(cell.strip(" `") for cell in cells) for cells in lines]
    assert all(len(row) == columns and row[-1] for row in rows), "each row gives its reason"
    return {row[:-1] for row in rows[2:]}


async def run(url: str, revision: str, into: Path) -> Checks:
    """Every check of every scenario that the revision requires."""
    words = ("server", "--url", url, "--requirements", revision, "-o", str(into))
    process = await asyncio.create_subprocess_exec(
        *suites.find(), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    found: dict[tuple[str, str], str] = {}
    for file in into.glob("*/checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", file.parent.name)
        for check in json.loads(file.read_text(encoding="utf-8")):
            found[scenario, check["id"]] = check["status"]
    assert found, said.decode()[-2000:]
    return found


def entry() -> dict[str, object]:
    tools = {
        tool.name: {"impact": "low", "plan": "self", "without_step": "root"}
        for tool in asyncio.run(everything(guarded=False).list_tools())
    }
    return {
        "id": "spiffe://dev.stepwrit.internal/mcp-server/everything",
        "role": "mcp-server",
        "name": "everything",
        "tools": tools,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Checks], Mapping[str, Checks]]:
    """The bare server's checks and the guarded one's, by revision."""
    folder, mine = tmp_path_factory.mktemp("mcp"), entry()
    wide = re.sub(r"rate: \d+/min, burst: \d+", "rate: 60000/min, burst: 10000", LIMITS)
    options = DevOptions(entries=(mine,), limits=wide)

    async def both() -> tuple[Mapping[str, Checks], Mapping[str, Checks]]:
        path = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])}
        async with DevBroker(folder / "dev", options) as dev:
            identity = {**path, **dev.environment("mcp-server/everything")}
            async with (
                serving(SERVER, folder / "bare.log", path, "bare") as bare,
                serving(SERVER, folder / "guarded.log", identity) as guarded,
            ):
                plain = {each: await run(bare, each, folder / f"bare-{each}") for each in REVISIONS}
                ours = {each: await run(guarded, each, folder / f"guarded-{each}") for each in REVISIONS}
        return plain, ours

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)
        return asyncio.run(both())


def test_what_the_bare_server_passes_the_guarded_one_passes_but_for_the_exceptions(
    results: tuple[Mapping[str, Checks], Mapping[str, Checks]],
) -> None:
    plain, ours = results
    lost = {
        (revision, *check)
        for revision in REVISIONS
        for check, status in plain[revision].items()
        if status == "SUCCESS" and ours[revision].get(check) != "SUCCESS"
    }
    assert lost == listed("Exceptions", 4)


def test_the_guard_adds_no_failure_of_its_own(
    results: tuple[Mapping[str, Checks], Mapping[str, Checks]],
) -> None:
    """A check that only the guarded server's answers brought about."""
    plain, ours = results
    new = {
        (revision, *check)
        for revision in REVISIONS
        for check, status in ours[revision].items()
        if status == "FAILURE" and plain[revision].get(check) != "FAILURE"
    }
    assert new <= listed("Exceptions", 4)


def test_what_the_bare_server_fails_is_known(
    results: tuple[Mapping[str, Checks], Mapping[str, Checks]],
) -> None:
    plain, _ = results
    failing = {
        (revision, scenario)
        for revision in REVISIONS
        for (scenario, _), status in plain[revision].items()
        if status == "FAILURE"
    }
    assert failing == listed("What the SDK itself does not pass", 3)


def test_the_suite_ran_whole(results: tuple[Mapping[str, Checks], Mapping[str, Checks]]) -> None:
    plain, ours = results
    for revision, least in zip(REVISIONS, (33, 50), strict=True):
        for checks in (plain[revision], ours[revision]):
            assert len({scenario for scenario, _ in checks}) >= least
