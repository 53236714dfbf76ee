"""One `tools/call` of FastMCP in mcp's own types and back: both adapters guard it by the same code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from fastmcp.exceptions import DisabledError, FastMCPError, NotFoundError
from fastmcp.server.dependencies import FastMCPRequestContext, bind_request_context
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, TextContent

from stepwrit._mcp_run import crash

_ROUND: Final = {"input_responses", "request_state"}
_SERVED: Final[ContextVar[FastMCPRequestContext | None]] = ContextVar("stepwrit.fastmcp", default=None)
_INNER: Final[ContextVar[bool]] = ContextVar("stepwrit.fastmcp.inner", default=False)

Call = MiddlewareContext[CallToolRequestParams]


def is_inner(request: FastMCPRequestContext | None) -> bool:
    """Whether this call is one that the guarded tool of this very request makes of its own server."""
    return request is not None and _SERVED.get() is request


def in_inner_tool() -> bool:
    """Whether the running code is a tool that was called inside a tool."""
    return _INNER.get()


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


class Body:
    """The tool behind the guard, as mcp's guard calls it."""

    def __init__(
        self, context: Call, params: CallToolRequestParams, call_next: CallNext[CallToolRequestParams, Any]
    ) -> None:
        self._context: Final = context
        self._params: Final = params
        self._call_next: Final = call_next

    async def __call__(self, ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
        """Run it with the guarded session, in the round that the guard says."""
        changed = replace(ctx, params={**_without_round(ctx), **_round_of(self._params)})
        with bind_request_context(changed) as request:
            before = _SERVED.set(request)
            try:
                return to_mcp(await self._call_next(self._context))
            except (NotFoundError, DisabledError):
                raise
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
