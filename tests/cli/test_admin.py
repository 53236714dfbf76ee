"""Commands against a real development broker: explain, tail, the brake, documents, limits, the ledger."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Cli, Dev

Called = dict[str, Any]


@pytest.fixture(scope="module")
def called(dev: Dev) -> Called:
    """One call that went through, as `dev call --json` tells it."""
    from typer.testing import CliRunner

    from stepwrit_broker.cli.app import app

    args = [
        "dev",
        "call",
        "ledger",
        "transfer",
        '{"amount": 5}',
        "--url",
        dev.url,
        "--as-person",
        "alice",
        "--json",
    ]
    result = CliRunner().invoke(app, args, env=dev.env)
    assert result.exit_code == 0, result.stderr
    said: Called = json.loads(result.stdout)
    return said


@pytest.fixture(autouse=True)
def _found(with_dev: Dev) -> None:
    """Commands find the development broker by themselves."""


def test_explain_draws_who_started_what(cli: Cli, called: Called):
    for name in (called["ref"], called["txn"]):
        shown = cli("explain", name).stdout
        assert "● HUMAN  intent  done" in shown
        assert "alice of http://127.0.0.1" in shown
        assert "◆ MODEL  ledger/transfer  low impact  done" in shown
        assert "agent/dev → mcp-server/ledger" in shown
        assert re.search(r"permit by registered-tools \(policy v\d+, registry v\d+, limits v\d+\)", shown)
    assert f"ref {called['ref']} ◀ this" in cli("explain", called["ref"]).stdout


def test_lineage_is_the_tree_alone(cli: Cli, called: Called):
    shown = cli("lineage", called["txn"]).stdout
    assert shown == cli("explain", called["txn"]).stdout
    assert [each["origin"] for each in json.loads(cli("lineage", called["txn"], "--json").stdout)] == [
        "human"
    ]


def test_explain_json_is_the_answer_of_the_api(cli: Cli, called: Called):
    said = json.loads(cli("explain", called["txn"], "--json").stdout)
    assert said["root"]["requester"]["subject"] == "alice"
    assert said["steps"][0]["children"][0]["tool"] == "ledger/transfer"


@pytest.mark.parametrize(
    "name", ["AAAAAAAAAA", "txn_100" + "A" * 26, "../status", "x?y#z", "ünïcode", "%2e%2e"]
)
def test_what_is_not_there_is_refused_with_exit_code_1(cli: Cli, called: Called, name: str):
    assert cli("explain", called["ref"]).exit_code == 0
    result = cli("explain", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("refused: not_found:")


def test_tail_shows_one_entry_a_line_and_starts_where_it_is_told(cli: Cli, called: Called):
    lines = cli("tail", "--after", -1).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    assert any(
        "step.opened" in line and "◆ MODEL" in line and "ledger/transfer (low)" in line for line in lines
    )
    assert cli("tail", "--after", len(lines) - 2).stdout.splitlines() == lines[-1:]
    last = [json.loads(line) for line in cli("tail", "--json").stdout.splitlines()]
    assert len(last) == 20 or last[0]["seq"] == 0


def test_a_refused_call_has_a_ref_that_tail_and_explain_know(cli: Cli, dev: Dev, called: Called):
    assert cli("freeze", "tool:ledger/transfer", "--reason", "incident 30").exit_code == 0
    try:
        result = cli("dev", "call", "ledger", "transfer", '{"amount": 1}')
        assert result.exit_code == 1
        assert "✗ refused: frozen" in result.stdout
        ref = result.stdout.partition("stepwrit explain ")[2].split()[0]
        refused = [json.loads(line) for line in cli("tail", "--refused", "--json").stdout.splitlines()]
        assert refused[-1]["ref"] == ref
        assert {each["kind"] for each in refused} <= {"refused", "refused.counted"}
        told = cli("explain", ref).stdout
        assert "✗ refused at open: frozen" in told
        assert f"ref {ref} ◀ this" in told
    finally:
        assert cli("unfreeze", "tool:ledger/transfer", "--reason", "over").exit_code == 0


def test_a_call_of_high_impact_waits_for_an_approval(cli: Cli, dev: Dev, called: Called):
    result = cli("dev", "call", "ledger", "transfer", '{"amount": 2}', "--impact", "high")
    try:
        assert result.exit_code == 1
        assert "authorization_pending" in result.stdout
        kinds = [json.loads(line)["kind"] for line in cli("tail", "--json").stdout.splitlines()]
        assert "approval.asked" in kinds
    finally:
        assert cli("dev", "call", "ledger", "transfer", '{"amount": 1}', "--impact", "low").exit_code == 0


def test_a_freeze_stops_the_next_call_and_unfreeze_lets_it_go_on(cli: Cli, called: Called):
    call = ("dev", "call", "ledger", "transfer", '{"amount": 1}')
    assert cli(*call).exit_code == 0
    frozen = cli("freeze", "tool:ledger/transfer", "--reason", "incident 31")
    assert frozen.exit_code == 0
    assert frozen.stdout.startswith("frozen: tool:ledger/transfer (development broker)   ref ")
    try:
        stopped = cli(*call)
        assert stopped.exit_code == 1
        assert "refused: frozen: the tool is frozen" in stopped.stdout
        assert "incident 31" in cli("marks").stdout
        assert json.loads(cli("marks", "--json").stdout)[0]["target"] == "tool:ledger/transfer"
    finally:
        assert cli("unfreeze", "tool:ledger/transfer", "-r", "all clear").exit_code == 0
    assert cli(*call).exit_code == 0
    again = cli("unfreeze", "tool:ledger/transfer", "-r", "all clear")
    assert again.exit_code == 1
    assert "no freeze stands on that target" in again.stderr


def test_a_revoked_transaction_says_so_in_its_tree(cli: Cli, called: Called):
    assert "revoke" not in cli("explain", called["txn"]).stdout
    said = json.loads(cli("revoke", called["txn"], "--reason", "incident 32", "--json").stdout)
    assert said["target"] == f"txn:{called['txn']}"
    assert "! revoke set on txn:" in cli("explain", called["txn"]).stdout
    assert cli("unfreeze", called["txn"], "--reason", "no").exit_code == 1


def test_status_says_who_you_are(cli: Cli, dev: Dev):
    assert "spiffe://dev.stepwrit.internal/stepwrit/broker" in cli("status").stdout
    said = json.loads(cli("status", "--json").stdout)
    assert said["you"]["name"].startswith("uid ")
    assert cli("status", "--admin", dev.admin, env={"XDG_STATE_HOME": "/nonexistent"}).exit_code == 0


def test_an_operator_asks_over_mtls_and_an_agent_is_refused(cli: Cli, dev: Dev):
    broker = json.loads((dev.folder / "dev.json").read_text())["broker"]

    def environment(identity: str) -> dict[str, str]:
        lines = cli("dev", "env", "--as", identity).stdout.split()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    operator = cli("status", "--mtls", broker, env=environment("operator/dev"))
    assert operator.exit_code == 0
    assert "spiffe://dev.stepwrit.internal/operator/dev, an operator" in operator.stdout
    agent = cli("status", "--mtls", broker, env=environment("agent/dev"))
    assert agent.exit_code == 1
    assert "refused: wrong_workload" in agent.stderr
    nobody = cli("status", "--mtls", broker)
    assert nobody.exit_code == 2
    assert "SPIFFE_ENDPOINT_SOCKET is not set" in nobody.stderr


@pytest.mark.parametrize("kind", ["registry", "limits", "policy"])
def test_what_is_exported_can_be_applied_and_undone(cli: Cli, tmp_path: Path, called: Called, kind: str):
    before = json.loads(cli(kind, "show", "--json").stdout)
    file = tmp_path / kind
    assert cli(kind, "export", "--to", file).exit_code == 0
    applied = cli(kind, "apply", file, "--reason", "a copy", "--json")
    assert applied.exit_code == 0, applied.stderr
    after = json.loads(applied.stdout)
    assert (after["changed"], after["version"]) == (True, before["version"] + 1)
    assert after["digest"] == before["digest"]
    again = cli(kind, "apply", file, "--reason", "a copy").stdout
    assert f"nothing new in this file since it was last applied; v{after['version']} stays in force" in again
    assert f"stepwrit {kind} undo --to N" in again
    undone = cli(kind, "undo", "--reason", "as it was")
    assert undone.stdout.startswith(f"{kind} v{before['version'] + 2} is in force")
    history = json.loads(cli(kind, "history", "--json").stdout)
    assert history[-1]["reason"] == "as it was"
    assert "as it was" in cli(kind, "history").stdout


def test_a_bad_file_changes_nothing_and_every_line_is_named(cli: Cli, tmp_path: Path, called: Called):
    text = cli("registry", "export").stdout
    before = cli("registry", "history", "--json").stdout
    good = yaml.safe_load(text)
    good["entries"][0]["role"] = "king"
    good["entries"][1]["colour"] = "red"
    file = tmp_path / "registry.yaml"
    file.write_text(
        yaml.safe_dump(
            {**{k: good[k] for k in good if k != "count"}, "count": good["count"]}, sort_keys=False
        )
    )
    result = cli("registry", "apply", file, "--reason", "mistake")
    assert result.exit_code == 1
    assert "king" in result.stderr or "role" in result.stderr
    assert "colour" in result.stderr
    assert cli("registry", "history", "--json").stdout == before


def test_a_rate_is_set_explained_and_undone(cli: Cli, called: Called):
    assert "per-workload" in cli("limits", "list").stdout
    result = cli("limits", "set", "per-workload", "5/min", "--burst", 3, "--reason", "first week")
    assert result.exit_code == 0
    assert "per-workload 5/min, burst 3" in result.stdout
    agent = "spiffe://dev.stepwrit.internal/agent/dev"
    lines = json.loads(cli("limits", "explain", "--as", agent, "--tool", "ledger/transfer", "--json").stdout)
    assert {"limit": "per-workload", "rate": "5/min", "burst": 3}.items() <= lines[0].items()
    assert "3 of 3" in cli("limits", "explain", "--as", agent).stdout
    assert cli("limits", "undo", "--reason", "back").exit_code == 0
    wrong = cli("limits", "set", "per-worklod", "5/min", "--reason", "x")
    assert wrong.exit_code == 1
    assert "did you mean per-workload?" in wrong.stderr


def test_the_ledger_of_a_running_broker_verifies_and_proves(
    cli: Cli, dev: Dev, called: Called, tmp_path: Path
):
    assert cli("ledger", "verify").stdout.startswith("✓ whole")
    vkey = cli("ledger", "key").stdout.strip()
    store = dev.folder / "store" / "stepwrit.db"
    assert cli("ledger", "verify", "--db", store, "--key", vkey).exit_code == 0
    note = cli("ledger", "head").stdout
    assert "\n— " in note
    size = int(note.splitlines()[1])
    proved = cli("ledger", "proof", size - 1)
    assert proved.exit_code == 0
    assert proved.stdout.startswith(f"✓ proved  entry {size - 1} is in the log of ")
    assert cli("ledger", "proof", 10**6).exit_code == 1
    made = cli("ledger", "prove", size - 1, "--into", tmp_path, "--json")
    (files,) = json.loads(made.stdout)
    vkey = cli("ledger", "key").stdout.strip()
    assert cli("ledger", "verify", "--proof", files["proof"], "--key", vkey).exit_code == 0
    assert "anyone can check it" in cli("ledger", "prove", size - 1, "--into", tmp_path).stdout
    Path(files["entry"]).write_bytes(b"{}")
    assert cli("ledger", "verify", "--proof", files["proof"], "--key", vkey).exit_code == 1
    assert cli("ledger", "prove", "0000000000", "--into", tmp_path).exit_code == 1


def test_a_proof_that_does_not_hold_is_refused_here(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    from stepwrit_broker.cli.client import AdminClient

    assert cli("ledger", "proof", 3).exit_code == 0
    honest = AdminClient.get

    def lying(self: AdminClient, path: str, **query: str | int) -> Any:
        said = honest(self, path, **query)
        return {**said, "leaf": "00" * 32} if "/proof/" in path else said

    monkeypatch.setattr(AdminClient, "get", lying)
    result = cli("ledger", "proof", 3)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "refused: invalid_proof" in result.stderr


def test_backup_export_and_seal_leave_whole_files(cli: Cli, tmp_path: Path, called: Called):
    backup, part, sealed = tmp_path / "b.db", tmp_path / "e.jsonl", tmp_path / "s.jsonl"
    assert cli("store", "backup", backup).exit_code == 0
    assert cli("store", "check", backup).exit_code == 0
    assert cli("store", "backup", backup).exit_code == 1
    assert cli("ledger", "head").exit_code == 0  # signs what is there
    assert cli("ledger", "export", part).exit_code == 0
    vkey = cli("ledger", "key").stdout.strip()
    assert cli("ledger", "verify", "--export", part, "--key", vkey).exit_code == 0
    assert cli("ledger", "seal", "--before", "2001-01", sealed).exit_code == 1, "nothing is that old"
    assert cli("ledger", "seal", "--before", "January", sealed).exit_code == 1
    assert not sealed.exists()
    done = cli("ledger", "seal", sealed)
    assert done.exit_code == 0
    assert "bodies not checked" in cli("ledger", "verify").stdout
    assert cli("ledger", "verify", "--export", sealed, "--db", backup, "--key", vkey).exit_code in (0, 1)
    told = cli("explain", called["txn"])
    assert told.exit_code == 0
    assert "of its entries say is in an export" in told.stdout
