"""Requests about background tasks, at a server of the official SDK: it has none, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.extension import MethodBinding
from mcp_types import CallToolRequestParams, CallToolResult, RequestParams

from stepwrit._mcp_inputs import refusal_error, refused_result
from stepwrit._reply import local

METHODS: Final = (
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
)  # `list` and `result` are gone since 2026-07-28
REASON: Final = "background tasks need FastMCP's: the official SDK has none"


def refusals() -> Sequence[MethodBinding]:
    """A typed refusal for each method that asks about a task, in every protocol version."""
    return [MethodBinding(method=each, params_type=RequestParams, handler=_refuse) for each in METHODS]


def as_task(params: CallToolRequestParams) -> CallToolResult | None:
    """The refusal of a call that is to run as a task (2025-11-25); None for any other call."""
    return None if params.task is None else refused_result(local("not_yet_supported", REASON))


async def _refuse(_ctx: ServerRequestContext[Any, Any], _params: RequestParams) -> None:
    raise refusal_error(local("not_yet_supported", REASON))
