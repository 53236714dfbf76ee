"""`stepwrit policy check|test|diff`: offline with folders, with a broker for what is in force."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, Dev

from stepwrit_broker.cli.policy_texts import policy_of
from stepwrit_broker.cli.showing import as_file
from stepwrit_broker.policy.files import load, stance

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "policies"
SCENARIOS = SHIPPED / "scenarios"
WIDE = {"COLUMNS": "200"}  # nothing is broken over lines
RULE = """
@id("small-transfers-only")
@reason("transfers above 1000 are made by hand")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"],
        resource == Stepwrit::Tool::"ledger/transfer")
unless { context.facts has amount && context.facts.amount <= 1000 };
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The stance `approval`, to be changed."""
    return Path(shutil.copytree(SHIPPED / "approval", tmp_path / "policy"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_good_folder_passes_the_check(cli: Cli, policy: Path):
    result = cli("policy", "check", policy)
    assert (result.exit_code, result.stdout) == (0, f"✓ {policy} loads: 10 statements\n")
    told = json.loads(cli("policy", "check", policy, "--json").stdout)
    assert told["ok"] is True
    assert told["statements"]["server-low-only"] == "20-servers.cedar:3"


def test_every_problem_is_said_with_file_and_line(cli: Cli, policy: Path):
    edit(policy / "20-servers.cedar", '@id("server-low-only")', '@id("Server")')
    edit(policy / "30-attestation.cedar", "when {", "when ({")
    edit(policy / "40-approval.cedar", "context.action.impact", "context.action.size")
    result = cli("policy", "check", policy)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{policy}/20-servers.cedar:3: every policy needs an @id" in result.stderr
    assert f"{policy}/30-attestation.cedar:3: " in result.stderr
    assert f"{policy}/40-approval.cedar:3: high-needs-approval: " in result.stderr
    told = json.loads(cli("policy", "check", policy, "--json").stdout)
    assert told["ok"] is False
    assert len(told["problems"]) == 4


def test_what_the_schema_does_not_know_is_a_problem_with_its_line(cli: Cli, policy: Path):
    edit(policy / "20-servers.cedar", "context.origin", "context.started")
    result = cli("policy", "check", policy)
    assert result.exit_code == 1
    assert f"{policy}/20-servers.cedar:3: server-low-only: " in result.stderr


def test_a_stance_passes_its_scenarios(cli: Cli, policy: Path):
    result = cli("policy", "test", policy, SCENARIOS / "common.yaml", SCENARIOS / "approval.yaml", env=WIDE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "✓  a model's step of medium impact " in result.stdout
    assert "65 of 65 cases as expected" in result.stdout


def test_a_planted_difference_is_found_and_told(cli: Cli, policy: Path):
    given = ("policy", "test", policy, SCENARIOS / "common.yaml")
    assert cli(*given).exit_code == 0
    edit(policy / "20-servers.cedar", '!= "low"', '== "high"')
    result = cli(*given)
    assert result.exit_code == 1
    assert "common.yaml:48: a server's step of medium impact [open_step]" in result.stdout
    assert "    verdict: expected deny, came permit\n" in result.stdout
    assert "    decided by registered-tools\n" in result.stdout
    told = json.loads(cli(*given, "--json").stdout)
    wrong = {each["name"]: each for each in told["cases"] if not each["ok"] and each["asking"] == "open_step"}
    assert told["ok"] is False
    assert wrong["a trigger's step of medium impact"]["came"]["verdict"] == "permit"
    assert "a trigger's step of high impact" not in wrong


def test_the_rule_of_the_how_to_passes_its_scenarios(cli: Cli, policy: Path):
    (policy / "60-amounts.cedar").write_text(RULE)
    (policy / "facts.json").write_text('{"amount": "Long"}')
    result = cli("policy", "test", policy, SCENARIOS / "amounts.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    edit(policy / "60-amounts.cedar", "<= 1000", "<= 2000")
    assert cli("policy", "test", policy, SCENARIOS / "amounts.yaml").exit_code == 1


def test_a_partner_that_is_named_passes_its_scenarios(cli: Cli, policy: Path):
    given = ("policy", "test", policy, SCENARIOS / "partner-named.yaml")
    assert cli(*given).exit_code == 1
    edit(policy / "50-federation.cedar", "[context.home].", '[context.home, "partner.example"].')
    assert cli(*given).exit_code == 0


def test_a_scenario_file_with_a_problem_is_refused_by_line_and_column(cli: Cli, policy: Path, tmp_path: Path):
    suite = tmp_path / "mine.yaml"
    shutil.copytree(SCENARIOS / "registry", tmp_path / "registry")
    suite.write_text((SCENARIOS / "low-risk.yaml").read_text())
    edit(suite, "given: {deferred: true}", "given: {differed: true}")
    result = cli("policy", "test", policy, suite)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{suite}:22:13: scenarios[3].given.differed: is not known here; did you mean deferred?" in (
        result.stderr
    )


def test_the_difference_of_two_folders_is_said_by_statement(cli: Cli, policy: Path):
    same = cli("policy", "diff", SHIPPED / "approval", policy, "--exit-code")
    assert (same.exit_code, same.stdout.splitlines()[-1]) == (0, "the same statements")
    (policy / "60-amounts.cedar").write_text(RULE)
    (policy / "facts.json").write_text('{"amount": "Long"}')
    (policy / "40-approval.cedar").unlink()
    edit(policy / "20-servers.cedar", '!= "low"', '== "high"')
    edit(policy / "10-base.cedar", "// A trigger acts", "// moved\n\n// A trigger acts")
    told = json.loads(cli("policy", "diff", SHIPPED / "approval", policy, "--json").stdout)
    assert {each["name"]: each["how"] for each in told["statements"]} == {
        "fact amount": "added",
        "high-needs-approval": "removed",
        "server-low-only": "changed",
        "small-transfers-only": "added",
    }
    assert told["scenarios"] is None
    assert cli("policy", "diff", SHIPPED / "approval", policy, "--exit-code").exit_code == 1


def test_the_difference_says_which_scenarios_are_answered_otherwise(cli: Cli, policy: Path):
    given = ("policy", "diff", SHIPPED / "approval", policy, "--scenarios", SCENARIOS / "approval.yaml")
    assert "no scenario is answered otherwise" in cli(*given).stdout
    (policy / "40-approval.cedar").unlink()
    result = cli(*given, env=WIDE)
    assert result.exit_code == 0
    assert "a model's step of high impact waits" in result.stdout
    assert "approval (high-needs-approval)" in result.stdout
    assert "permit (registered-tools)" in result.stdout
    assert "goes on once it is signed" not in result.stdout


def test_what_is_no_policy_is_wrong_usage(cli: Cli, policy: Path):
    result = cli("policy", "diff", "yesterday", policy)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "yesterday is no folder, no file, no version number and not in-force" in result.stderr


def test_what_is_in_force_and_earlier_versions_are_compared_with_a_folder(
    cli: Cli, with_dev: Dev, policy: Path, tmp_path: Path
):
    exported = tmp_path / "exported.cedar"
    exported.write_text(cli("policy", "export").stdout)
    version = json.loads(cli("policy", "show", "--json").stdout)
    shown = tmp_path / "shown.json"
    shown.write_text(json.dumps(version))
    for same in (exported, shown, version["version"]):
        result = cli("policy", "diff", "in-force", same, "--exit-code")
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "the same statements")
    (policy / "60-amounts.cedar").write_text(RULE)
    (policy / "facts.json").write_text('{"amount": "Long"}')
    result = cli("policy", "diff", "in-force", policy, "--exit-code")
    assert result.exit_code == 1
    assert "added small-transfers-only\n+ @id(" in result.stdout
    missing = cli("policy", "diff", "9999", policy)
    assert missing.exit_code == 1
    assert "there is no version 9999 of the policy" in missing.stderr


def test_an_exported_policy_with_facts_is_one_that_loads(
    cli: Cli, with_dev: Dev, policy: Path, tmp_path: Path
):
    (policy / "60-amounts.cedar").write_text(RULE)
    (policy / "facts.json").write_text('{"amount": "Long"}')
    assert cli("policy", "apply", policy, "--reason", "amounts").exit_code == 0
    try:
        assert cli("policy", "export", "--to", tmp_path / "again").exit_code == 0
        assert cli("policy", "check", tmp_path / "again").exit_code == 0
        result = cli("policy", "diff", policy, tmp_path / "again", "--exit-code")
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "the same statements")
    finally:
        assert cli("policy", "undo", "--reason", "test").exit_code == 0


def test_an_exported_rego_policy_reads_as_its_folder_does(tmp_path: Path) -> None:
    files = stance("approval", "opa")
    (tmp_path / "exported").write_text(as_file("policy", json.loads(load(files).doc)))
    read = json.loads(policy_of(str(tmp_path / "exported"), None).doc)["files"]
    assert {name: text.rstrip() for name, text in read.items()} == {
        name: text.rstrip() for name, text in files.items()
    }
