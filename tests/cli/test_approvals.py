"""`stepwrit approvals` and `dev call --wait`, against a real development broker."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cli.conftest import STEPWRIT, Cli, Dev

CALL = ("dev", "call", "ledger", "transfer")
START_S = 30.0


@pytest.fixture(autouse=True)
def _found(with_dev: Dev) -> None:
    """Commands find the development broker by themselves."""


@pytest.fixture
def waits(dev: Dev, cli: Cli) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A call of high impact that waits for a signature, and its approval."""
    call = [*STEPWRIT, *CALL, '{"amount": 7}', "--url", dev.url, "--impact", "high", "--wait", "60"]
    process = subprocess.Popen(
        call, env={**os.environ, **dev.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, _first(cli, process)
    finally:
        process.kill()
        process.wait(20)
        assert cli(*CALL, '{"amount": 1}', "--impact", "low").exit_code == 0


def _first(cli: Cli, process: subprocess.Popen[str]) -> dict[str, Any]:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        found = json.loads(cli("approvals", "list", "--json").stdout)
        if found:
            waiting: dict[str, Any] = found[0]
            return waiting
        time.sleep(0.1)
    pytest.fail(f"nothing waits: {process.communicate()}")


def test_a_waiting_call_is_listed_shown_reminded_of_and_cancelled(
    cli: Cli, waits: tuple[subprocess.Popen[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    process, asked = waits
    name = asked["id"]
    listed = cli("approvals", "list").stdout
    assert "◆ MODEL  ledger/transfer  high impact  asked" in listed
    assert name in listed
    assert "1 more of the requester; " in listed
    shown = cli("approvals", "show", name).stdout
    for word in (asked["url"], asked["digest"], "nobody yet", "1 of the requester", "min left"):
        assert word in shown
    assert '"amount"' not in cli("approvals", "show", name, "--json").stdout
    assert cli("approvals", "remind", name).stdout.startswith("told again: the requester   http")
    cancelled = cli("approvals", "cancel", name, "--reason", "a test")
    assert (cancelled.exit_code, cancelled.stdout.partition(":")[0]) == (0, "cancelled")

    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"waits for a person to sign at {asked['url']}" in err
    assert "refused: access_denied" in out
    assert cli("approvals", "list").stdout == "nothing waits for a person\n"
    over = cli("approvals", "show", name).stdout
    assert "a test" in over
    assert name in cli("approvals", "list", "--state", "cancelled").stdout


def test_what_is_not_there_is_refused(cli: Cli) -> None:
    assert cli("approvals", "list").exit_code == 0
    unknown = cli("approvals", "show", "apr_100" + "A" * 26)
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "not_found" in unknown.stderr
    for verb in ("show", "remind"):
        assert cli("approvals", verb, "../status").exit_code == 2
    assert cli("approvals", "cancel", "apr_100" + "A" * 26).exit_code == 2  # no reason
    assert cli("approvals", "list", "--state", "lost").exit_code == 2


def test_without_waiting_the_call_says_how_to_wait(cli: Cli, dev: Dev) -> None:
    call = (*CALL, '{"amount": 2}', "--url", dev.url)
    result = cli(*call, "--impact", "high")
    try:
        assert result.exit_code == 1
        assert "say --wait 300" in result.stdout
        said = json.loads(cli(*call, "--json").stdout)
        assert said["refusal"]["approval"]["url"].startswith("http")
    finally:
        assert cli(*call, "--impact", "low").exit_code == 0
