"""Streamable HTTP, stdio and in memory, both revisions, one round and several: a guarded call is the same.

A real broker on loopback; over HTTP and stdio the server is a process of its own.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitResult
from tests.fakes.serving import serving
from tests.sdk.rounds_server import made

from stepwrit.agent import Broker
from stepwrit.wire import META_REF, META_REFUSAL
from stepwrit_broker.dev.broker import DevBroker, DevOptions, dev_id
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.oidc import CLIENT_ID

SERVER = Path(__file__).with_name("rounds_server.py")
PLAIN = {"impact": "low", "plan": "self"}
ENTRY = {
    "id": dev_id("mcp-server/ledger"),
    "role": "mcp-server",
    "name": "ledger",
    "tools": {"note": PLAIN, "confirm": PLAIN, "explain": PLAIN},
}
TRANSPORTS = ["http", "stdio", "memory"]
ERAS = ["2026-07-28", "legacy"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[DevBroker]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)
        folder = tmp_path_factory.mktemp("dev")
        broker = DevBroker(folder, DevOptions(entries=(ENTRY,)))
        await broker.__aenter__()
    try:
        yield broker
    finally:
        await broker.__aexit__()


@pytest.fixture
def identity(dev: DevBroker) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": root, **dev.environment("mcp-server/ledger")}


@asynccontextmanager
async def connected(
    transport: str, era: str, environ: dict[str, str], log: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Client]:
    """A plain client of the guarded server."""
    options: dict[str, Any] = {"mode": era, "elicitation_callback": _answer}
    if transport == "http":
        async with serving(SERVER, log, environ) as url, Client(url, **options) as client:
            yield client
    elif transport == "stdio":
        child = StdioServerParameters(command=sys.executable, args=[str(SERVER), "stdio"], env=environ)
        with log.open("w") as said:
            async with Client(stdio_client(child, errlog=said), **options) as client:
                yield client
    else:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        async with Client(made(), **options) as client:
            yield client


async def _answer(_ctx: object, params: Any) -> ElicitResult:
    content: dict[str, Any] = {"sure": True} if params.message == "really?" else {"why": "because"}
    return ElicitResult(action="accept", content=content)


def text(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_guarded_call_of_any_number_of_rounds(
    dev: DevBroker,
    identity: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    era: str,
) -> None:
    agent = Broker.from_env(dev.environment("agent/dev"))
    token = dev.issuer.mint("dev-person", client_id=CLIENT_ID)
    async with connected(transport, era, identity, tmp_path / "log", monkeypatch) as client, agent:
        bare = await client.call_tool("note", {"words": "hi"})
        assert (bare.meta or {})[META_REFUSAL]["code"] == "no_step"
        async with agent.intent(token, purpose="the matrix", tools=["ledger/*"]) as intent:
            intent.guard(client, "ledger")
            one = await client.call_tool("note", {"words": "hi"})
            two = await client.call_tool("confirm", {})
            three = await client.call_tool("explain", {})
    assert text(one) == "hi, started by model"
    assert text(two) == "sure: True"
    assert text(three) == "sure: True, why: because, step stp_"
    told = [entry for entry in dev.broker.ledger.of_txn(intent.txn) if entry.facts]
    waits = [entry for entry in told if entry.kind == "step.waiting"]
    opened = [entry.facts for entry in told if entry.kind == "step.opened" and entry.facts]
    asked = [facts["tool"] for facts in opened if facts["origin"] == "server"]
    assert len(waits) == (3 if era == "2026-07-28" else 0)
    assert asked == ["client/elicitation"] * 3
    ends = [e.facts["outcome"] for e in told if e.kind == "step.closed" and e.facts]
    assert ends.count("done") >= 4  # three calls and the intent
    assert all((each.meta or {}).get(META_REF) for each in (one, two, three))
