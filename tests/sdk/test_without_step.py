"""A call without a step, where the registry says `root`: a transaction of the server's own, for one call."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types import ElicitResult
from pydantic import BaseModel

from stepwrit import testing
from stepwrit._mcp_stepless import REMEMBERED
from stepwrit._testing_kit import Era, Kit
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step
from stepwrit.mcp import Stepwrit, current_step
from stepwrit.wire import META_REF, META_REFUSAL, META_STEP

stepwrit = testing.stepwrit
ERAS: list[Era] = ["2026-07-28", "2025-11-25"]
both_eras = pytest.mark.parametrize("era", ERAS)


class Sure(BaseModel):
    sure: bool


async def ask() -> Elicit[Sure]:
    return Elicit("really?", Sure)


def text(result: Any) -> str:
    return str(result.content[0].text)


def tools(seen: list[Step]) -> MCPServer:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def search(words: str) -> str:
        seen.append(current_step())
        return f"found {words}"

    @server.tool()
    async def wipe() -> str:
        seen.append(current_step())
        return "gone"

    @server.tool()
    async def fail() -> str:
        raise ValueError

    @server.tool()
    async def onward(tool: str) -> str:
        child = await current_step().start("audit", tool, {})
        return child.origin

    @server.tool()
    async def confirm(sure: Annotated[Sure, Resolve(ask)]) -> str:
        return f"sure: {sure.sure}"

    @server.tool()
    async def sleep(ctx: Context) -> str:
        await anyio.sleep_forever()
        return ""

    return server


@both_eras
async def test_it_is_one_step_of_the_servers_own(stepwrit: Kit, era: Era) -> None:
    seen: list[Step] = []
    stepwrit.without_step("search")
    async with stepwrit.client(tools(seen), era=era, guarded=False) as client:
        result = await client.call_tool("search", {"words": "x"})
    assert text(result) == "found x"
    assert result.meta is not None
    assert result.meta[META_REF] == seen[0].ref
    assert stepwrit.ledger.kinds() == ["intent", "opened", "accepted", "self", "done", "done"]
    assert {entry.origin for entry in stepwrit.ledger.entries} == {"server"}
    assert (seen[0].origin, seen[0].requester, seen[0].tool) == ("server", None, "ledger/search")
    assert seen[0].purpose == "a call of ledger/search that came without a step"


@both_eras
async def test_other_tools_stay_refused_and_the_broker_is_not_asked_again(stepwrit: Kit, era: Era) -> None:
    seen: list[Step] = []
    stepwrit.without_step("search")
    stepwrit.tool("wipe", impact="medium")
    stepwrit.without_step("wipe")  # not of low impact: the setting is not enough
    async with stepwrit.client(tools(seen), era=era, guarded=False) as client:
        assert not (await client.call_tool("search", {"words": "x"})).is_error
        refused = [await client.call_tool(tool, {}) for tool in ("wipe", "onward", "wipe")]
    assert all(text(each).startswith("refused: no_step. ref ") for each in refused)
    assert refused[0].meta is not None
    assert refused[0].meta[META_REFUSAL]["code"] == "no_step"
    assert stepwrit.ledger.reasons() == ["no_step", "no_step"]
    assert len(seen) == 1


async def test_made_up_names_ask_the_broker_only_so_often(stepwrit: Kit) -> None:
    async with stepwrit.client(tools([]), guarded=False) as client:
        for number in range(REMEMBERED + 20):
            assert text(await client.call_tool(f"no-{number}", {})).startswith("refused: no_step.")
    assert stepwrit.ledger.reasons() == ["no_step"] * REMEMBERED


async def test_made_up_names_are_no_denial_of_a_tool_that_may_be_called_so(stepwrit: Kit) -> None:
    seen: list[Step] = []
    stepwrit.without_step("search")
    async with stepwrit.client(tools(seen), guarded=False) as client:
        assert not (await client.call_tool("search", {"words": "x"})).is_error
        for number in range(REMEMBERED + 1):
            assert text(await client.call_tool(f"no-{number}", {})).startswith("refused: no_step.")
        assert not (await client.call_tool("search", {"words": "x"})).is_error
    assert len(seen) == 2


@both_eras
@pytest.mark.parametrize("carried", [{"token": "x", "proof": "y"}, "x", {}])
async def test_a_bad_step_is_never_taken_for_none(stepwrit: Kit, era: Era, carried: object) -> None:
    seen: list[Step] = []
    stepwrit.without_step("search")
    async with stepwrit.client(tools(seen), era=era, guarded=False) as client:
        assert not (await client.call_tool("search", {"words": "x"})).is_error
        result = await client.call_tool("search", {"words": "x"}, meta={META_STEP: carried})
    assert text(result).startswith(("refused: invalid_token", "refused: invalid_request"))
    assert (len(seen), stepwrit.ledger.kinds().count("intent")) == (1, 1)


async def test_a_step_that_comes_is_used_and_no_root_is_made(stepwrit: Kit) -> None:
    seen: list[Step] = []
    stepwrit.without_step("search")
    async with stepwrit.client(tools(seen)) as client:
        assert not (await client.call_tool("search", {"words": "x"})).is_error
    assert (seen[0].origin, seen[0].root) == ("model", None)


@both_eras
async def test_the_transaction_ends_with_the_call_however_that_ends(stepwrit: Kit, era: Era) -> None:
    for tool in ("fail", "sleep"):
        stepwrit.without_step(tool)
    async with stepwrit.client(tools([]), era=era, guarded=False) as client:
        assert (await client.call_tool("fail", {})).is_error
        assert stepwrit.ledger.kinds()[-2:] == ["failed", "failed"]
        with anyio.move_on_after(0.2):
            await client.call_tool("sleep", {})
        with anyio.fail_after(5):
            while stepwrit.ledger.kinds()[-2:] != ["cancelled", "cancelled"]:
                await anyio.sleep(0.01)


@both_eras
async def test_what_the_call_starts_is_its_child_and_of_low_impact(stepwrit: Kit, era: Era) -> None:
    stepwrit.without_step("onward")
    stepwrit.tool("audit/purge", impact="medium")
    stepwrit.workload("audit")
    async with stepwrit.client(tools([]), era=era, guarded=False) as client:
        assert text(await client.call_tool("onward", {"tool": "record"})) == "server"
        refused = await client.call_tool("onward", {"tool": "purge"})
    assert text(refused).startswith("refused: ceiling")


async def test_arguments_that_are_not_json_of_one_meaning_start_nothing(stepwrit: Kit) -> None:
    stepwrit.without_step("search")
    async with stepwrit.client(tools([]), guarded=False) as client:
        assert not (await client.call_tool("search", {"words": "x"})).is_error
        before = len(stepwrit.ledger.entries)
        result = await client.call_tool("search", {"words": 2**60})
    assert text(result).startswith("refused: invalid_arguments")
    assert len(stepwrit.ledger.entries) == before


@both_eras
async def test_each_round_is_a_call_of_its_own_and_nothing_stays_open(stepwrit: Kit, era: Era) -> None:
    async def answer(_ctx: object, _params: object) -> ElicitResult:
        return ElicitResult(action="accept", content={"sure": True})

    stepwrit.without_step("confirm")
    async with stepwrit.client(tools([]), era=era, guarded=False, elicitation_callback=answer) as client:
        assert text(await client.call_tool("confirm", {})) == "sure: True"
    rounds = 2 if era == "2026-07-28" else 1
    assert stepwrit.ledger.kinds().count("intent") == rounds
    assert stepwrit.ledger.kinds().count("done") == 2 * rounds
    assert "waiting" not in stepwrit.ledger.kinds()


async def test_a_broker_in_doubt_is_a_refusal(stepwrit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    stepwrit.without_step("search")
    stepwrit.refuse("search", reason="limit", at="accept")
    async with stepwrit.client(tools([]), guarded=False) as client:
        result = await client.call_tool("search", {"words": "x"})
        assert text(result).startswith("refused: limit")
        assert stepwrit.ledger.kinds()[-1] == "failed"  # the root is closed again
        stepwrit.allow("search")
        assert not (await client.call_tool("search", {"words": "x"})).is_error


async def test_whoever_serves_no_tools_has_no_such_calls(stepwrit: Kit) -> None:
    from stepwrit._mcp_stepless import Stepless

    stepwrit.without_step("search")
    server, agent = stepwrit.workload("ledger"), stepwrit.agent()
    assert (await Stepless().accept(server, "search", {"words": "x"})).root is not None
    with pytest.raises(RefusedError) as no:
        await Stepless().accept(agent, "search", {"words": "x"})
    assert no.value.code == "invalid_request"
