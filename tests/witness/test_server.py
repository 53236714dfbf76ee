"""A witness as its own process: its commands, its HTTP, its metrics."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from tests.witness.helpers import ORIGIN, Log
from typer.testing import CliRunner, Result

from stepwrit_broker.cli.app import app
from stepwrit_broker.config_witness import WitnessConfig, load_witness_config
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.dev.tlsfiles import write_tls_files
from stepwrit_broker.ledger.cosignature import cosigned, parse_witness_vkey
from stepwrit_broker.wiring.witness import WitnessServer

VKEY = Log().key.verifier.vkey
PORTS = 'listen = "127.0.0.1:0"\nops = "127.0.0.1:0"\n'


def cli(*args: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in args])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = cli("witness", "init", tmp_path / "w", "--name", "witness.example/w1", "--log", VKEY)
    assert made.exit_code == 0, made.output
    settings = tmp_path / "w" / "witness.toml"
    settings.write_text(PORTS + settings.read_text())
    return tmp_path / "w"


def config(folder: Path) -> WitnessConfig:
    return load_witness_config(folder / "witness.toml")


async def test_a_log_gets_its_cosignature_over_http(folder: Path) -> None:
    log = Log().add(5)
    async with WitnessServer(config(folder)) as server, httpx2.AsyncClient(trust_env=False) as http:
        url = f"{server.listener.url}/add-checkpoint"
        good = await http.post(url, content=log.request(0, 3))
        assert (good.status_code, good.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert cosigned(log.note(3) + good.text, [parse_witness_vkey(server.vkey)])
        behind = await http.post(url, content=log.request(0))
        assert (behind.status_code, behind.text) == (409, "3\n")
        assert behind.headers["content-type"] == "text/x.tlog.size"
        for body, status in (
            (Log(origin="other.example").add(1).request(0), 404),
            (Log(seed=b"x" * 32).add(5).request(3), 403),
            (Log().add(2).add(3, b"x").request(3), 422),
            (b"nonsense", 400),
            (b"x" * 70_000, 400),
        ):
            assert (await http.post(url, content=body)).status_code == status
        assert (await http.post(url, content=log.request(3))).status_code == 200
        assert (await http.get(url)).status_code == 405
        await _is_told(http, server, log)


async def _is_told(http: httpx2.AsyncClient, server: WitnessServer, log: Log) -> None:
    named = hashlib.sha256(ORIGIN.encode()).hexdigest()
    kept = await http.get(f"{server.listener.url}/checkpoints/{named}")
    assert kept.text.startswith(log.note())
    assert (await http.get(f"{server.listener.url}/checkpoints/{'0' * 64}")).status_code == 404
    told = (await http.get(f"{server.ops.url}/metrics")).text
    assert 'stepwrit_witness_requests_total{status="200"} 2.0' in told
    assert f'stepwrit_witness_log_size{{log="{ORIGIN}"}} 5.0' in told
    assert "stepwrit_witness_forks_total 0.0" in told
    fork = await http.post(f"{server.listener.url}/add-checkpoint", content=Log().add(5, b"x").request(5))
    assert (fork.status_code, fork.text) == (409, "5\n")
    assert "stepwrit_witness_forks_total 1.0" in (await http.get(f"{server.ops.url}/metrics")).text
    assert (await http.get(f"{server.ops.url}/readyz")).status_code == 200


async def test_over_tls(folder: Path) -> None:
    cert, key = write_tls_files(folder)
    settings = folder / "witness.toml"
    settings.write_text(f'tls_cert = "{cert}"\ntls_key = "{key}"\n' + settings.read_text())
    tls = ssl.create_default_context(cafile=str(cert))
    tls.check_hostname = False
    async with (
        WitnessServer(config(folder)) as server,
        httpx2.AsyncClient(verify=tls, trust_env=False) as http,
    ):
        assert server.listener.url.startswith("https://")
        answer = await http.post(f"{server.listener.url}/add-checkpoint", content=Log().add(1).request(0))
        assert answer.status_code == 200


async def test_a_state_in_doubt_is_told_and_nothing_is_signed(folder: Path) -> None:
    log = Log().add(5)
    async with WitnessServer(config(folder)) as server, httpx2.AsyncClient(trust_env=False) as http:
        url = f"{server.listener.url}/add-checkpoint"
        assert (await http.post(url, content=log.request(0, 3))).status_code == 200
        (folder / ".witness.json.new").mkdir()  # the draft cannot be written
        answer = await http.post(url, content=log.request(3))
        assert (answer.status_code, "cannot be written" in answer.text) == (503, True)
        (folder / ".witness.json.new").rmdir()
        assert (await http.post(url, content=log.request(3))).status_code == 200


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('listen = "0.0.0.0:8446"', "loopback"),
        ('listen = "here"', "HOST:PORT"),
        ('tls_cert = "c.pem"', "tls_key"),
        ('nonsense = "x"', "is not known"),
    ],
)
def test_settings_that_mean_nothing_good_are_refused(folder: Path, line: str, said: str):
    settings = folder / "witness.toml"
    load_witness_config(settings)
    good = settings.read_text().replace('listen = "127.0.0.1:0"\n', "")
    settings.write_text(f"{line}\n{good}")
    with pytest.raises(Malformed, match=said):
        load_witness_config(settings)


async def test_settings_without_a_log_or_of_another_witness_are_refused(folder: Path) -> None:
    settings = folder / "witness.toml"
    text = settings.read_text()
    settings.write_text(text.partition("[[log]]")[0])
    with pytest.raises(Malformed, match=r"\[\[log\]\]"):
        load_witness_config(settings)
    settings.write_text("[" + text)
    with pytest.raises(Malformed, match="cannot be read"):
        load_witness_config(settings)
    settings.write_text(text.replace("/w1", "/w2"))
    with pytest.raises(Malformed, match=r"witness\.example/w1"):
        async with WitnessServer(config(folder)):
            pass


def test_nothing_is_made_twice(folder: Path):
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    again = cli("witness", "init", folder, "--name", "witness.example/w1", "--log", VKEY)
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    assert (folder / "witness.key").stat().st_mode & 0o077 == 0


def test_it_runs_as_a_process_and_remembers_over_kill_9(folder: Path):
    log = Log().add(5)
    running, url = start(folder)
    with httpx2.Client(trust_env=False) as http:
        assert http.post(url, content=log.request(0)).status_code == 200
        running.send_signal(signal.SIGKILL)
        running.wait()
        running, url = start(folder)
        back = http.post(url, content=log.request(0, 3))
        assert (back.status_code, back.text) == (409, "5\n")
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    shown = cli("witness", "show", "--config", folder / "witness.toml")
    assert f"{ORIGIN}  size 5" in shown.stdout
    note = cli("witness", "show", "--config", folder / "witness.toml", "--log", ORIGIN).stdout
    vkey = cli("witness", "key", "--config", folder / "witness.toml").stdout.strip()
    assert cosigned(note, [parse_witness_vkey(vkey)])
    assert cli("witness", "show", "--config", folder / "witness.toml", "--json").exit_code == 0
    assert cli("witness", "show", "--config", folder / "witness.toml", "--log", "x").exit_code == 1


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The process and where it takes checkpoints, from the line it logs."""
    log = folder / "stderr"
    command = [sys.executable, "-c", "from stepwrit_broker.cli import main; main()"]
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            [*command, "witness", "run", "--config", str(folder / "witness.toml")],
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NO_COLOR": "1"},
        )
    until = time.monotonic() + 30
    while time.monotonic() < until and running.poll() is None:
        for line in log.read_text().splitlines():
            if (said := json.loads(line))["event"] == "witnessing":
                return running, f"{said['url']}/add-checkpoint"
        time.sleep(0.05)
    raise AssertionError(log.read_text())
