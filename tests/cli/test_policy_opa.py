"""The rehearsal commands on a folder of Rego, with a real OPA."""

import asyncio
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.policy.opa_process import running_opa

from stepwrit_broker.policy.files import stance

SCENARIOS = Path(__file__).parents[2] / "deploy" / "policies" / "scenarios"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "rego"
    folder.mkdir()
    for name, text in stance("approval", "opa").items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.live
async def test_a_rego_folder_is_checked_and_asked_with_the_opa_that_is_named(
    cli: Cli, policy: Path, tmp_path: Path
):
    suites = (SCENARIOS / "common.yaml", SCENARIOS / "approval.yaml")
    async with running_opa(tmp_path) as opa:
        checked = await asyncio.to_thread(cli, "policy", "check", policy, "--opa", opa.url)
        assert (checked.exit_code, checked.stderr) == (0, "")
        tested = await asyncio.to_thread(cli, "policy", "test", policy, *suites, "--opa", opa.url)
        assert (tested.exit_code, tested.stderr) == (0, "")
        (policy / "40-approval.rego").unlink()
        tested = await asyncio.to_thread(cli, "policy", "test", policy, *suites, "--opa", opa.url)
        assert tested.exit_code == 1
        assert "verdict: expected approval, came permit" in tested.stdout


def test_rego_without_an_opa_is_not_taken_for_good(cli: Cli, policy: Path):
    result = cli("policy", "check", policy)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "it is Rego" in result.stderr
