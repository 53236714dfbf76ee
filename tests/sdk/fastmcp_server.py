"""A guarded FastMCP server: `python fastmcp_server.py stdio`, or a port for HTTP."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastmcp import Context, FastMCP
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

from stepwrit.fastmcp import Stepwrit, current_step, request_state

FORM: dict[str, Any] = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


def made() -> FastMCP:
    """One round and two, by its environment's identity."""
    guard = Stepwrit.from_env(name="ledger")
    keys = request_state(keys=["k" * 32])
    server = FastMCP("ledger", middleware=[guard], lifespan=guard.lifespan, request_state_security=keys)

    @server.tool
    async def note(words: str) -> str:
        return f"{words}, started by {current_step().origin}"

    @server.tool
    async def confirm(ctx: Context) -> Any:
        request = ctx.request_context
        if request is not None and request.protocol_version != "2026-07-28":
            return f"sure: {(await ctx.elicit('really?', bool)).action}"
        answer: Any = (ctx.input_responses or {}).get("sure")
        if answer is None:
            form = ElicitRequestFormParams(message="really?", requested_schema=FORM)
            return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)}, request_state="s")
        return f"sure: {answer.action}, {ctx.request_state}"

    return server


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        made().run("stdio", show_banner=False)
    else:
        uvicorn.run(made().http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
