"""One `tools/call` of FastMCP in mcp's own types and back: both adapters guard it by the same code."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, cast

from fastmcp.exceptions import DisabledError, FastMCPError, NotFoundError
from fastmcp.server.dependencies import FastMCPRequestContext, bind_request_context
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from fastmcp.utilities.json_schema import dereference_refs
from fastmcp.utilities.tasks import TASKS_EXTENSION_ID
from mcp import MCPError
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    TextContent,
)

from stepwrit._mcp_inputs import refused_result
from stepwrit._mcp_run import crash
from stepwrit._reply import local
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step, current_step

NOT_DEFERRED: Final = "this tool runs as a task only: guard the client with tasks=[…], the server with tasks"

_ROUND: Final = {"input_responses", "request_state"}
_SERVED: Final[ContextVar[FastMCPRequestContext | None]] = ContextVar("stepwrit.fastmcp", default=None)
_INNER: Final[ContextVar[bool]] = ContextVar("stepwrit.fastmcp.inner", default=False)

Call = MiddlewareContext[CallToolRequestParams]


def is_inner(request: FastMCPRequestContext | None) -> bool:
    """Whether this call is one that the guarded tool of this very request makes of its own server."""
    return request is not None and _SERVED.get() is request


@contextmanager
def inner() -> Generator[None]:
    """A tool inside a tool runs under the outer step, and has none of its own."""
    before = _INNER.set(True)
    try:
        yield
    finally:
        _INNER.reset(before)


def raw(request: FastMCPRequestContext) -> ServerRequestContext[Any, Any]:
    """Mcp's own context of the request; FastMCP keeps it for this, and offers no public way to it."""
    return request._srctx  # pyright: ignore[reportPrivateUsage]


def arrived(context: Call, request: FastMCPRequestContext) -> CallToolRequestParams:
    """The call as it is about to run: after what stands before the guard, with the `_meta` that was sent."""
    said = context.message
    params = CallToolRequestParams.model_validate(
        {"name": said.name, "arguments": said.arguments, "_meta": request.meta}
    )
    for member in _ROUND:
        setattr(params, member, getattr(said, member))
    return params


def own_step() -> Step:
    """The step of the tool whose dependencies are resolved. In a worker that is before its step is taken.

    Raises:
        RefusedError: `no_step`.
    """
    tasks = sys.modules.get("fastmcp_tasks.context")  # whoever runs in a worker has imported it
    if tasks is not None and tasks.get_task_context() is not None:
        return cast("Step", _Late())
    if _INNER.get():
        reason = "a tool that is called inside a tool is no step: start it with current_step().start"
        raise RefusedError(local("no_step", reason))
    return current_step()


class _Late:
    """The step that is current when this is used first."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._found(), name, value)

    def _found(self) -> Step:
        if "_step" not in vars(self):
            vars(self)["_step"] = current_step()
        return cast("Step", vars(self)["_step"])


class Body:
    """The tool behind the guard, as mcp's guard calls it. step: which it ran for.

    tasks: whether the server's tasks are guarded too; a call becomes a task only then, and if its step is
    deferred.
    """

    def __init__(
        self,
        context: Call,
        params: CallToolRequestParams,
        call_next: CallNext[CallToolRequestParams, Any],
        *,
        tasks: bool = False,
    ) -> None:
        self.step: Step | None = None
        self._tasks: Final = tasks
        self._context: Final = context
        self._params: Final = params
        self._call_next: Final = call_next

    async def input_schema(self) -> Mapping[str, object] | None:
        """The tool's schema as it was registered."""
        within = self._context.fastmcp_context
        tool = None if within is None else await within.fastmcp.get_tool(self._params.name)
        return None if tool is None else tool.parameters

    def as_shown(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        """As `tools/list` shows it: mostly with its `$ref`s resolved."""
        within = self._context.fastmcp_context
        every = () if within is None else within.fastmcp.middleware
        resolves = any(isinstance(each, DereferenceRefsMiddleware) for each in every)
        return dereference_refs(dict(schema)) if resolves else schema

    async def __call__(self, ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
        """Run it with the guarded session, in the round that the guard says."""
        self.step = current_step()
        members = {**_without_round(ctx), **_round_of(self._params)}
        may_be_task = self._tasks and self.step.accepted.deferred
        if not may_be_task:
            members["_meta"] = without_tasks(members.get("_meta"))
        changed = replace(ctx, params=members)
        with bind_request_context(changed) as request:
            before = _SERVED.set(request)
            try:
                return to_mcp(await self._call_next(self._context))
            except (NotFoundError, DisabledError):
                raise
            except MCPError as error:
                if may_be_task or error.code != MISSING_REQUIRED_CLIENT_CAPABILITY:
                    raise
                return refused_result(self.step.note(local("invalid_request", NOT_DEFERRED)).refusal)
            except FastMCPError as failed:
                return _failed(self._params.name, failed)
            finally:
                _SERVED.reset(before)


def to_mcp(result: Any) -> HandlerResult:
    """FastMCP's result in mcp's types; what an extension made stays as it is."""
    if isinstance(result, InputRequiredToolResult):
        return result.input_required
    if not isinstance(result, ToolResult):
        return result  # type: ignore[no-any-return]
    made: Any = result.to_mcp_result()
    if isinstance(made, CallToolResult):
        return made
    content, structured = made if isinstance(made, tuple) else (made, None)
    return CallToolResult(content=content, structured_content=structured)


def to_fastmcp(result: HandlerResult) -> Any:
    """The same way back, with nothing lost."""
    if isinstance(result, InputRequiredResult):
        return InputRequiredToolResult(result)
    return ToolResult.from_mcp_result(result) if isinstance(result, CallToolResult) else result


def without_tasks(meta: object) -> object:
    """`_meta` of a call that is to be answered at once: its client takes no tasks."""
    members = dict(cast("Mapping[str, Any]", meta)) if isinstance(meta, Mapping) else {}
    own = members.get(CLIENT_CAPABILITIES_META_KEY)
    extensions: object = own.get("extensions") if isinstance(own, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(extensions, Mapping):
        return meta
    kept = {name: extensions[name] for name in extensions if name != TASKS_EXTENSION_ID}
    return {**members, CLIENT_CAPABILITIES_META_KEY: {**own, "extensions": kept}}


def _failed(tool: str, failed: FastMCPError) -> CallToolResult:
    """What FastMCP would answer: the words of a tool that failed, and none of one that crashed."""
    text, told = str(failed), f"Error calling tool {tool!r}"
    if text in (told, f"{told}: {failed.__cause__}"):
        return crash(tool)
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _round_of(params: CallToolRequestParams) -> dict[str, Any]:
    return params.model_dump(mode="json", by_alias=True, exclude_none=True, include=_ROUND)


def _without_round(ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
    members = dict(ctx.params or {})
    for member in ("inputResponses", "requestState"):
        members.pop(member, None)
    return members
