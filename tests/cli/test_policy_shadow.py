"""`stepwrit policy shadow` and `impact` against a real development broker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli, Dev

from stepwrit_broker.cli import policy_shadow
from stepwrit_broker.policy.files import stance

STRICT = """
@id("by-hand")
@reason("payments are made by hand")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"],
        resource == Stepwrit::Tool::"ledger/transfer");
"""


@pytest.fixture(autouse=True)
def _found(with_dev: Dev) -> None:
    """Commands find the development broker by themselves."""


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    folder = tmp_path / "candidate"
    folder.mkdir()
    for name, text in {**stance("approval"), "60-strict.cedar": STRICT}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def ended(cli: Cli) -> Iterator[None]:
    """No shadow outlives its test."""
    yield
    if json.loads(cli("policy", "shadow", "status", "--json").stdout)["state"] != "off":
        assert cli("policy", "shadow", "stop", "--reason", "the test is over").exit_code == 0


def call(cli: Cli, dev: Dev) -> None:
    asked = ("dev", "call", "ledger", "transfer", '{"amount": 5}', "--url", dev.url, "--as-person", "alice")
    result = cli(*asked, "--json")
    assert result.exit_code == 0, result.stderr


def until(ask: Callable[[], dict[str, Any]], is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    ends = time.monotonic() + 30
    while not is_so(found := ask()):
        assert time.monotonic() < ends, found
        time.sleep(0.05)
    return found


@pytest.mark.usefixtures("ended")
def test_a_shadow_is_started_watched_and_ended(cli: Cli, dev: Dev, candidate: Path):
    wide = {"COLUMNS": "240"}
    assert cli("policy", "shadow", "status").stdout.startswith("no shadow is running")
    started = cli("policy", "shadow", "start", candidate, "--reason", "a week", env=wide)
    assert (started.exit_code, started.stderr) == (0, "")
    assert "candidate runs beside v" in started.stdout.replace("\n", "")
    again = cli("policy", "shadow", "start", candidate, "--reason", "twice")
    assert again.exit_code == 1
    assert "stop it first" in again.stderr
    call(cli, dev)  # what the shadow would refuse goes through

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cli("policy", "shadow", "status", "--json").stdout)["shadow"]
        return found

    found = until(status, lambda each: each["effects"].get("newly refused", 0) >= 1)
    assert found["policies"].keys() == {"by-hand"}
    assert cli("explain", found["changes"][0]["refs"][0]).exit_code == 0
    shown = cli("policy", "shadow", "status", env=wide).stdout
    for said in ("a week", "newly refused", "ledger/transfer", "by-hand", "decisions compared"):
        assert said in shown
    over = cli("policy", "shadow", "stop", "--reason", "seen enough", env=wide)
    assert "has ended" in over.stdout
    assert "newly refused" in over.stdout
    last = cli("policy", "shadow", "status", env=wide).stdout
    assert "no shadow is running" in last
    assert "was ended by uid" in last
    assert cli("policy", "shadow", "stop", "--reason", "again").exit_code == 1
    tail = cli("tail", "--json").stdout
    assert "shadow.started" in tail
    assert "shadow.stopped" in tail


def test_what_cannot_be_a_candidate_is_told(cli: Cli, candidate: Path):
    (candidate / "70.cedar").write_text("permit (")
    wrong = cli("policy", "shadow", "start", candidate, "--reason", "x")
    assert wrong.exit_code == 1
    assert "70.cedar:1:" in wrong.stderr
    for given, code in (("nowhere", 2), ("0", 2), ("9999", 1)):
        assert cli("policy", "shadow", "start", given, "--reason", "x").exit_code == code
        assert cli("policy", "impact", given).exit_code == code
    assert json.loads(cli("policy", "shadow", "status", "--json").stdout)["state"] == "off"


@pytest.mark.usefixtures("ended")
def test_an_impact_report_says_whom_it_would_hit_and_history_shows_it(
    cli: Cli, dev: Dev, candidate: Path, tmp_path: Path
):
    wide = {"COLUMNS": "240"}
    call(cli, dev)
    told = json.loads(cli("policy", "impact", candidate, "--json").stdout)
    assert told["replay"]["tools"]["ledger/transfer"]["newly refused"] >= 1
    assert (told["shadow"], told["needed"]) == (None, False)
    shown = cli("policy", "impact", candidate, "--since", "1h", "--exit-code", env=wide)
    assert shown.exit_code == 1
    for said in ("in force: v", "newly refused", "by-hand", "decisions asked again", "good until"):
        assert said in shown.stdout
    none = json.loads(cli("policy", "impact", candidate, "--since", "2099-01-01T00:00:00Z", "--json").stdout)
    assert none["replay"]["asked"] == 0
    in_force = told["live"]["version"]
    same = cli("policy", "impact", in_force, "--exit-code")
    assert same.exit_code == 0
    assert "this very policy is in force" in same.stdout
    applied = cli("policy", "apply", candidate, "--reason", "by hand from now on")
    assert applied.exit_code == 0
    try:
        version = json.loads(cli("policy", "history", "--json").stdout)[-1]
        assert (version["impact"]["ref"], version["impact"]["asked"]) == (none["ref"], 0)
        assert f"(ref {none['ref']})" in cli("policy", "history", env=wide).stdout
        assert cli("explain", version["ref"]).exit_code == 0
    finally:
        assert cli("policy", "undo", "--reason", "the test is over").exit_code == 0
    exported = tmp_path / "exported.json"
    exported.write_text(cli("policy", "show", "--json").stdout)
    assert json.loads(cli("policy", "impact", exported, "--json").stdout)["is_in_force"]


def test_a_shadow_of_the_same_policy_is_part_of_its_report(cli: Cli, dev: Dev, candidate: Path, ended: None):
    cli("policy", "shadow", "start", candidate, "--reason", "x")
    call(cli, dev)
    until(
        lambda: json.loads(cli("policy", "shadow", "status", "--json").stdout)["shadow"],
        lambda each: each["compared"] >= 2,
    )
    told = json.loads(cli("policy", "impact", candidate, "--json").stdout)
    assert told["shadow"]["effects"]["newly refused"] >= 1
    assert "in the shadow since" in cli("policy", "impact", candidate).stdout


FOUND: dict[str, Any] = {
    "compared": 5, "same": 3, "dropped": 4, "errors": {"timeout": 32}, "uncounted_changes": 1,
    "verdicts": [{"live": "permit", "shadow": "deny", "count": 2}],
    "effects": {"newly refused": 2},
    "tools": {"ledger/transfer": {"newly refused": 2}}, "initiators": {}, "policies": {},
    "changes": [
        {"effect": "obligations changed", "asking": "open_step", "tool": "ledger/transfer", "who": "me",
         "was": "permit", "now": "permit", "demands": {"was": [], "now": ["redact=to"]}, "policies": [],
         "count": 2, "last_ref": "REF0000000"}
    ],
    "changes_left_out": 7,
}  # fmt: skip
ABOUT: dict[str, Any] = {
    "candidate": "policy/", "digest": "sha256-c", "by": "uid 0", "reason": "a week", "since": 1e9,
    "ref": "REF1111111", "resumed_at": None,
}  # fmt: skip
LIVE = {"version": 7, "digest": "sha256-l"}


def test_nothing_of_what_a_shadow_missed_is_hidden(capsys: pytest.CaptureFixture[str]):
    shadow = {**ABOUT, **FOUND, "resumed_at": 1.1e9, "is_in_force": True, "waiting": 9, "queue": 1024}
    policy_shadow.tell_status({"shadow": shadow, "live": LIVE, "waiting_to_resume": None, "last": None})
    said = " ".join(capsys.readouterr().out.split())
    for each in (
        "counting anew since the broker's restart",
        "this very policy is in force now",
        "none → redact=to",
        "and 7 more kinds of change",
        "1 of more kinds than are kept one by one",
        "4 not asked: the queue was full",
        "32 without an answer: timeout",
        "9 waiting, of at most 1024",
    ):
        assert each in said


@pytest.mark.parametrize(("trouble", "said"), [(None, "it is being started"), ("OPA is away", "OPA is away")])
def test_a_shadow_that_does_not_run_since_a_restart_says_why(
    capsys: pytest.CaptureFixture[str], trouble: str | None, said: str
):
    told = {"shadow": None, "live": None, "waiting_to_resume": ABOUT, "trouble": trouble, "last": ABOUT}
    policy_shadow.tell_status({**told, "last": {**ABOUT, "ended_by": "uid 7", "ended_at": 1e9}})
    shown = capsys.readouterr().out
    assert "does not run since the broker's restart" in shown
    assert said in shown
    assert "was ended by uid 7" in shown


def test_a_report_says_what_it_did_not_reach(capsys: pytest.CaptureFixture[str]):
    replay = {**FOUND, "asked": 5, "not_asked_again": {"erased": 2}, "first_entry": 3, "last_entry": 9}
    policy_shadow.tell_impact(
        {**ABOUT, "live": None, "is_in_force": False, "needed": True, "valid_until": 1e9, "shadow": None,
         "replay": {**replay, "entries_not_reached": 11}}
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    for each in (
        "no policy is in force",
        "entries 3 to 9",
        "2 not asked again: erased",
        "11 newer entries not reached in the time for it",
        "an activation needs one",
    ):
        assert each in said
