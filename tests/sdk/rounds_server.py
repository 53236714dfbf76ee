"""A guarded server for the matrix of transports: `python rounds_server.py stdio`, or a port for HTTP."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from pydantic import BaseModel

from stepwrit.mcp import Stepwrit, current_step, request_state


class Sure(BaseModel):
    sure: bool


class Why(BaseModel):
    why: str


async def ask() -> Elicit[Sure]:
    return Elicit("really?", Sure)


async def ask_why(sure: Annotated[Sure, Resolve(ask)]) -> Elicit[Why]:
    return Elicit(f"why {sure.sure}?", Why)


def made() -> MCPServer:
    """One round, two and three, by its environment's identity."""
    guard = Stepwrit.from_env(name="ledger")
    keys = request_state(keys=["k" * 32])
    server = MCPServer("ledger", extensions=[guard], lifespan=guard.lifespan, request_state_security=keys)

    @server.tool()
    async def note(words: str) -> str:
        return f"{words}, started by {current_step().origin}"

    @server.tool()
    async def confirm(sure: Annotated[Sure, Resolve(ask)]) -> str:
        return f"sure: {sure.sure}"

    @server.tool()
    async def explain(sure: Annotated[Sure, Resolve(ask)], why: Annotated[Why, Resolve(ask_why)]) -> str:
        return f"sure: {sure.sure}, why: {why.why}, step {current_step().id[:4]}"

    return server


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        made().run("stdio")
    else:
        app = made().streamable_http_app()
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
