"""docs/tutorial/policy-from-none-to-strict.md: its files are written, its commands run and compared."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepwrit_broker.cli.app import app

PAGE = Path(__file__).parents[2] / "docs/tutorial/policy-from-none-to-strict.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[list[str], list[str]]]:
    """Each command of a console block with the lines that are shown below it."""
    found: list[tuple[list[str], list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((shlex.split(line[2:], comments=True), []))
        else:
            found[-1][1].append(line)
    return found


def run(words: list[str], shown: list[str]) -> None:
    """What is shown is printed, in this order, whole lines; it is a success unless something is wrong."""
    result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "120"})
    wanted = [line for line in shown if line != "[...]"]
    lines = iter(result.output.splitlines())
    assert all(line in lines for line in wanted), f"{words}: {wanted} is not in {result.output}"
    assert result.exit_code == (1 if wanted[0].startswith(("✗", "refused")) else 0), result.output


def test_every_step_of_the_tutorial_is_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()
    ran = 0
    for kind, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
            continue
        assert kind == "console"
        for words, shown in commands(text):
            if words[0] == "stepwrit":
                run(words, shown)
                ran += 1
    assert ran == 5


def failing(folder: Path) -> list[int]:
    """The numbers of the scenarios that do not hold now."""
    result = CliRunner().invoke(app, ["policy", "test", str(folder / "policy"), str(folder / "wanted.yaml")])
    names = re.findall(r"✗\s+(\d+) ", result.output)
    return sorted({int(each) for each in names})


def test_each_rule_makes_hold_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    wanted = {
        "policy/10-base.cedar": [4, 5, 6, 7, 8, 10],
        "policy/20-servers.cedar": [5, 6, 7, 8, 10],
        "policy/40-approval.cedar": [6, 7, 8, 10],
        "policy/50-amounts.cedar": [6, 10],
        "policy/60-care.cedar": [10],
        "policy/70-sequence.cedar": [],
    }
    for _, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
        if name in wanted:
            assert failing(tmp_path) == wanted[name], name
