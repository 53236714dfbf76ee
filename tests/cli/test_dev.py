"""`stepwrit dev …` against a real development broker and a real guarded server."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import jwt
from tests.cli.conftest import STEPWRIT, Cli, Dev, free_port

CALL = ("dev", "call", "ledger", "transfer", '{"amount": 5}')


def test_a_call_shows_the_result_and_who_started_it(cli: Cli, with_dev: Dev):
    result = cli(*CALL, "--url", with_dev.url, "--as-person", "alice")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("✓ moved 5\n")
    assert "● HUMAN  intent  done\n    alice of http://" in result.stdout
    assert "◆ MODEL  ledger/transfer  low impact  done" in result.stdout


def test_a_tool_that_fails_is_told_with_exit_code_1(cli: Cli, with_dev: Dev):
    assert cli(*CALL, "--url", with_dev.url).exit_code == 0
    result = cli("dev", "call", "ledger", "broken")
    assert result.exit_code == 1
    assert "✗ the tool failed" in result.stdout
    assert "ledger/broken  low impact  failed" in result.stdout


def test_what_cannot_be_called_says_what_to_do(cli: Cli, with_dev: Dev):
    assert cli(*CALL, "--url", with_dev.url).exit_code == 0
    unknown = cli("dev", "call", "ledger", "nosuch")
    assert unknown.exit_code == 1
    assert "has no tool nosuch; it has broken, transfer" in unknown.stderr
    nobody = cli(*CALL, "--url", f"http://127.0.0.1:{free_port()}/mcp")
    assert nobody.exit_code == 3
    assert "start it with `stepwrit dev run --as mcp-server/ledger -- CMD`" in nobody.stderr
    for arguments in ("{", "[1]"):
        assert cli("dev", "call", "ledger", "transfer", arguments).exit_code == 2


def test_json_has_the_result_and_the_whole_story(cli: Cli, with_dev: Dev):
    said = json.loads(cli(*CALL, "--url", with_dev.url, "--json").stdout)
    assert (said["text"], said["is_error"], said["refusal"]) == ("moved 5", False, None)
    assert said["story"]["txn"] == said["txn"]


def test_what_a_person_must_sign_waits_and_runs_once_the_dev_person_has_signed(
    cli: Cli, with_dev: Dev, tmp_path: Path
):
    impatient = cli(*CALL, "--url", with_dev.url, "--impact", "high")
    assert impatient.exit_code == 1
    assert "say --wait 300" in impatient.stdout
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    added = cli("authenticators", "add", "--person", "dev-person", "--key", f"{key}.pub", "--reason", "mine")
    assert (added.exit_code, added.stderr) == (0, "")
    waits = subprocess.Popen([*STEPWRIT, *CALL, "--wait", "120"], stdout=PIPE, stderr=PIPE, text=True)
    assert waits.stderr is not None
    page = waits.stderr.readline().split(" sign at ")[1].split()[0]
    assert page.startswith("https://localhost:")  # a passkey's RP ID is a domain
    approval = page.rpartition("/")[2]
    assert approval in cli("approve", "--key", key).stdout
    digest = json.loads(cli("approvals", "show", approval, "--json").stdout)["digest"]
    signed = cli("approve", approval, "--key", key, "--yes", "--digest", digest)
    assert (signed.exit_code, signed.stderr) == (0, "")
    assert waits.communicate(timeout=60)[0].startswith("✓ moved 5\n")
    assert waits.returncode == 0
    assert cli(*CALL, "--impact", "low").exit_code == 0


def test_run_gives_a_command_its_identity_and_passes_its_exit_code_on(with_dev: Dev):
    names = ("SPIFFE_ENDPOINT_SOCKET", "STEPWRIT_BROKER")
    shows = f"import os, sys; print(*(os.environ[name] for name in {names})); sys.exit(7)"
    command = [*STEPWRIT, "dev", "run", "--as", "resource/bank", "--", sys.executable, "-c", shows]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    socket, broker = done.stdout.split()
    assert socket == f"unix://{with_dev.folder}/wl/resource/bank.sock"
    assert broker.startswith("https://127.0.0.1:")


def test_an_id_token_is_of_the_person_who_was_named(cli: Cli, with_dev: Dev):
    for given, subject in (((), "dev-person"), (("--as-person", "alice"), "alice")):
        token = cli("dev", "id-token", *given).stdout.strip()
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["sub"], claims["aud"]) == (subject, "dev-agent")


def test_run_of_no_command_and_of_no_identity_is_told(cli: Cli, with_dev: Dev):
    missing = cli("dev", "run", "--as", "resource/bank", "--", "no-such-command-here")
    assert missing.exit_code == 2
    assert "no such command" in missing.stderr
    wrong = cli("dev", "run", "--as", "not a path/..", "--", "true")
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("failed: SPIFFE ID: path segments")


def test_status_shows_where_everything_is(cli: Cli, with_dev: Dev):
    assert cli(*CALL, "--url", with_dev.url).exit_code == 0
    shown = cli("dev", "status").stdout
    assert str(with_dev.folder) in shown
    assert "mcp-server/ledger" in shown
    assert json.loads(cli("dev", "status", "--json").stdout)["admin"] == with_dev.admin


def test_without_a_development_broker_it_says_how_to_start_one(cli: Cli, tmp_path: Path):
    for command in (("dev", "status"), CALL, ("dev", "run", "--as", "agent/dev", "--", "true")):
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "try `stepwrit broker --dev`" in result.stderr


def test_a_state_file_of_another_shape_is_a_wrong_setting(cli: Cli, tmp_path: Path):
    (tmp_path / "dev.json").write_text('{"broker": "https://127.0.0.1:1"}')
    result = cli("dev", "status", "--dir", tmp_path)
    assert result.exit_code == 2
    assert "dev.json is not a development broker's state" in result.stderr


def test_a_state_file_that_a_dead_broker_left_says_so(cli: Cli, with_dev: Dev, tmp_path: Path):
    state = json.loads((with_dev.folder / "dev.json").read_text())
    (tmp_path / "dev.json").write_text(json.dumps({**state, "oidc": f"http://127.0.0.1:{free_port()}"}))
    result = cli("dev", "env", "--as", "agent/dev", "--dir", tmp_path)
    assert result.exit_code == 3
    assert "is it still running?" in result.stderr
