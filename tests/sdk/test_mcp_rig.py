"""A guarded server on the real SDKs, and a guarded client, in memory, for the tests beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import fastmcp
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import ElicitResult
from tests.sdk.test_client_fakes import AGENT, SERVER, FakeBroker, SetClock, no_sleep

from stepwrit import fastmcp as on_fastmcp
from stepwrit import mcp as on_mcp
from stepwrit.agent import Broker, Intent
from stepwrit.client import Broker as ServerBroker

ERAS = ["2026-07-28", "legacy"]
SDKS = ["mcp", "fastmcp"]


async def for_ever(_seconds: float) -> None:
    """A heartbeat interval that never ends."""
    import anyio

    await anyio.sleep_forever()


@dataclass
class Rig:
    """fake: the broker. answer: what the person answers. sdk: what the server is built on."""

    fake: FakeBroker = field(default_factory=lambda: FakeBroker(SetClock()))
    beat: Callable[[float], Any] = for_ever
    answer: ElicitResult = field(default_factory=lambda: ElicitResult(action="accept", content={"yes": True}))
    asked: list[str] = field(default_factory=list)
    name: str | None = "ledger"
    sdk: str = "mcp"
    stop_ended: bool = True

    def __post_init__(self) -> None:
        self.agent = Broker(self.fake.sent_by(AGENT), AGENT, self.fake.parts(), sleep=no_sleep)
        self.broker = ServerBroker(self.fake.sent_by(SERVER), SERVER, self.fake.parts(), sleep=no_sleep)
        how = {"name": self.name, "sleep": self.beat, "stop_ended": self.stop_ended}
        self.server = self.server_of(self.broker, **how)

    def server_of(self, broker: ServerBroker, **options: Any) -> Any:
        """A guarded server. options: of its `Stepwrit`; `lifespan`: whether it has a part in the server's."""
        has_lifespan = options.pop("lifespan", False)
        if self.sdk == "fastmcp":
            outer = on_fastmcp.Stepwrit(broker, **options)
            lifespan: Any = outer.lifespan if has_lifespan else None
            return fastmcp.FastMCP("ledger", middleware=[outer], lifespan=lifespan)
        guard = on_mcp.Stepwrit(broker, **options)
        lifespan = guard.lifespan if has_lifespan else None
        return MCPServer("ledger", extensions=[guard], lifespan=lifespan)

    @property
    def adapter(self) -> Any:
        """`stepwrit.mcp` or `stepwrit.fastmcp`."""
        return on_fastmcp if self.sdk == "fastmcp" else on_mcp

    def target(self, server: Any = None) -> Any:
        """What an mcp client connects to in memory."""
        server = server or self.server
        return server._mcp_server if self.sdk == "fastmcp" else server

    async def elicited(self, _ctx: object, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return self.answer

    @asynccontextmanager
    async def client(self, era: str) -> AsyncGenerator[Client]:
        async with Client(self.target(), mode=era, elicitation_callback=self.elicited) as client:
            yield client

    @asynccontextmanager
    async def guarded(self, era: str, **options: Any) -> AsyncGenerator[tuple[Client, Intent]]:
        async with self.client(era) as client, self.intent() as intent:
            intent.guard(client, "ledger" if self.sdk == "fastmcp" else None, **options)
            yield client, intent

    @asynccontextmanager
    async def intent(self) -> AsyncGenerator[Intent]:
        async with self.agent.intent("id-token", purpose="test", tools=["ledger/*"]) as intent:
            yield intent


def text_of(result: Any) -> str:
    return " ".join(each.text for each in result.content)
