"""Commands in process, and one real development broker with a real guarded server for the whole session."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stepwrit_broker.cli.app import app

STEPWRIT = [sys.executable, "-c", "from stepwrit_broker.cli import main; main()"]
START_S = 30.0
SERVER = """
import sys
from mcp.server.mcpserver import MCPServer
from stepwrit.mcp import Stepwrit

server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

@server.tool()
async def transfer(amount: int) -> str:
    return f"moved {amount}"

@server.tool()
async def broken() -> str:
    raise RuntimeError("no such account")

server.run("streamable-http", port=int(sys.argv[1]))
"""
Cli = Callable[..., Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dev:
    """A running development broker and the server `ledger` behind it."""

    state: Path
    folder: Path
    url: str

    @property
    def admin(self) -> str:
        return str(self.folder / "admin.sock")

    @property
    def env(self) -> dict[str, str]:
        return {"XDG_STATE_HOME": str(self.state)}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own: no broker.toml, no development broker, no colour."""
    for name in list(os.environ):
        if name.startswith(("STEPWRIT_", "SPIFFE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("stepwrit_broker.cli.locate.USUAL_CONFIG", tmp_path / "no-broker.toml")
    monkeypatch.setattr("stepwrit_broker.cli.locate.USUAL_SOCKET", tmp_path / "no-admin.sock")


@pytest.fixture
def cli() -> Cli:
    def run(*args: object, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, [str(each) for each in args], env=env, prog_name="stepwrit")

    return run


@pytest.fixture(scope="session")
def dev() -> Iterator[Dev]:
    state = Path(tempfile.mkdtemp(prefix="stepwrit-cli-", dir="/tmp"))  # short: sockets lie below
    folder, port = state / "stepwrit-dev", free_port()
    (state / "server.py").write_text(SERVER)
    environ = {**os.environ, "XDG_STATE_HOME": str(state), "NO_COLOR": "1"}
    with open(state / "log", "wb") as log:
        started = [subprocess.Popen([*STEPWRIT, "broker", "--dev"], env=environ, stdout=log, stderr=log)]
        try:
            wait_for((folder / "dev.json").exists, started[0], state / "log")
            command = [*STEPWRIT, "dev", "run", "--as", "mcp-server/ledger", "--"]
            server = [sys.executable, str(state / "server.py"), str(port)]
            started.append(subprocess.Popen([*command, *server], env=environ, stdout=log, stderr=log))
            wait_for(lambda: listens(port), started[1], state / "log")
            yield Dev(state=state, folder=folder, url=f"http://127.0.0.1:{port}/mcp")
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(20)
            shutil.rmtree(state)


@pytest.fixture
def with_dev(dev: Dev, monkeypatch: pytest.MonkeyPatch) -> Dev:
    """The environment in which commands find that broker by themselves."""
    monkeypatch.setenv("XDG_STATE_HOME", str(dev.state))
    return dev


def wait_for(is_there: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_S
    while not is_there():
        if process.poll() is not None or time.monotonic() > ends:
            pytest.fail(f"did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
