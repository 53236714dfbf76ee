"""A guarded server and a guarded client on the real mcp SDK, in memory, for the tests beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import ElicitResult
from tests.sdk.test_client_fakes import AGENT, SERVER, FakeBroker, SetClock, no_sleep

from stepwrit.agent import Broker, Intent
from stepwrit.client import Broker as ServerBroker
from stepwrit.mcp import Stepwrit

ERAS = ["2026-07-28", "legacy"]


async def for_ever(_seconds: float) -> None:
    """A heartbeat interval that never ends."""
    import anyio

    await anyio.sleep_forever()


@dataclass
class Rig:
    """fake: the broker. answer: what the person answers."""

    fake: FakeBroker = field(default_factory=lambda: FakeBroker(SetClock()))
    beat: Callable[[float], Any] = for_ever
    answer: ElicitResult = field(default_factory=lambda: ElicitResult(action="accept", content={"yes": True}))
    asked: list[str] = field(default_factory=list)
    name: str | None = "ledger"

    def __post_init__(self) -> None:
        self.agent = Broker(self.fake.sent_by(AGENT), AGENT, self.fake.parts(), sleep=no_sleep)
        self.broker = ServerBroker(self.fake.sent_by(SERVER), SERVER, self.fake.parts(), sleep=no_sleep)
        self.stepwrit = Stepwrit(self.broker, name=self.name, sleep=self.beat)
        self.server = MCPServer("ledger", extensions=[self.stepwrit])

    async def elicited(self, _ctx: object, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return self.answer

    @asynccontextmanager
    async def client(self, era: str) -> AsyncGenerator[Client]:
        async with Client(self.server, mode=era, elicitation_callback=self.elicited) as client:
            yield client

    @asynccontextmanager
    async def guarded(self, era: str, **options: Any) -> AsyncGenerator[tuple[Client, Intent]]:
        async with self.client(era) as client, self.intent() as intent:
            intent.guard(client, **options)
            yield client, intent

    @asynccontextmanager
    async def intent(self) -> AsyncGenerator[Intent]:
        async with self.agent.intent("id-token", purpose="test", tools=["ledger/*"]) as intent:
            yield intent


def text_of(result: Any) -> str:
    return " ".join(each.text for each in result.content)
