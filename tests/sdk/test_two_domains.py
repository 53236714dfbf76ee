"""A tool of another trust domain, called by the SDK as any other: two real brokers, one real MCP server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import pytest_asyncio
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ElicitRequestParams, ElicitResult
from pydantic import BaseModel
from tests.fakes.stage import Stage
from tests.fakes.two import HOME_ISSUER, Two

from stepwrit import client
from stepwrit._transport import Attested, HttpTransport
from stepwrit.agent import Broker, Intent
from stepwrit.client import Parts
from stepwrit.errors import RefusedError
from stepwrit.lineage import current_step
from stepwrit.mcp import Stepwrit, guard
from stepwrit.wire import META_REFUSAL

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Sure(BaseModel):
    """What the vault asks."""

    sure: bool


class World:
    """Two domains; the vault's server over there, and brokers' clients at home."""

    def __init__(self, two: Two, stack: AsyncExitStack) -> None:
        self.two, self.stack = two, stack
        self.running = anyio.Event()
        self.going_on = anyio.Event()
        self.seen: list[tuple[str, str | None]] = []

    async def client_of(self, kind: type[client.Broker], stage: Stage, path: str) -> client.Broker:
        identity = await stage.identity(path)
        made = kind(
            HttpTransport(stage.url, identity, stage.broker_id), Attested(identity), Parts(base_url=stage.url)
        )

        async def close() -> None:
            for other in made._beyond.values():
                await other.aclose()
            await made._transport.close()  # the identity is the stage's

        self.stack.push_async_callback(close)
        return made

    async def vault(self) -> MCPServer:
        broker = await self.client_of(client.Broker, self.two.away, "mcp-server/vault")
        server = MCPServer("vault", extensions=[Stepwrit(broker)])

        @server.tool()
        async def read(to: str, cents: int, ctx: Context[Any, Any]) -> str:
            step = current_step()
            if cents == 77:
                answer = await ctx.elicit("really?", Sure)
                return f"{answer.action} for {to}"
            self.seen.append((step.origin, step.requester))
            if cents == 99:
                self.running.set()
                await self.going_on.wait()
            if cents == 13:
                raise ValueError("no luck")
            return f"{cents} for {to}"

        return server

    async def ledger(self, vault: MCPServer) -> MCPServer:
        """A server at home that calls the vault by itself."""
        broker = await self.client_of(client.Broker, self.two.home, "mcp-server/ledger")
        server = MCPServer("ledger", extensions=[Stepwrit(broker)])

        @server.tool()
        async def note(cents: int) -> str:
            async with Client(vault) as far:
                guard(far, "far", on_refusal="raise")
                result = await far.call_tool("read", {"to": "bob", "cents": cents})
            return str(result.content[0])

        return server

    async def agent(self) -> Broker:
        made = await self.client_of(Broker, self.two.home, "agent/chat")
        assert isinstance(made, Broker)
        return made

    def id_token(self) -> str:
        return self.two.home.issuer.mint("alice", client_id="chat-app")

    def outcomes(self, stage: Stage, txn: str) -> list[object]:
        return [
            entry.facts["outcome"] for entry in stage.happened(txn, "step.closed") if entry.facts is not None
        ]

    def landed(self) -> str:
        """The newest transaction that home's broker started over there."""
        entries = self.two.away.broker.ledger.tail(-1, 1000, ["intent.opened"], None)
        found = [
            e for e in entries if e.facts and (e.facts.get("upstream") or {}).get("issuer") == HOME_ISSUER
        ]  # type: ignore[attr-defined]
        assert found[-1].txn is not None
        return found[-1].txn


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncGenerator[World]:
    async with Two() as two, AsyncExitStack() as stack:
        yield World(two, stack)


async def test_a_guarded_call_of_a_foreign_tool_just_works(world: World) -> None:
    server, broker = await world.vault(), await world.agent()
    async with (
        Client(server) as far,
        broker.intent(world.id_token(), purpose="read", tools=["far/*"]) as intent,
    ):
        intent.guard(far, "far")
        result = await far.call_tool("read", {"to": "bob", "cents": 5})
    assert "5 for bob" in str(result.content)
    assert world.seen[-1] == ("server", None), "no origin and no person are taken over"
    assert world.outcomes(world.two.home, intent.txn) == ["done", "done"]  # the step, the intent
    assert world.outcomes(world.two.away, world.landed()) == ["done", "done"]


async def test_a_tool_that_fails_over_there_has_failed_at_home(world: World) -> None:
    server, broker = await world.vault(), await world.agent()
    async with (
        Client(server) as far,
        broker.intent(world.id_token(), purpose="read", tools=["far/*"]) as intent,
    ):
        intent.guard(far, "far")
        result = await far.call_tool("read", {"to": "bob", "cents": 13})
    assert result.is_error
    assert world.outcomes(world.two.home, intent.txn)[0] == "failed"


async def test_what_the_server_over_there_asks_is_a_step_of_its_own_there(world: World) -> None:
    server, broker = await world.vault(), await world.agent()
    asked: list[str] = []

    async def say(_: object, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"sure": True})

    async with (
        Client(server, mode="legacy", elicitation_callback=say) as far,
        broker.intent(world.id_token(), purpose="read", tools=["far/*"]) as intent,
    ):
        intent.guard(far, "far")
        result = await far.call_tool("read", {"to": "bob", "cents": 77})
    assert "accept for bob" in str(result.content)
    assert asked == ["really?"]
    steps = world.two.away.happened(world.landed(), "step.opened")
    assert [e.facts["tool"] for e in steps if e.facts] == ["vault/read", "client/elicitation"]


async def test_a_server_at_home_calls_one_abroad(world: World) -> None:
    vault, broker = await world.vault(), await world.agent()
    server = await world.ledger(vault)
    async with (
        Client(server) as near,
        broker.intent(world.id_token(), purpose="note", tools=["far/*", "ledger/*"]) as intent,
    ):
        intent.guard(near, "ledger")
        result = await near.call_tool("note", {"cents": 7})
    assert "7 for bob" in str(result.content)
    assert world.outcomes(world.two.home, intent.txn) == ["done", "done", "done"]


async def test_what_the_other_side_refuses_is_told_and_leaves_nothing_open(world: World) -> None:
    server, broker = await world.vault(), await world.agent()
    async with (
        Client(server) as far,
        broker.intent(world.id_token(), purpose="read", tools=["far/*"]) as intent,
    ):
        intent.guard(far, "far")
        assert not (await far.call_tool("read", {"to": "bob", "cents": 5})).is_error
        (await world.two.away.mark("freeze", f"issuer:{HOME_ISSUER}")).ok()
        before = len(world.seen)
        result = await far.call_tool("read", {"to": "bob", "cents": 5})
        (await world.two.away.mark("unfreeze", f"issuer:{HOME_ISSUER}")).ok()
    assert result.meta is not None
    assert result.meta[META_REFUSAL]["code"] == "frozen"
    assert len(world.seen) == before
    assert world.outcomes(world.two.home, intent.txn) == ["done", "failed", "done"]


async def test_a_revocation_at_home_ends_the_call_over_there(world: World) -> None:
    server, broker = await world.vault(), await world.agent()
    refused: list[RefusedError] = []

    async def call(far: Client, intent: Intent) -> None:
        intent.guard(far, "far", on_refusal="raise")
        try:
            await far.call_tool("read", {"to": "bob", "cents": 99})
        except RefusedError as no:
            refused.append(no)

    async with (
        Client(server) as far,
        broker.intent(world.id_token(), purpose="read", tools=["far/*"]) as intent,
        anyio.create_task_group() as group,
    ):
        group.start_soon(call, far, intent)
        await world.running.wait()
        (await world.two.home.mark("revoke", f"txn:{intent.txn}")).ok()
    world.going_on.set()
    assert [no.refusal.code for no in refused] == ["revoked"]
    assert "cancelled" in world.outcomes(world.two.away, world.landed())
