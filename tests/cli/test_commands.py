"""Help, exit codes, errors, terminals: what every command owes."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.cli.conftest import STEPWRIT, Cli, Dev

from stepwrit_broker.cli.app import app
from stepwrit_broker.cli.brake import target_of
from stepwrit_broker.cli.output import harmless, print_json, print_json_lines


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for each in group.registered_commands:
        name = each.name or (each.callback.__name__ if each.callback else "")
        yield (*path, name.replace("_", "-")), each.help or ""
    for below in group.registered_groups:
        if below.typer_instance is not None:
            yield from commands(below.typer_instance, (*path, below.name or ""))


ALL = dict(commands(app))
READS = {
    "explain", "lineage", "tail", "status", "marks", "show", "history", "list", "head", "proof", "doctor",
    "verify", "check", "version",
}  # fmt: skip
READING = [path for path in ALL if path[-1] in READS]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_promises_something_in_one_line(cli: Cli, path: tuple[str, ...]):
    promise = ALL[path].partition("\n")[0]
    assert promise.endswith(".")
    assert len(promise) < 130
    shown = cli(*path, "--help", env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())


@pytest.mark.parametrize("path", READING, ids=" ".join)
def test_every_reading_command_speaks_json(cli: Cli, path: tuple[str, ...]):
    assert "--json" in cli(*path, "--help").stdout


def test_the_root_tells_exit_codes_and_gives_examples(cli: Cli):
    shown = cli("--help").stdout
    for line in (
        "0  done",
        "1  refused",
        "2  wrong usage",
        "3  unavailable",
        "Examples",
        "--install-completion",
    ):
        assert line in shown


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "explain AAAAAAAAAA",
        "freeze everything --reason x",
        "limits list",
        "ledger head",
        "tail --follow",
    ],
)
def test_where_no_broker_is_known_it_says_what_to_do(cli: Cli, command: str):
    result = cli(*command.split())
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("unavailable: no broker is known here")
    assert "try `stepwrit broker --dev`" in result.stderr


def test_where_nobody_answers_it_says_where(cli: Cli, tmp_path: Path):
    dead = tmp_path / "file"
    dead.touch()
    for socket in (tmp_path / "none.sock", dead):
        result = cli("status", "--admin", socket)
        assert result.exit_code == 3
        assert f"no broker answers on {socket}; is it running? try `stepwrit broker --dev`" in result.stderr


def test_a_broker_toml_wins_over_a_development_broker(cli: Cli, with_dev: Dev, tmp_path: Path):
    assert cli("status").exit_code == 0
    folder = tmp_path / "etc"
    made = cli("init", folder, "--trust-domain", "prod.example", "--issuer", "https://stepwrit.prod.example")
    assert made.exit_code == 0, made.stderr
    settings, nobody = folder / "broker.toml", tmp_path / "none.sock"  # a real one may run on this machine
    usual = '# admin = "unix:/run/stepwrit/admin.sock"'
    assert usual in settings.read_text()
    settings.write_text(settings.read_text().replace(usual, f'admin = "unix:{nobody}"'))
    result = cli("freeze", "everything", "--reason", "x", env={"STEPWRIT_CONFIG": str(settings)})
    assert result.exit_code == 3
    assert f"no broker answers on {nobody}" in result.stderr
    assert "everything:all" not in cli("marks").stdout


@pytest.mark.parametrize(
    "command",
    [
        "",
        "nosuch",
        "explain",
        "freeze everything",
        "freeze nonsense --reason x",
        "limits set a",
        "broker",
        "store check /none",
    ],
)
def test_wrong_usage_is_exit_code_2(cli: Cli, command: str):
    assert cli(*command.split()).exit_code == 2


def test_broker_takes_one_of_dev_and_config(cli: Cli, tmp_path: Path):
    result = cli("broker", "--dev", "--config", tmp_path / "broker.toml")
    assert result.exit_code == 2
    assert "say either --config FILE or --dev" in result.stderr
    missing = cli("broker", "--config", tmp_path / "broker.toml")
    assert missing.exit_code == 1
    assert "broker.toml: cannot be read" in missing.stderr


def test_a_bug_of_ours_is_one_line_and_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    assert cli("version").exit_code == 0

    def broken(_: str) -> str:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("stepwrit_broker.cli.running.installed", broken)
    result = cli("version")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("internal error: ZeroDivisionError: by nought; a bug of ours")
    assert "Traceback" in cli("version", env={"STEPWRIT_DEBUG": "1"}).stderr


def test_a_file_that_cannot_be_written_is_named(cli: Cli, with_dev: Dev, tmp_path: Path):
    (tmp_path / "file").touch()
    result = cli("limits", "export", "--to", tmp_path / "file" / "below")
    assert result.exit_code == 1
    assert "file" in result.stderr
    assert "Traceback" not in result.stderr


TXN, STP, GRT = (f"{kind}_100{'A' * 26}" for kind in ("txn", "stp", "grt"))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (TXN, f"txn:{TXN}"),
        (STP, f"step:{STP}"),
        (GRT, f"grant:{GRT}"),
        ("spiffe://prod.example/a", "workload:spiffe://prod.example/a"),
        ("everything", "everything:all"),
        ("tool:ledger/transfer", "tool:ledger/transfer"),
        ("resource:https://bank.example", "resource:https://bank.example"),
    ],
)
def test_a_target_is_understood_as_it_is_typed(said: str, meant: str):
    assert target_of(said) == meant


@pytest.mark.parametrize("said", ["", "ledger/transfer", "tool:", "planet:mars", "txn_short", "7Q2K9MZX4D"])
def test_what_is_no_target_is_not_guessed(said: str):
    assert target_of("tool:ledger/transfer")
    with pytest.raises(typer.BadParameter):
        target_of(said)


def test_what_a_terminal_would_obey_is_spelled_out():
    assert harmless("pay ünï → 42") == "pay ünï → 42"
    assert harmless("a\x1b[2Jb\n\u202ec\ud800") == "a\\x1b[2Jb\\n\\u202ec\\ud800"
    assert harmless("a\nb", keep="\n") == "a\nb"


@pytest.mark.parametrize(
    "text", ["pay ünï → 42", "\x9b31mred\x7f", "a\u202eb", "\ud800", "\U000e0041", "a\nb"]
)
def test_json_is_the_same_value_and_moves_no_terminal(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_json({"said": [text]})
    print_json_lines([{"said": [text]}])
    for written in capsys.readouterr().out.split("}\n")[:2]:
        assert json.loads(written + "}") == {"said": [text]}
        assert written.replace("\n", "").isprintable()
    print_json(["ünï"])
    assert "ünï" in capsys.readouterr().out


def in_terminal(width: int, *args: str, environ: dict[str, str]) -> str:
    """What the command prints to a terminal of this width."""
    ours, theirs = pty.openpty()
    named = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    given = {**named, "TERM": "xterm-256color", **environ, "COLUMNS": str(width)}
    with subprocess.Popen(
        [*STEPWRIT, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=given
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        process.wait(30)
    os.close(ours)
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_colour_unless_no_color_is_set(with_dev: Dev):
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(in_terminal(80, "ledger", "verify", environ={}))
    assert not colour.search(in_terminal(80, "ledger", "verify", environ={"NO_COLOR": "1"}))


def test_a_pipe_gets_no_escape_and_no_broken_lines(with_dev: Dev):
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [*STEPWRIT, "tail", "--after", "-1", "--admin", with_dev.admin]
    done = subprocess.run(command, capture_output=True, env=environ, check=False)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    numbers = [int(line.split()[0]) for line in done.stdout.decode().splitlines()]
    assert numbers == list(range(len(numbers)))


def test_output_that_cannot_be_encoded_does_not_end_the_command(cli: Cli, with_dev: Dev):
    database, key = with_dev.folder / "store" / "stepwrit.db", with_dev.state / "log.vkey"
    key.write_text(cli("ledger", "key").stdout)
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*STEPWRIT, "ledger", "verify", "--db", str(database), "--key", str(key)]
    done = subprocess.run(command, capture_output=True, env=environ, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"whole" in done.stdout
