"""`stepwrit explain --stitch`: the stories of two brokers, joined by the digest of the grant that crossed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.stage import Stage
from tests.fakes.two import Two
from typer.testing import CliRunner, Result

from stepwrit_broker.cli.app import app
from stepwrit_broker.cli.stitching import joins

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def cli(stage: Stage, *words: str) -> Result:
    """The command, in a thread: the broker that it asks runs here."""
    admin = str(stage.folder / "admin.sock")
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--admin", admin])


class Crossed:
    """One chain that crossed: the transaction at home, the one away, and their stories in files."""

    def __init__(self, two: Two, home: str, away: str, folder: Path) -> None:
        self.two, self.home, self.away, self.folder = two, home, away, folder

    async def story(self, stage: Stage, txn: str) -> dict[str, Any]:
        told = await cli(stage, "explain", txn, "--json")
        assert told.exit_code == 0, told.output
        return dict(json.loads(told.stdout))

    async def theirs(self, **changes: Any) -> Path:
        """The other side's story in a file, changed."""
        path = self.folder / "theirs.json"
        path.write_text(json.dumps({**await self.story(self.two.away, self.away), **changes}))
        return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crossed(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Crossed]:
    async with Two() as two:
        crossing = await two.crossing()
        landed = await two.landed(crossing)
        vault = await two.away.actor("mcp-server/vault")
        (await vault.accept(landed)).ok()
        (await vault.close(landed.step)).ok()
        (await (await two.home.actor("agent/chat")).close(crossing.opened.step)).ok()
        yield Crossed(two, crossing.opened.txn, landed.txn, tmp_path_factory.mktemp("stitch"))


async def test_two_stories_are_one_chain_from_either_side(crossed: Crossed) -> None:
    theirs = await crossed.theirs()
    shown = await cli(crossed.two.home, "explain", crossed.home, "--stitch", str(theirs))
    assert shown.exit_code == 0, shown.output
    assert "joined by the grant" in shown.stdout
    assert shown.stdout.index(crossed.home) < shown.stdout.index(crossed.away)
    assert "the step's origin is model" in shown.stdout
    assert "counts it as server" in " ".join(shown.stdout.split())
    ours = crossed.folder / "ours.json"
    ours.write_text(json.dumps(await crossed.story(crossed.two.home, crossed.home)))
    other = await cli(crossed.two.away, "explain", crossed.away, "--stitch", str(ours))
    assert other.exit_code == 0, other.output
    assert other.stdout.index(crossed.home) < other.stdout.index(crossed.away), "home first, whoever asks"


async def test_json_says_what_was_compared_and_what_is_only_said(crossed: Crossed) -> None:
    shown = await cli(
        crossed.two.home, "explain", crossed.home, "--json", "--stitch", str(await crossed.theirs())
    )
    (join,) = json.loads(shown.stdout)["joins"]
    assert (join["holds"], join["txn"], join["into"]) == (True, crossed.home, crossed.away)
    assert [each["good"] for each in join["checks"]] == [True] * 6
    assert len(join["claims"]) == 4


async def test_another_chain_does_not_join(crossed: Crossed) -> None:
    root = await crossed.two.home.root()
    shown = await cli(crossed.two.home, "explain", root["txn"], "--stitch", str(await crossed.theirs()))
    assert (shown.exit_code, "no grant is in both stories" in shown.output) == (1, True)


async def test_a_story_that_was_changed_does_not_match(crossed: Crossed) -> None:
    story = await crossed.story(crossed.two.away, crossed.away)
    decisions = json.loads(json.dumps(story["decisions"]))
    (kept,) = [each for each in decisions.values() if each and "grant" in each]
    kept["grant"] = kept["grant"].replace('"origin":"model"', '"origin":"human"')
    theirs = await crossed.theirs(decisions=decisions)
    shown = await cli(crossed.two.home, "explain", crossed.home, "--stitch", str(theirs))
    assert shown.exit_code == 1
    assert "DOES NOT MATCH" in shown.stdout
    assert "the two stories do not match" in shown.output


async def test_claims_that_were_erased_are_told_as_such(crossed: Crossed) -> None:
    theirs = await crossed.story(crossed.two.away, crossed.away)
    ours = await crossed.story(crossed.two.home, crossed.home)
    (join,) = joins({**ours, "decisions": {}}, {**theirs, "decisions": {}})
    assert [good for good, _ in join.checks] == [True, None, None]
    assert join.holds


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"events": 5}'])
async def test_what_is_no_story_is_said_so(crossed: Crossed, text: str) -> None:
    path = crossed.folder / "bad.json"
    path.write_text(text)
    shown = await cli(crossed.two.home, "explain", crossed.home, "--stitch", str(path))
    assert shown.exit_code == 1
    assert "explain REF --json" in shown.output
