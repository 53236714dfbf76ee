"""The pytest fixture as authors of tools and resources use it: what their first tests look like."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI
from mcp.server import MCPServer
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types import ElicitResult
from pydantic import BaseModel

from stepwrit import guard, testing
from stepwrit._testing_kit import Era, Kit
from stepwrit.errors import ConfigurationError, RefusedError
from stepwrit.mcp import Credential, Stepwrit, credential, current_step

BANK = "https://bank.example"
stepwrit = testing.stepwrit
ERAS: list[Era] = ["2026-07-28", "2025-11-25"]
both_eras = pytest.mark.parametrize("era", ERAS)


class Sure(BaseModel):
    sure: bool


async def ask() -> Elicit[Sure]:
    return Elicit("really?", Sure)


def tools() -> MCPServer:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def delete_file(path: str) -> str:
        return f"deleted {path} for {current_step().requester}"

    @server.tool()
    async def transfer(amount: int, bank: Annotated[Credential, credential(BANK)]) -> str:
        async with httpx2.AsyncClient(auth=bank, base_url=BANK) as http:
            reply = await http.post("/v1/transfers", json={"cents": amount * 100})
            return reply.text

    @server.tool()
    async def confirm(ctx: Context) -> str:
        answer = await ctx.elicit("really?", Sure)
        return answer.action

    @server.tool()
    async def resolve(answer: Annotated[ElicitationResult[Sure], Resolve(ask)]) -> str:
        return answer.action

    return server


def bank(runs: list[Any]) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/transfers")
    async def create(body: dict[str, int], step: Annotated[guard.Step, Depends(guard.current_step)]) -> str:
        runs.append((body["cents"], step.tool, step.origin))
        return "done"

    return app


def text(result: Any) -> str:
    return str(result.content[0].text)


@both_eras
async def test_a_tools_first_test_needs_no_set_up(stepwrit: Kit, era: Era) -> None:
    async with stepwrit.client(tools(), era=era) as client:
        result = await client.call_tool("delete_file", {"path": "/tmp/x"})
    assert not result.is_error
    assert text(result) == "deleted /tmp/x for person-alice"
    assert stepwrit.ledger.kinds() == ["intent", "opened", "accepted", "self", "done", "done"]


@both_eras
async def test_a_refusal_reaches_the_model_as_one_line(stepwrit: Kit, era: Era) -> None:
    async with stepwrit.client(tools(), era=era) as client:
        assert not (await client.call_tool("delete_file", {"path": "x"})).is_error
        stepwrit.refuse("delete_file", reason="limit", retry_after=12)
        result = await client.call_tool("delete_file", {"path": "x"})
        assert result.is_error
        assert text(result).startswith("refused: limit. retry in 12 s. ref ")
        stepwrit.allow("delete_file")
        assert not (await client.call_tool("delete_file", {"path": "x"})).is_error
    assert stepwrit.ledger.reasons() == ["limit"]


@pytest.mark.parametrize("at", ["open", "accept"])
async def test_a_tool_may_be_refused_before_or_at_its_accept(stepwrit: Kit, at: Any) -> None:
    stepwrit.refuse("ledger/delete_file", reason="policy", at=at)
    async with stepwrit.client(tools()) as client:
        result = await client.call_tool("delete_file", {"path": "x"})
    assert "refused: policy" in text(result)
    assert "accepted" not in stepwrit.ledger.kinds()


async def test_a_call_that_needs_an_approval_names_the_page_and_goes_on_once_it_is_signed(
    stepwrit: Kit,
) -> None:
    stepwrit.need_approval("delete_file")
    async with stepwrit.client(tools()) as client:
        waiting = await client.call_tool("delete_file", {"path": "x"})
        stepwrit.approve("delete_file")
        done = await client.call_tool("delete_file", {"path": "x"})

    assert waiting.is_error
    assert "refused: authorization_pending. a person must sign at https://" in text(waiting)
    assert text(done) == "deleted x for person-alice"
    assert stepwrit.ledger.kinds() == [
        "intent",
        "opened",
        "asked",
        "signed",
        "accepted",
        "self",
        "done",
        "done",
    ]


async def test_a_call_waits_for_its_approval(stepwrit: Kit) -> None:
    stepwrit.need_approval("delete_file")
    async with stepwrit.client(tools(), wait_for_approval=30) as client, anyio.create_task_group() as group:

        async def sign() -> None:
            while "asked" not in stepwrit.ledger.kinds():
                await anyio.sleep(0.01)
            stepwrit.approve()

        group.start_soon(sign)
        assert text(await client.call_tool("delete_file", {"path": "x"})) == "deleted x for person-alice"


async def test_a_person_of_the_test_may_answer_at_once(stepwrit: Kit) -> None:
    stepwrit.need_approval("delete_file", then="approve")
    async with stepwrit.client(tools()) as client:
        assert text(await client.call_tool("delete_file", {"path": "x"})) == "deleted x for person-alice"
        stepwrit.allow("delete_file")
        stepwrit.need_approval("delete_file", then="deny")
        refused = await client.call_tool("delete_file", {"path": "x"})

    assert "access_denied" in text(refused)


async def test_a_denied_approval_ends_the_call_and_an_expired_one_too(stepwrit: Kit) -> None:
    stepwrit.need_approval("delete_file")
    async with stepwrit.client(tools()) as client:
        await client.call_tool("delete_file", {"path": "x"})
        stepwrit.deny("delete_file")
        denied = await client.call_tool("delete_file", {"path": "x"})
        await client.call_tool("delete_file", {"path": "y"})
        stepwrit.expire()
        expired = await client.call_tool("delete_file", {"path": "y"})

    assert "refused: access_denied." in text(denied)
    assert "refused: expired_token." in text(expired)
    assert stepwrit.ledger.reasons() == ["access_denied", "expired_token"]


def test_nothing_to_sign_is_said(stepwrit: Kit) -> None:
    with pytest.raises(LookupError, match="transfer"):
        stepwrit.approve("transfer")


async def test_refusals_can_be_raised_instead(stepwrit: Kit) -> None:
    stepwrit.refuse("delete_file", reason="frozen")
    async with stepwrit.client(tools(), on_refusal="raise") as client:
        with pytest.raises(RefusedError, match="frozen"):
            await client.call_tool("delete_file", {"path": "x"})


@both_eras
async def test_a_tool_reaches_a_guarded_resource_with_its_own_code(stepwrit: Kit, era: Era) -> None:
    runs: list[Any] = []
    stepwrit.tool("ledger/transfer", impact="high", plan=[f"POST {BANK}/v1/transfers"])
    stepwrit.resource(bank(runs), BANK)
    async with stepwrit.client(tools(), era=era) as client:
        result = await client.call_tool("transfer", {"amount": 5})
    assert text(result) == '"done"', text(result)
    assert runs == [(500, "ledger/transfer", "model")]
    assert [entry.kind for entry in stepwrit.ledger.entries if entry.grant] == ["issued", "redeemed"]


async def test_a_request_outside_the_plan_is_refused(stepwrit: Kit) -> None:
    runs: list[Any] = []
    stepwrit.tool("transfer", plan=[f"GET {BANK}/v1/transfers"])
    stepwrit.resource(bank(runs), BANK)
    async with stepwrit.client(tools()) as client:
        result = await client.call_tool("transfer", {"amount": 5})
    assert result.is_error
    assert "refused: plan" in text(result)
    assert (runs, stepwrit.ledger.reasons()) == ([], ["plan"])


async def test_after_expire_a_credential_opens_nothing(stepwrit: Kit) -> None:
    runs: list[Any] = []
    stepwrit.tool("transfer", plan=[f"POST {BANK}/v1/transfers"])
    resource = stepwrit.resource(bank(runs), BANK)
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def transfer(bank: Annotated[Credential, credential(BANK)], late: bool) -> str:
        shown = await bank.token("POST", f"{BANK}/v1/transfers", b'{"cents":1}')
        if late:
            stepwrit.expire()
        headers = {**shown.headers, "Content-Type": "application/json"}
        async with resource.client() as http:
            return str(
                (await http.post("/v1/transfers", content=b'{"cents":1}', headers=headers)).status_code
            )

    async with stepwrit.client(server) as client:
        assert text(await client.call_tool("transfer", {"late": False})) == "200"
        assert text(await client.call_tool("transfer", {"late": True})) == "401"
    assert (len(runs), stepwrit.ledger.reasons()) == (1, ["expired"])


@both_eras
async def test_an_elicitation_is_a_step_of_the_server(stepwrit: Kit, era: Era) -> None:
    async def answer(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"sure": True})

    tool = {"2025-11-25": "confirm", "2026-07-28": "resolve"}[era]  # each era has a way of its own
    async with stepwrit.client(tools(), era=era, elicitation_callback=answer) as client:
        assert text(await client.call_tool(tool, {})) == "accept"
    opened = stepwrit.ledger.of("opened")
    assert [(entry.tool, entry.origin) for entry in opened] == [
        (f"ledger/{tool}", "model"),
        ("client/elicitation", "server"),
    ]


async def test_a_server_without_the_extension_is_no_guarded_server(stepwrit: Kit) -> None:
    async with stepwrit.client(tools()):
        pass
    with pytest.raises(ConfigurationError, match="has no Stepwrit"):
        async with stepwrit.client(MCPServer("bare")):
            pass


async def test_an_unguarded_request_to_a_resource_is_refused(stepwrit: Kit) -> None:
    runs: list[Any] = []
    resource = stepwrit.resource(bank(runs), BANK)
    async with resource.client() as inside, httpx2.AsyncClient() as outside:
        for reply in (
            await inside.post("/v1/transfers", json={"cents": 1}),
            await outside.post(f"{BANK}/v1/transfers", json={"cents": 1}),
        ):
            assert (reply.status_code, reply.json()["refusal"]["code"]) == (401, "no_step")
    assert runs == []


@pytest.mark.parametrize("line", ["post https://bank.example/x", "POST /x", "POST"])
def test_a_plan_that_makes_no_sense_is_a_configuration_error(stepwrit: Kit, line: str) -> None:
    stepwrit.tool("ledger/transfer", plan=["POST https://bank.example/x"])
    with pytest.raises(ConfigurationError, match="plan"):
        stepwrit.tool("ledger/transfer", plan=[line])
