"""A tool of one's own in the middle of another: a child that the server performs itself, by its own plan."""

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from mcp.server import MCPServer

from stepwrit import guard, testing
from stepwrit._testing_kit import Era, Kit
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step
from stepwrit.mcp import Credential, Stepwrit, credential, current_step

BANK = "https://bank.example"
stepwrit = testing.stepwrit
both_eras = pytest.mark.parametrize("era", ["2026-07-28", "2025-11-25"])


def text(result: Any) -> str:
    return str(result.content[0].text)


def bank(seen: list[str]) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/rates")
    async def rates(step: Annotated[guard.Step, Depends(guard.current_step)]) -> str:
        seen.append(f"{step.tool} by {step.origin}")
        return "1.07"

    return app


def tools(seen: list[Step]) -> MCPServer:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def convert(amount: int) -> str:
        outer = current_step()
        async with outer.perform("rates", {"of": "EUR"}) as step:
            seen.append(step)
            assert current_step() is step
            async with httpx2.AsyncClient(auth=step.credential(BANK), base_url=BANK) as http:
                rate = (await http.get("/v1/rates")).json()
        assert current_step() is outer
        return f"{amount} at {rate}"

    @server.tool()
    async def outside(bank: Annotated[Credential, credential(BANK)]) -> str:
        async with httpx2.AsyncClient(auth=bank, base_url=BANK) as http:
            return (await http.get("/v1/rates")).text

    @server.tool()
    async def mixed(bank: Annotated[Credential, credential(BANK)]) -> str:
        async with current_step().perform("rates"), httpx2.AsyncClient(auth=bank, base_url=BANK) as http:
            return (await http.get("/v1/rates")).text

    @server.tool()
    async def late() -> str:
        async with current_step().perform("rates") as step:
            bank = step.credential(BANK)
        async with httpx2.AsyncClient(auth=bank, base_url=BANK) as http:
            return (await http.get("/v1/rates")).text

    @server.tool()
    async def breaks() -> str:
        async with current_step().perform("rates") as step:
            seen.append(step)
            raise ValueError

    return server


@pytest.fixture
def kit(stepwrit: Kit) -> Kit:
    stepwrit.tool("ledger/rates", plan=[f"GET {BANK}/v1/rates"])
    return stepwrit


@both_eras
async def test_its_requests_are_the_childs_by_origin_server(kit: Kit, era: Era) -> None:
    reached: list[str] = []
    seen: list[Step] = []
    kit.resource(bank(reached), BANK)
    async with kit.client(tools(seen), era=era) as client:
        assert text(await client.call_tool("convert", {"amount": 5})) == "5 at 1.07"
    assert reached == ["ledger/rates by server"]
    assert (seen[0].tool, seen[0].origin, seen[0].ended) == ("ledger/rates", "server", "done")
    assert [hop.tool for hop in seen[0].chain] == ["ledger/convert", "ledger/rates"]


@both_eras
@pytest.mark.parametrize(("tool", "code"), [("outside", "plan"), ("mixed", "no_step"), ("late", "closed")])
async def test_the_plan_is_the_childs_alone_and_for_its_block(
    kit: Kit, era: Era, tool: str, code: str
) -> None:
    reached: list[str] = []
    kit.resource(bank(reached), BANK)
    async with kit.client(tools([]), era=era) as client:
        assert not (await client.call_tool("convert", {"amount": 5})).is_error
        assert text(await client.call_tool(tool, {})).startswith(f"refused: {code}")
    assert len(reached) == 1


async def test_a_block_that_fails_is_a_step_that_failed(kit: Kit) -> None:
    seen: list[Step] = []
    async with kit.client(tools(seen)) as client:
        assert (await client.call_tool("breaks", {})).is_error
    assert seen[0].ended == "failed"
    assert kit.ledger.kinds()[-3:] == ["failed", "failed", "done"]


async def test_what_the_broker_refuses_never_begins(kit: Kit) -> None:
    kit.resource(bank([]), BANK)
    seen: list[Step] = []
    async with kit.client(tools(seen)) as client:
        assert not (await client.call_tool("convert", {"amount": 5})).is_error
        kit.refuse("ledger/rates", reason="ceiling")
        assert text(await client.call_tool("convert", {"amount": 5})).startswith("refused: ceiling")
    assert len(seen) == 1
    with pytest.raises(RefusedError, match="no_step"):
        current_step()
