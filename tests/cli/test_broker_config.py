"""`stepwrit broker --config`: what `init` wrote serves, with an identity and certificate files beside it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from stepwrit_broker.cli.scaffold import write_init
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.tlsfiles import write_tls_files
from stepwrit_broker.dev.workload_api import DevTrustDomain

DOMAIN = "prod.example.test"
READY_S = 30.0


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-cfg-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
async def workload_api(folder: Path) -> AsyncIterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)
        trust = DevTrustDomain(folder / "wl", trust_domain=DOMAIN)
        await trust.start()
    yield trust.socket_for("stepwrit/broker")
    await trust.stop()


def configure(folder: Path) -> Path:
    """What an operator does after `stepwrit init`: ports, paths and certificate files."""
    write_init(folder, DOMAIN, "https://127.0.0.1:1")
    (folder / "tls").mkdir()
    cert, key = write_tls_files(folder / "tls")
    cert.rename(folder / "tls" / "cert.pem")
    key.rename(folder / "tls" / "key.pem")
    return folder / "broker.toml"


def environment(folder: Path, socket: str) -> dict[str, str]:
    return {
        **os.environ,
        "SPIFFE_ENDPOINT_SOCKET": socket,
        "STEPWRIT_LISTEN_MTLS": "127.0.0.1:0",
        "STEPWRIT_LISTEN_TLS": "127.0.0.1:0",
        "STEPWRIT_LISTEN_OPS": "127.0.0.1:0",
        "STEPWRIT_LISTEN_ADMIN": f"unix:{folder}/admin.sock",
        "STEPWRIT_STORE_PATH": str(folder / "state" / "stepwrit.db"),
        "STEPWRIT_STORE_ANCHOR": str(folder / "anchor" / "stepwrit.anchor"),
        "STEPWRIT_LEDGER_KEY_FILE": str(folder / "state" / "ledger.key"),
    }


async def start(folder: Path, config: Path, env: dict[str, str]) -> asyncio.subprocess.Process:
    log = (folder / "broker.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stepwrit_broker.cli", "broker", "--config", str(config)),
        env=env,
        stdout=log,
        stderr=log,
    )
    log.close()
    return process


async def until(folder: Path, process: asyncio.subprocess.Process, pattern: str) -> re.Match[str]:
    async with asyncio.timeout(READY_S):
        while True:
            text = (folder / "broker.log").read_text()
            found = re.search(pattern, text)
            if found:
                return found
            assert process.returncode is None, text
            await asyncio.sleep(0.05)


async def test_it_serves_what_init_wrote_and_ends_cleanly_twice(folder: Path, workload_api: str) -> None:
    config, epochs = configure(folder), []
    for _ in range(2):
        (folder / "broker.log").write_text("")
        process = await start(folder, config, environment(folder, workload_api))
        ops = (await until(folder, process, r'"ops": ?"(http://[^"]+)"')).group(1)
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{ops}/readyz")).json()["ready"] is True
        transport = httpx2.AsyncHTTPTransport(uds=str(folder / "admin.sock"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as admin:
            status = (await admin.get("/v1/admin/status")).json()
        assert status["broker_id"] == f"spiffe://{DOMAIN}/stepwrit/broker"
        epochs.append(status["epoch"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0, (folder / "broker.log").read_text()
    assert epochs[0] != epochs[1], "each start is a new epoch"


async def test_an_identity_that_is_not_the_configured_one_is_told_and_nothing_serves(
    folder: Path, workload_api: str
) -> None:
    config = configure(folder)
    other = {**environment(folder, workload_api), "STEPWRIT_BROKER_ID": f"spiffe://{DOMAIN}/somebody/else"}
    process = await start(folder, config, other)
    assert await asyncio.wait_for(process.wait(), READY_S) != 0
    text = (folder / "broker.log").read_text()
    assert "stepwrit/broker" in text
    assert "somebody/else" in text
    assert "Traceback" not in text
