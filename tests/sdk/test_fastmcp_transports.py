"""A guarded FastMCP server as a process of its own, over streamable HTTP and stdio, at a real broker."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitResult
from tests.fakes.serving import serving
from tests.sdk import test_transports as official

from stepwrit.agent import Broker
from stepwrit_broker.dev.broker import DevBroker
from stepwrit_broker.dev.oidc import CLIENT_ID

SERVER = Path(__file__).with_name("fastmcp_server.py")
dev, identity = official.dev, official.identity
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def answered(_ctx: object, _params: object) -> ElicitResult:
    return ElicitResult(action="accept", content={"sure": True, "value": True})


@asynccontextmanager
async def connected(transport: str, era: str, environ: dict[str, str], log: Path) -> AsyncGenerator[Client]:
    if transport == "http":
        async with (
            serving(SERVER, log, environ) as url,
            Client(url, mode=era, elicitation_callback=answered) as client,
        ):
            yield client
        return
    how = StdioServerParameters(command=sys.executable, args=[str(SERVER), "stdio"], env=environ)
    with log.open("w") as said:
        async with Client(stdio_client(how, errlog=said), mode=era, elicitation_callback=answered) as client:
            yield client


@pytest.mark.parametrize("era", official.ERAS)
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_guarded_call_is_the_same(
    dev: DevBroker, identity: Any, transport: str, era: str, tmp_path: Path
) -> None:
    broker = Broker.from_env(dev.environment("agent/dev"))
    token = dev.issuer.mint("dev-person", client_id=CLIENT_ID)
    async with (
        broker,
        connected(transport, era, identity, tmp_path / "log") as client,
        broker.intent(token, purpose="a test", tools=["ledger/*"]) as intent,
    ):
        bare: Any = await client.call_tool("note", {"words": "milk"})
        assert bare.content[0].text.startswith("refused: no_step.")
        intent.guard(client, "ledger")
        note: Any = await client.call_tool("note", {"words": "milk"})
        assert note.content[0].text == "milk, started by model"
        sure: Any = await client.call_tool("confirm", {})
        assert sure.content[0].text == ("sure: accept, s" if era == "2026-07-28" else "sure: accept")
