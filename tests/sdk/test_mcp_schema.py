"""The digest of what a server shows its clients is found, however many extensions stand round the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp import Client
from mcp.server.extension import Extension
from mcp.server.mcpserver import MCPServer

from stepwrit._mcp_schema import NESTED_MAX, Served
from stepwrit.digest import schema_digest


class Asking(Extension):
    """Remembers the digest that is found where the guard stands."""

    identifier = "test.example/asking"

    def __init__(self) -> None:
        self.served = Served()
        self.found: list[str | None] = []

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        self.found.append(await self.served.digest(call_next, params.name))
        return await call_next(ctx)


class Other(Extension):
    """Stands in between."""

    identifier = "test.example/other"

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)


async def test_it_is_that_of_the_list_and_follows_the_tool() -> None:
    asking = Asking()
    server = MCPServer("s", extensions=[asking, Other()])

    def first(amount: int) -> str:
        return str(amount)

    def second(amount: int, reason: str = "") -> str:
        return f"{amount}{reason}"

    async def digest(client: Client) -> str:
        return schema_digest((await client.list_tools()).tools[0].input_schema)

    async with Client(server) as client:
        server.tool(name="pay")(first)
        await client.call_tool("pay", {"amount": 1})
        await client.call_tool("pay", {"amount": 2})
        assert asking.found == [await digest(client)] * 2
        server.remove_tool("pay")
        server.tool(name="pay")(second)
        await client.call_tool("pay", {"amount": 3})
        assert asking.found[2] == await digest(client) != asking.found[0]


async def test_where_there_is_none_nothing_is_said() -> None:
    served = Served()

    async def alone(ctx: Any) -> None:
        """No handler behind it."""

    def wrapped(call_next: Any) -> Any:
        async def call(ctx: Any) -> Any:
            return await call_next(ctx)

        return call

    deep: Any = alone
    for _ in range(NESTED_MAX + 1):
        deep = wrapped(deep)
    for call in (alone, wrapped(alone), deep, object(), None):
        assert await served.digest(call, "pay") is None

    class Odd:
        async def input_schema(self) -> Mapping[str, object]:
            return {"default": float("nan")}

        def as_shown(self, schema: Mapping[str, object]) -> Mapping[str, object]:
            return schema

    assert await served.digest(Odd(), "pay") is None
