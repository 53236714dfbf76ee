"""A guarded server and a guarded client of the real mcp SDK, each with its own SVID, at a stage's broker.

`Between` stands on the client's wire, below everything that is guarded: it may change what the server asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import (
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    SamplingCapability,
    SamplingToolsCapability,
    TextContent,
)
from tests.fakes.stage import Actor, Stage

from stepwrit import agent, client
from stepwrit._base import Parts
from stepwrit.lineage import current_step
from stepwrit.mcp import Stepwrit

MODES = {"2026-07-28": "2026-07-28", "2025-11-25": "legacy"}
CAN_USE_TOOLS = SamplingCapability(tools=SamplingToolsCapability())


@dataclass
class Clock:
    """The stage's."""

    stage: Stage

    def now(self) -> float:
        return self.stage.now()


async def broker_of(actor: Actor, kind: type[Any] = client.Broker) -> Any:
    """The SDK's way to the broker for this workload, with the actor's own key."""
    stage = actor.stage
    parts = Parts(base_url=stage.url, key=actor.key, clock=Clock(stage))
    return kind(await stage.transport(actor.path), actor.id, parts)


@dataclass
class Host:
    """What the agent's person and model do. does: before the model answers."""

    does: Callable[[Any], Any] | None = None
    shown: list[Any] = field(default_factory=list)
    acts: list[Any] = field(default_factory=list)

    async def elicit(self, _ctx: object, params: Any) -> ElicitResult:
        self._saw(params)
        if getattr(params, "mode", "form") == "url":
            return ElicitResult(action="accept")
        return ElicitResult(action="accept", content={"sure": True})

    async def sample(self, _ctx: object, params: Any) -> Any:
        self._saw(params)
        if self.does is not None:
            await self.does(params)
        made = CreateMessageResult if params.tools is None else CreateMessageResultWithTools
        return made(role="assistant", content=TextContent(type="text", text="fine"), model="m")

    async def roots(self, _ctx: object) -> ListRootsResult:
        self._saw("roots")
        return ListRootsResult(roots=[])

    def _saw(self, params: Any) -> None:
        self.shown.append(params)
        self.acts.append(current_step())


@asynccontextmanager
async def guarded(
    stage: Stage, server: MCPServer, host: Host, era: str, *, name: str = "ledger", by: str = "agent/chat"
) -> AsyncGenerator[tuple[Client, agent.Intent]]:
    """A client whose every call is a step of a fresh intent."""
    person = stage.issuer.mint("alice", client_id=f"{by.partition('/')[2]}-app")
    chat = await broker_of(await stage.actor(by), agent.Broker)
    async with (
        Client(
            server,
            mode=MODES[era],
            elicitation_callback=host.elicit,
            sampling_callback=host.sample,
            list_roots_callback=host.roots,
            sampling_capabilities=CAN_USE_TOOLS,
        ) as mcp,
        chat.intent(person, purpose="a test", tools=["ledger/*", "audit/*", "files/*"]) as intent,
    ):
        intent.guard(mcp, name)
        yield mcp, intent


async def server_of(stage: Stage, name: str = "ledger") -> MCPServer:
    """An MCP server that is guarded as this one of the stage."""
    broker = await broker_of(await stage.actor(f"mcp-server/{name}"))
    return MCPServer(name, extensions=[Stepwrit(broker, name=name)])


class Between:
    """Changes what reaches the client. change: of a question's `_meta`, or of the questions themselves.

    On 2026-07-28 the result is changed, on 2025-11-25 each request: `meta` gets key -> {token, proof} and
    says what is there instead.
    """

    def __init__(self, mcp: Client, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        from stepwrit.wire import META_STEP
        from stepwrit.wire_acts import META_STEPS

        session: Any = mcp.session
        send, dispatch = session.send_request, session.dispatch_input_request

        async def sent(*args: Any, **kwargs: Any) -> Any:
            result = await send(*args, **kwargs)
            if not isinstance(result, InputRequiredResult):
                return result
            meta = dict(result.meta or {})
            proofs = dict(change(meta.pop(META_STEPS, {})))
            return result.model_copy(update={"meta": {**meta, META_STEPS: proofs} if proofs else meta})

        async def dispatched(ctx: Any, request: Any) -> Any:
            if ctx.meta and META_STEP in ctx.meta:
                meta = dict(ctx.meta)
                proofs = dict(change({"0": meta.pop(META_STEP)}))
                ctx.meta = {**meta, META_STEP: proofs["0"]} if proofs else meta
            return await dispatch(ctx, request)

        session.send_request, session.dispatch_input_request = sent, dispatched


async def settled(check: Callable[[], bool]) -> None:
    """Until it is so; the work is on other tasks of this loop."""
    while not check():
        await asyncio.sleep(0.01)
