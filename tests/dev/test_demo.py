"""The demo's story, played in this process on real parts: all as told, by the broker's own books."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwrit_broker.cli.render import lineage_tree
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.demo.run import Outcome, play
from stepwrit_broker.dev.demo.tell import Teller


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-demo-", dir="/tmp") as made:  # Unix socket paths are short
        yield Path(made)


async def test_the_story_goes_as_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)
        teller = Teller(quiet=False, tree=lineage_tree)
        teller.opening()
        told = await play(folder, teller)
        teller.end(told)
    assert told["as_told"], told["wrong"]
    assert (told["issued"], told["redeemed"], told["revoked"]) == (4, 4, 4)
    # the intent; six calls of the model's, two of them attacks; what servers started: record, store, the
    # sampling, what the model picked there, and the job
    assert told["steps"] == {"human": 1, "model": 7, "server": 5}
    assert told["job"]["origin"] == "server"
    assert all(count >= 1 for count in told["refused"].values())
    assert told["ledger"]["verified"]
    shown = capsys.readouterr().out
    assert "NOT REFUSED" not in shown
    assert "HUMAN" in shown
    assert "SERVER" in shown
    assert "signed with her own key" in shown
    assert "archive/store" in shown
    assert "client/sampling" in shown
    assert "archive/report resumed, origin server" in shown


def test_what_was_not_as_told_is_said() -> None:
    outcome = Outcome()
    outcome.expect("replay", "replay", None)
    assert outcome.wrong == ["replay: expected replay, got no refusal"]
