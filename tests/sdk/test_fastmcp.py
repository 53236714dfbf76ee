"""What is FastMCP's own: its client, its middleware, tools in tools, mounted servers.

The rest is in test_mcp, for both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

import httpx2
import mcp
import pytest
from fastapi import Depends, FastAPI
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.server.middleware import Middleware
from mcp import MCPError, UrlElicitationRequiredError
from mcp_types import URL_ELICITATION_REQUIRED, ElicitRequestURLParams, ElicitResult
from tests.sdk.test_mcp_rig import ERAS, Rig, text_of

from stepwrit import guard as resource
from stepwrit import testing
from stepwrit._testing_kit import Era, Kit
from stepwrit.errors import ConfigurationError
from stepwrit.fastmcp import Credential, Stepwrit, credential, current_step, guard
from stepwrit.wire import META_REF, META_REFUSAL

BANK = "https://bank.example"
PAGE = "https://broker.stepwrit.invalid/approvals/apr_"
stepwrit = testing.stepwrit
KIT_ERAS: list[Era] = ["2026-07-28", "2025-11-25"]
kit_eras = pytest.mark.parametrize("era", KIT_ERAS)
both_eras = pytest.mark.parametrize("era", ERAS)


@pytest.fixture
def rig() -> Rig:
    made = Rig(sdk="fastmcp")

    @made.server.tool
    async def transfer(amount: int) -> str:
        return f"sent {amount}"

    return made


# --- its client


@both_eras
async def test_its_client_is_guarded_and_knows_its_server_by_name(rig: Rig, era: Any) -> None:
    async with Client(rig.server, mode=era) as client, rig.intent() as intent:
        intent.guard(client)
        assert (await client.call_tool("transfer", {"amount": 5})).data == "sent 5"
        intent.unguard()
        with pytest.raises(ToolError, match=r"^refused: no_step\."):
            await client.call_tool("transfer", {"amount": 5})

    assert [row.outcome for row in rig.fake.of("transfer")] == ["done"]


async def test_a_refusal_is_its_tool_error_or_a_result_with_the_whole_refusal(rig: Rig) -> None:
    from tests.sdk.test_client_fakes import refused

    async with Client(rig.server) as client, rig.intent() as intent:
        intent.guard(client)
        assert (await client.call_tool("transfer", {"amount": 5})).meta is not None
        rig.fake.instead["open"] = [lambda _: refused("limit", 403, ref="7Q2K")] * 2
        with pytest.raises(ToolError, match=r"^refused: limit\. ref 7Q2K$"):
            await client.call_tool("transfer", {"amount": 5})
        result = await client.call_tool("transfer", {"amount": 5}, raise_on_error=False)

    assert result.meta is not None
    assert result.meta[META_REFUSAL]["code"] == "limit"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_its_client_knows_its_server_by_url(rig: Rig) -> None:
    url = "http://127.0.0.1:8000/mcp"
    app = rig.server.http_app(stateless_http=True)

    def reach(**options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), **options)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        client = Client(StreamableHttpTransport(url, httpx_client_factory=reach))
        await stack.enter_async_context(client)
        intent = await stack.enter_async_context(rig.intent())
        intent.guard(client)
        assert (await client.call_tool("transfer", {"amount": 5})).data == "sent 5"

    assert rig.fake.bodies("open")[0]["server"] == url


async def test_a_client_that_knows_no_server_says_what_to_do(rig: Rig) -> None:
    async with rig.intent() as intent:
        intent.guard(Fake(), "ledger")
        with pytest.raises(ConfigurationError, match="say which server"):
            intent.guard(Fake())


class Fake:
    """A client by its shape only."""

    async def call_tool(self) -> None: ...


@both_eras
async def test_a_client_inside_a_tool_makes_children_of_its_step(rig: Rig, era: Any) -> None:
    other = Rig(sdk="fastmcp", fake=rig.fake)

    @other.server.tool
    async def record(month: str) -> str:
        return f"recorded {month} at {current_step().id}"

    @rig.server.tool
    async def reconcile() -> str:
        async with Client(other.server, mode=era) as audit:
            with pytest.raises(ToolError, match=r"no_step"):  # the outer step is not the inner server's
                await audit.call_tool("record", {"month": "May"})
            guard(audit)
            return str((await audit.call_tool("record", {"month": "May"})).data)

    async with rig.guarded(era) as (client, _):
        assert "recorded May" in text_of(await client.call_tool("reconcile"))

    assert rig.fake.of("record")[0].parent == rig.fake.of("reconcile")[0].id


# --- tools in tools, and calls of nobody


@both_eras
async def test_a_tool_inside_a_tool_runs_under_the_outer_step_and_opens_nothing(rig: Rig, era: str) -> None:
    seen: list[str] = []

    @rig.server.tool
    async def inner() -> str:
        seen.append(current_step().tool)
        return "in"

    @rig.server.tool
    async def outer() -> str:
        return str((await rig.server.call_tool("inner")).content[0].text)

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("outer")) == "in"

    assert seen == ["ledger/outer"]
    assert rig.fake.of("inner") == []


async def test_a_call_of_no_client_is_refused(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        assert text_of(await client.call_tool("transfer", {"amount": 5})) == "sent 5"
    result = await rig.server.call_tool("transfer", {"amount": 5})
    assert result.is_error
    assert text_of(result).startswith("refused: no_step.")


# --- what stands before and behind it


class Doubles(Middleware):
    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        message = context.message.model_copy(update={"arguments": {"amount": 10}})
        return await call_next(context.copy(message=message))


@pytest.mark.parametrize("is_before", [True, False])
async def test_what_another_middleware_changed_is_not_what_was_asked_for(rig: Rig, is_before: bool) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        assert text_of(await client.call_tool("transfer", {"amount": 5})) == "sent 5"
        rig.server.middleware.insert(0 if is_before else 1, Doubles())
        result = await client.call_tool("transfer", {"amount": 5})

    told = "refused: arguments_changed. ref REPORTED"
    assert text_of(result) == (told if is_before else "sent 10")  # behind it, it is the server's own code


@both_eras
async def test_the_tools_of_a_mounted_server_are_guarded_by_the_one_that_runs(rig: Rig, era: str) -> None:
    child = FastMCP("child")

    @child.tool
    async def count() -> str:
        return current_step().tool

    rig.server.mount(child, namespace="sub")
    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("sub_count")) == "ledger/sub_count"
    async with rig.client(era) as client:
        assert text_of(await client.call_tool("sub_count")).startswith("refused: no_step.")


async def test_an_error_of_a_tool_has_its_ref(rig: Rig) -> None:
    @rig.server.tool
    async def fail() -> str:
        raise ToolError("no such account")

    async with rig.guarded("2026-07-28") as (client, _):
        result = await client.call_tool("fail")

    assert (text_of(result), result.is_error) == ("no such account", True)
    assert result.meta is not None
    assert result.meta[META_REF] == "REF" + rig.fake.of("fail")[0].id


async def test_an_unknown_tool_is_told_as_always_and_its_step_has_failed(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        assert text_of(await client.call_tool("nowhere")) == "Unknown tool: 'nowhere'"
    assert rig.fake.of("nowhere")[0].outcome == "failed"


# --- with stepwrit.testing


def ledger(runs: list[Any] | None = None, *, wait: float = 0.05) -> FastMCP:
    server = FastMCP("ledger", middleware=[Stepwrit.from_env(wait_for_approval=wait)])

    @server.tool
    async def transfer(amount: int, bank: Annotated[Credential, credential(BANK)]) -> str:
        async with httpx2.AsyncClient(auth=bank, base_url=BANK) as http:
            return (await http.post("/v1/transfers", json={"cents": amount * 100})).text

    @server.tool
    async def convert(amount: int) -> str:
        (runs if runs is not None else []).append("began")
        await (await current_step().start("rates", "rate", {"of": "EUR"})).meta()
        return f"converted {amount}"

    return server


@kit_eras
async def test_a_tools_first_test_needs_no_set_up(stepwrit: Kit, era: Era) -> None:
    runs: list[Any] = []
    app = FastAPI()

    @app.post("/v1/transfers")
    async def create(
        body: dict[str, int], step: Annotated[resource.Step, Depends(resource.current_step)]
    ) -> str:
        runs.append((body["cents"], step.tool, step.origin))
        return "done"

    stepwrit.tool("transfer", plan=[f"POST {BANK}/v1/transfers"])
    stepwrit.resource(app, BANK)
    async with stepwrit.client(ledger(), era=era) as client:
        assert (await client.call_tool("transfer", {"amount": 5})).data == '"done"'
        stepwrit.refuse("transfer", reason="limit", retry_after=12)
        with pytest.raises(ToolError, match=r"refused: limit\. retry in 12 s\. ref "):
            await client.call_tool("transfer", {"amount": 5})

    assert runs == [(500, "ledger/transfer", "model")]
    assert stepwrit.ledger.reasons() == ["limit"]


class Person:
    """What the client shows to its person, and what they do before they answer."""

    def __init__(self, does: Callable[[], object] | None = None) -> None:
        self.does = does
        self.seen: list[Any] = []

    async def __call__(self, _message: str, _type: object, params: Any, _ctx: object) -> ElicitResult:
        self.seen.append(params)
        if self.does is not None:
            self.does()
        return ElicitResult(action="accept")


async def converted(kit: Kit, era: Era, person: Person, runs: list[Any]) -> Any:
    kit.workload("rates")
    kit.need_approval("rates/rate")
    server = ledger(runs)
    options: dict[str, Any] = {"elicitation_handler": person}
    async with kit.client(server, era=era, **options) as client:
        try:
            return await client.call_tool("convert", {"amount": 5}, raise_on_error=False)
        except MCPError as error:
            if (era, error.code) != ("2025-11-25", URL_ELICITATION_REQUIRED):
                raise
            for each in UrlElicitationRequiredError.from_error(error.error).elicitations:
                await person("", None, each, None)
            return await client.call_tool("convert", {"amount": 5}, raise_on_error=False)


@kit_eras
async def test_the_approval_page_goes_to_its_client_and_the_call_goes_on_once_it_is_signed(
    stepwrit: Kit, era: Era
) -> None:
    runs: list[Any] = []
    person = Person(lambda: stepwrit.approve("rates/rate"))

    result = await converted(stepwrit, era, person, runs)

    assert text_of(result) == "converted 5"
    assert [
        isinstance(each, ElicitRequestURLParams) and each.url.startswith(PAGE) for each in person.seen
    ] == [True]
    assert runs == ["began", "began"]
    assert stepwrit.ledger.kinds().count("signed") == 1


@kit_eras
async def test_an_accept_without_a_signature_gives_nothing(stepwrit: Kit, era: Era) -> None:
    result = await converted(stepwrit, era, Person(), [])
    assert result.is_error
    assert text_of(result).startswith(f"refused: authorization_pending. a person must sign at {PAGE}")
    assert "signed" not in stepwrit.ledger.kinds()


async def test_a_server_without_the_guard_is_no_guarded_server(stepwrit: Kit) -> None:
    async with stepwrit.client(ledger()) as client:
        assert isinstance(client, Client)
        assert not isinstance(client, mcp.Client)
    with pytest.raises(ConfigurationError, match="has no Stepwrit"):
        async with stepwrit.client(FastMCP("ledger")):
            pass
