"""For authors of MCP servers on FastMCP, with the names and the behaviour of `stepwrit.mcp`.

    mcp = FastMCP("ledger", middleware=[Stepwrit.from_env()])

    @mcp.tool
    async def transfer(amount: int, bank: Annotated[Credential, credential("https://bank.example")]) -> str:
        async with httpx2.AsyncClient(auth=bank, base_url="https://bank.example") as http:
            return (await http.post("/v1/transfers", json={"cents": amount * 100})).text

Put it first: what stands before it in `middleware` sees, and may answer, calls that are not guarded. Put it
on the server that you run: on a mounted one the names of the tools are not those of the registry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from mcp_types import CallToolRequestParams
from uncalled_for import Provider

from stepwrit import mcp
from stepwrit._alive import Sleep
from stepwrit._credential import Credential
from stepwrit._fastmcp_call import Body, arrived, inner, is_inner, own_step, raw, to_fastmcp
from stepwrit._mcp_approval import WAIT_S
from stepwrit._mcp_inputs import refusal_error, refused_result
from stepwrit._mcp_run import is_task
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.lineage import Step, current_step
from stepwrit.mcp import guard, request_state

if TYPE_CHECKING:
    from fastmcp_tasks import TasksExtension

    from stepwrit._fastmcp_tasks import Tasks

__all__ = ["Credential", "Step", "Stepwrit", "credential", "current_step", "guard", "request_state"]


class Stepwrit(Middleware):
    """Guards a server's tools: no step, no call.

    broker, name, sleep, wait_for_approval, stop_ended: as for `stepwrit.mcp.Stepwrit`.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        name: str | None = None,
        sleep: Sleep = anyio.sleep,
        wait_for_approval: float = WAIT_S,
        stop_ended: bool = True,
    ) -> None:
        self._tasks: Tasks | None = None
        self._guard: Final = mcp.Stepwrit(
            broker, name=name, sleep=sleep, wait_for_approval=wait_for_approval, stop_ended=stop_ended
        )

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

    @property
    def guarded_by(self) -> mcp.Stepwrit:
        """What guards each call: that of the official SDK."""
        return self._guard

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, Any],
    ) -> Any:
        """FastMCP's seam. A refusal is an `isError` result; nothing of ours raises out of here."""
        request = None if context.fastmcp_context is None else context.fastmcp_context.request_context
        if is_inner(request):
            with inner():
                return await call_next(context)
        if request is None:
            return to_fastmcp(refused_result(local("no_step", "this tool is called by no client")))
        params = arrived(context, request)
        body = Body(context, params, call_next, tasks=self._tasks is not None)
        result = await self._guard.intercept_tool_call(params, raw(request), body)
        if is_task(result) and self._tasks is not None and body.step is not None:
            result = await self._tasks.bound(result, body.step)
        return to_fastmcp(result)

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """FastMCP's seam for `tasks/*`: only who opened a task's step gets, answers or cancels it.

        Raises:
            MCPError: the refusal, in its `data`.
        """
        if not (context.method or "").startswith("tasks/"):
            return await call_next(context)
        if self._tasks is None:
            raise refusal_error(
                local("not_yet_supported", "this server has no tasks: Stepwrit.tasks makes them")
            )
        return await self._tasks.asked(context, call_next)

    def tasks(self, **options: Any) -> TasksExtension:
        """FastMCP's tasks extension, guarded: `mcp.add_extension(guard.tasks(url="redis://…"))`.

        A call becomes a task if its step is deferred, which its client's guard says (`tasks=[…]`). The body
        runs in the worker under that step; requests about the task are answered to whoever opened it.
        options: as for `fastmcp_tasks.TasksExtension`. A `TasksExtension` of your own gets no tasks.
        """
        from stepwrit._fastmcp_tasks import Tasks  # noqa: PLC0415  `fastmcp[tasks]`

        self._tasks = Tasks(self._guard, **options)
        return self._tasks

    @asynccontextmanager
    async def lifespan(self, _server: object = None) -> AsyncGenerator[dict[str, Any]]:
        """Be ready before the first call, and let go at the end: `FastMCP(lifespan=stepwrit.lifespan)`.

        Raises:
            IdentityUnavailable: no SVID within ten seconds.
        """
        async with self._guard.lifespan() as state:
            yield state


class credential(Provider[Credential]):  # noqa: N801  reads as what it stands for in an annotation
    """`Annotated[Credential, credential("https://bank.example")]`: a handle for the tool's own step.

    The handle mints when it is used and not before: the tool runs again in every round.
    """

    def __init__(self, audience: str, *, kind: type[Credential] = Credential) -> None:
        self.audience: Final = audience
        self._kind: Final = kind

    async def __aenter__(self) -> Credential:
        """FastMCP's seam. Raises RefusedError (`no_step`) in a tool that is called inside a tool."""
        return self._kind(self.audience, own_step())
