"""Many guarded MCP servers that call each other, on a real broker: who really called whom is written down.

async with Pipeline(stage, names) as line, line.intent() as intent:
    await line.call(intent, ["a", "b", "a"])
    line.check(stage)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult
from tests.fakes.stage import Stage, spiffe

from stepwrit import agent
from stepwrit.client import Broker, Parts
from stepwrit.lineage import Step, current_step
from stepwrit.mcp import Stepwrit
from stepwrit.wire import META_REFUSAL, Budget

AGENT = "agent/chat"
LIMITS = """\
version: 1
rates:
  - {name: credentials, on: credentials, per: [workload], rate: 60000/min, burst: 10000}
  - {name: steps, on: steps, per: [workload], rate: 60000/min, burst: 10000}
  - {name: intents, on: intents, per: [workload], rate: 60000/min, burst: 10000}
concurrency:
  - {name: outstanding, per: [workload], max: 10000}
transaction: {steps: 600, depth: 12, fan_out: 60, server_steps: 590}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
count: 3
"""


def entries(names: list[str]) -> list[dict[str, Any]]:
    """A registry in which each of these servers may start the tools of all."""
    tools = [f"{name}/*" for name in names]
    low = {"impact": "low", "plan": "self"}
    servers = [
        {"id": f"mcp-server/{name}", "role": "mcp-server", "name": name,
         "tools": {"go": low, "fan": low, "hold": low}, "may_start": {"tools": tools, "impact": "low"}}
        for name in names
    ]  # fmt: skip
    return [
        {"id": AGENT, "role": "agent", "name": "chat", "clients": ["chat-app"],
         "may_start": {"tools": tools, "impact": "high"}},
        *servers,
        {"id": "operator/ops", "role": "operator", "name": "ops"},
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One tool body that ran. caller: the id of the step whose body called it; the intent's for the agent."""

    step: Step
    server: str
    tool: str
    caller: str


def code_of(result: CallToolResult) -> str | None:
    """The refusal's code, None for a good answer."""
    if not result.is_error:
        return None
    assert result.meta is not None, result
    return str(result.meta[META_REFUSAL]["code"])


@dataclass
class Pipeline:
    """connect: how a server is reached; in memory, unless something else is given."""

    stage: Stage
    names: list[str]
    connect: Callable[[str], Any] | None = None
    ran: list[Ran] = field(default_factory=list)
    codes: list[str | None] = field(default_factory=list)
    servers: dict[str, MCPServer] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        for name in self.names:
            self.servers[name] = self._server(name, await self._broker(f"mcp-server/{name}"))
        self.agent = agent.Broker(
            await self.stage.transport(AGENT), spiffe(AGENT), Parts(base_url=self.stage.url)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _broker(self, path: str) -> Broker:
        return Broker(await self.stage.transport(path), spiffe(path), Parts(base_url=self.stage.url))

    def target(self, name: str) -> Any:
        """What an mcp client connects to."""
        return self.servers[name] if self.connect is None else self.connect(name)

    def _server(self, name: str, broker: Broker) -> MCPServer:
        server = MCPServer(name, extensions=[Stepwrit(broker, name=name)])

        @server.tool()
        async def go(route: list[str], caller: str) -> str:
            """Call the first of the route, which calls the next."""
            step = self._note(name, "go", caller)
            if not route:
                return step.id
            return await self._next(step, route[0], "go", {"route": route[1:], "caller": step.id})

        @server.tool()
        async def fan(to: str, count: int, deep: int, caller: str) -> str:
            """Call another server so many times at once; that one calls itself in a row."""
            step = self._note(name, "fan", caller)
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(
                        self._next(step, to, "go", {"route": [to] * (deep - 1), "caller": step.id})
                    )
            return step.id

        @server.tool()
        async def hold(route: list[str], caller: str) -> str:
            """As `go`, and the last one stays until the gate opens."""
            step = self._note(name, "hold", caller)
            try:
                if route:
                    await self._next(step, route[0], "hold", {"route": route[1:], "caller": step.id})
                else:
                    await self.gate.wait()
            except asyncio.CancelledError:
                self.stopped.append(step.id)
                raise
            return step.id

        return server

    def _note(self, server: str, tool: str, caller: str) -> Step:
        step = current_step()
        self.ran.append(Ran(step=step, server=server, tool=tool, caller=caller))
        return step

    async def _next(self, step: Step, to: str, tool: str, args: dict[str, Any]) -> str:
        async with Client(self.target(to)) as client:
            step.guard(client, to)
            result = await client.call_tool(tool, args)
        self.codes.append(code_of(result))
        return " ".join(getattr(each, "text", "") for each in result.content)

    @asynccontextmanager
    async def intent(self, **budget: int) -> AsyncGenerator[agent.Intent]:
        """A person's wish for all of it."""
        token = self.stage.issuer.mint("alice", client_id="chat-app")
        most, tools = Budget(**budget), [f"{name}/*" for name in self.names]
        async with self.agent.intent(token, purpose="a pipeline", tools=tools, budget=most) as intent:
            yield intent

    async def call(self, intent: agent.Intent, first: str, tool: str = "go", **args: Any) -> CallToolResult:
        """The agent calls the first server."""
        async with Client(self.target(first)) as client:
            intent.guard(client, first)
            try:
                return await client.call_tool(tool, {**args, "caller": intent.step})
            finally:
                intent.unguard()

    # --- what really happened, against what is on record

    def check(self, intent: agent.Intent) -> None:
        """Every body that ran for this intent is on record as it was called: chain, origin, who, whom."""
        by_step = {each.step.id: each for each in self.ran}
        opened = {
            str(entry.facts["step"]): entry.facts
            for entry in self.stage.happened(intent.txn, "step.opened")
            if entry.facts
        }
        mine = [each for each in self.ran if each.step.txn == intent.txn]
        assert {each.step.id for each in mine} <= opened.keys()
        for each in mine:
            path = self._path(each, by_step, intent.step)
            callers = ["chat", *(one.server for one in path[:-1])]
            hops = each.step.chain
            assert [hop.step for hop in hops] == [one.step.id for one in path]
            assert [hop.tool for hop in hops] == [f"{one.server}/{one.tool}" for one in path]
            assert [hop.performer for hop in hops] == [spiffe(f"mcp-server/{one.server}") for one in path]
            assert [hop.initiator for hop in hops] == [self._id(name) for name in callers]
            assert [hop.origin for hop in hops] == ["model", *["server"] * (len(path) - 1)]
            self._check_record(opened[each.step.id], each, path, intent)

    def _check_record(self, facts: Any, each: Ran, path: list[Ran], intent: agent.Intent) -> None:
        above = path[-2].server if len(path) > 1 else "chat"
        parent = path[-2].step.id if len(path) > 1 else intent.step
        assert facts["tool"] == f"{each.server}/{each.tool}"
        assert facts["origin"] == ("model" if len(path) == 1 else "server")
        assert (facts["initiator"], facts["parent"]) == (self._id(above), parent)
        assert facts["performer"] == spiffe(f"mcp-server/{each.server}")

    def _path(self, each: Ran, by_step: dict[str, Ran], root: str) -> list[Ran]:
        path = [each]
        while path[0].caller != root:
            path.insert(0, by_step[path[0].caller])
        return path

    @staticmethod
    def _id(name: str) -> str:
        return spiffe(AGENT if name == "chat" else f"mcp-server/{name}")
