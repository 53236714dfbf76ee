"""A tool that asks the person before it runs, on both SDKs, for the tests beside it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import fastmcp
from fastmcp.dependencies import Depends
from fastmcp.exceptions import ToolError
from mcp.server.mcpserver import Elicit, Resolve
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import BaseModel
from tests.sdk.test_mcp_rig import Rig

from stepwrit.lineage import current_step


class Yes(BaseModel):
    yes: bool


Does = Callable[[Any], Awaitable[str]]


async def _paid(_right: Any) -> str:
    return "paid 5 True"


async def _nothing() -> None:
    return None


def asking(rig: Rig, right: Any = None, does: Does = _paid) -> list[int]:
    """The tool `pay`; which rounds its body ran in. right: a parameter's annotation, given to `does`."""
    rounds: list[int] = []
    if rig.sdk == "fastmcp":
        _asking_fastmcp(rig, rounds, right or Annotated[None, Depends(_nothing)], does)
    else:
        _asking_mcp(rig, rounds, right or Annotated[None, Resolve(_nothing)], does)
    return rounds


def _asking_mcp(rig: Rig, rounds: list[int], right: Any, does: Does) -> None:
    async def confirm() -> Elicit[Yes]:
        return Elicit("Pay 5?", Yes)

    @rig.server.tool()
    async def pay(amount: int, right: right, yes: Annotated[Yes, Resolve(confirm)]) -> str:  # type: ignore[valid-type]
        rounds.append(current_step().round)
        return await does(right)


def _asking_fastmcp(rig: Rig, rounds: list[int], right: Any, does: Does) -> None:
    """In both eras' own ways: there is no resolver that hides them."""

    @rig.server.tool()
    async def pay(amount: int, right: right, ctx: fastmcp.Context) -> Any:  # type: ignore[valid-type]
        if ctx.request_context is not None and ctx.request_context.protocol_version == "2026-07-28":
            answer = (ctx.input_responses or {}).get("sure")
            if answer is None:
                form = ElicitRequestFormParams(message="Pay 5?", requested_schema=Yes.model_json_schema())
                return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)})
        else:
            answer = await ctx.elicit("Pay 5?", Yes)
        if getattr(answer, "action", None) != "accept":
            raise ToolError("declined")
        rounds.append(current_step().round)
        return await does(right)
