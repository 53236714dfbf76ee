"""For authors of MCP servers on the official SDK.

    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def transfer(amount: int, bank: Annotated[Credential, credential("https://bank.example")]) -> str:
        async with httpx2.AsyncClient(auth=bank, base_url="https://bank.example") as http:
            return (await http.post("/v1/transfers", json={"cents": amount * 100})).text

Every tool call is a step: accepted when the body starts, closed when it ends. A call that carries none is
refused, unless the registry says `without_step: root` of the tool. Of MCP's requests only `tools/call` is
guarded. Start-up costs nothing; the first call waits for the SVID and the connection
(`lifespan` moves that to the server's start). With several workers on 2026-07-28, give the server
`request_state_security=request_state(keys=[…])`: the answer may arrive at another worker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.resolve import Resolve
from mcp.server.request_state import RequestStateSecurity
from mcp_types import CallToolRequestParams

from stepwrit._alive import Sleep
from stepwrit._credential import Credential
from stepwrit._hook import OnRefusal, SessionHook, hook
from stepwrit._mcp_approval import WAIT_S, resume
from stepwrit._mcp_arrival import Arrival, accept
from stepwrit._mcp_inputs import refused_result
from stepwrit._mcp_run import Running, run
from stepwrit._mcp_schema import Served
from stepwrit._mcp_state import digest_of, principal, take
from stepwrit._mcp_stepless import Stepless
from stepwrit._mcp_tasks import as_task, refusals
from stepwrit._outgoing import OutgoingStep
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import RefusedError, StepwritError
from stepwrit.lineage import Step, current_step
from stepwrit.wire import HEADER_TXN_TOKEN, WAITING_MAX_S

__all__ = ["Credential", "Step", "Stepwrit", "credential", "current_step", "guard", "request_state"]


class Stepwrit(Extension):
    """Guards a server's tools: no step, no call.

    broker: the way to the broker. name: the server's name in the registry; None leaves the comparison to the
    performer's SPIFFE ID, under which the registry has one server. sleep: seconds, between heartbeats.
    wait_for_approval: seconds that a call waits for a signature after its client was handed the page.
    stop_ended: cancel the body of a tool whose step others end (revoked, its caller's call over). A body that
    runs in a thread ends by itself; with False an async one does too. Either way the broker refuses it all.
    """

    identifier = "dev.stepwrit/step"

    def __init__(
        self,
        broker: Broker,
        *,
        name: str | None = None,
        sleep: Sleep = anyio.sleep,
        wait_for_approval: float = WAIT_S,
        stop_ended: bool = True,
    ) -> None:
        self.broker: Final = broker
        self.name: Final = name
        self.how: Final = Running(sleep=sleep, stops=stop_ended)
        self._wait_s: Final = wait_for_approval
        self._stepless: Final = Stepless()
        self._served: Final = Served()

    @classmethod
    def from_env(
        cls,
        *,
        name: str | None = None,
        environ: Mapping[str, str] | None = None,
        wait_for_approval: float = WAIT_S,
        stop_ended: bool = True,
    ) -> Stepwrit:
        """By SPIFFE_ENDPOINT_SOCKET, STEPWRIT_BROKER and STEPWRIT_BROKER_ID. Raises ConfigurationError."""
        broker = Broker.from_env(environ)
        return cls(broker, name=name, wait_for_approval=wait_for_approval, stop_ended=stop_ended)

    def methods(self) -> Sequence[MethodBinding]:
        """Mcp's seam: what asks about a background task is refused by name; there are none."""
        return refusals()

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Mcp's seam. A refusal is an `isError` result; nothing of ours raises out of here."""
        task = as_task(params)
        if task is not None:
            return task
        try:
            schema = await self._served.digest(call_next, params.name)
            step = await accept(self.broker, _arrival(params, ctx, schema), self.name, self._stepless)
        except RefusedError as no:
            return refused_result(no.refusal)
        except StepwritError as doubt:
            return refused_result(local("unavailable", str(doubt)))
        if step.root is None:
            take(params)
            resume(step, params, self._wait_s)
        return await run(self.broker, step, params, ctx, call_next, self.how)

    @asynccontextmanager
    async def lifespan(self, _server: object = None) -> AsyncGenerator[dict[str, Any]]:
        """Be ready before the first call, and let go at the end: `MCPServer(lifespan=stepwrit.lifespan)`.

        Raises:
            IdentityUnavailable: no SVID within ten seconds.
        """
        async with self.broker:
            await self.broker.ready()
            yield {}


class credential(Resolve):  # noqa: N801  reads as what it stands for in an annotation
    """`Annotated[Credential, credential("https://bank.example")]`: a handle for the tool's own step.

    The handle mints when it is used and not before: resolvers run again in every round.
    """

    def __init__(self, audience: str, *, kind: type[Credential] = Credential) -> None:
        async def handle(ctx: Context[Any, Any]) -> Credential:
            return kind(audience, _own_step(ctx))

        super().__init__(handle)
        self.audience: Final = audience


def guard(client: object, server: str | None = None, *, on_refusal: OnRefusal = "result") -> SessionHook:
    """Make each call of a long-lived MCP client of this server a child of the step it is made for.

    The step is the current one at each call; without one the call is refused (`no_step`). For a client that
    lives as long as one call, `current_step().guard(client)` does. `remove()` of the answer takes it off.

    Raises:
        ConfigurationError: nobody says which server it is, or the session is guarded already.
    """

    async def opener(name: str, tool: str, args: dict[str, object]) -> OutgoingStep:
        return await current_step().start(name, tool, args)

    return hook(client, server, opener, on_refusal)


def request_state(
    keys: Sequence[bytes | bytearray | str], *, ttl: float = WAITING_MAX_S
) -> RequestStateSecurity:
    """Mcp's seal on `requestState`, bound to transaction, step, initiator and key of the call.

    keys: at least 32 bytes each, shared by all workers of one server; the first seals, all open.
    ttl: seconds.

        server = MCPServer("ledger", extensions=[guard], request_state_security=request_state(keys=[KEY]))

    Raises:
        ValueError: a key is too short, or there is none.
    """
    return RequestStateSecurity(keys=keys, ttl=ttl, bind_principal=principal)


def _own_step(ctx: Context[Any, Any]) -> Step:
    """The step of the call whose resolvers run; a tool called inside a tool has none of its own."""
    try:
        _ = ctx.request_context
    except ValueError:
        reason = "a tool that is called inside a tool is no step: start it with current_step().start"
        raise RefusedError(local("no_step", reason)) from None
    return current_step()


def _arrival(
    params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], schema: str | None
) -> Arrival:
    return Arrival(
        tool=params.name,
        arguments=params.arguments,
        meta=cast("Mapping[str, object] | None", params.meta),
        headers=_headers(ctx.request),
        state=digest_of(params.request_state),
        schema=schema,
    )


def _headers(request: object) -> list[str]:
    """Every `Txn-Token` header of the HTTP request, if there is one."""
    headers = getattr(request, "headers", None)
    every = getattr(headers, "getlist", None)
    return list(cast("list[str]", every(HEADER_TXN_TOKEN))) if callable(every) else []
