"""What a guarded tool asks of its client: a step of its own on both sides, in both protocol eras."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import fastmcp
import pytest
from mcp import Client, MCPError, UrlElicitationRequiredError
from mcp.client.session import ClientRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    ResourceUpdatedNotification,
    ResourceUpdatedNotificationParams,
    SamplingCapability,
    SamplingMessage,
    SamplingToolsCapability,
    TextContent,
    Tool,
    ToolListChangedNotification,
)
from pydantic import BaseModel

from stepwrit import testing
from stepwrit._testing_kit import AGENT, Era, Kit
from stepwrit.errors import RefusedError
from stepwrit.fastmcp import Stepwrit as FastMCPStepwrit
from stepwrit.lineage import current_step
from stepwrit.mcp import Stepwrit
from stepwrit.wire import META_REFUSAL, OpenStepRequest
from stepwrit.wire_acts import META_STEPS

stepwrit = testing.stepwrit
ERAS: list[Era] = ["2026-07-28", "2025-11-25"]
MODERN: Era = "2026-07-28"
both_eras = pytest.mark.parametrize("era", ERAS)
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

LOOKUP = Tool(name="lookup", description="finds", input_schema={"type": "object", "maximum": 1.5})
CAN_USE_TOOLS = SamplingCapability(tools=SamplingToolsCapability())


class Sure(BaseModel):
    sure: bool


def said(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


def asking(name: str = "ledger", tools: list[Tool] | None = None) -> MCPServer:
    """Its tools ask the person, the model, or both at once."""
    server = MCPServer(name, extensions=[Stepwrit.from_env()])

    async def confirm() -> Elicit[Sure]:
        return Elicit("Really?", Sure)

    async def sample() -> Sample:
        return Sample([said("Summarise.")], max_tokens=50, temperature=0.25, tools=tools)

    @server.tool()
    async def pay(amount: int, sure: Annotated[Sure, Resolve(confirm)]) -> str:
        return f"paid {amount} {sure.sure}"

    Sampled = CreateMessageResult if tools is None else CreateMessageResultWithTools

    @server.tool()
    async def think(thought: Annotated[Sampled, Resolve(sample)]) -> str:  # type: ignore[valid-type]
        return f"thought {thought.content!r} of {thought.model}"  # type: ignore[attr-defined]

    @server.tool()
    async def both(
        sure: Annotated[Sure, Resolve(confirm)],
        thought: Annotated[Sampled, Resolve(sample)],  # type: ignore[valid-type]
    ) -> str:
        return "both"

    @server.tool()
    async def lookup(word: str) -> str:
        return f"found {word} for {current_step().origin}"

    @server.tool()
    async def other() -> str:
        return "other"

    return server


class Host:
    """An agent's callbacks. does: what its model does before it answers."""

    def __init__(self, does: Callable[[], Any] | None = None) -> None:
        self.does = does
        self.steps: list[Any] = []
        self.shown: list[str] = []

    async def elicit(self, _ctx: object, params: Any) -> ElicitResult:
        self.steps.append(current_step())
        self.shown.append(params.message)
        return ElicitResult(action="accept", content={"sure": True})

    async def sample(self, _ctx: object, params: Any) -> Any:
        self.steps.append(current_step())
        self.shown.append(params.messages[0].content.text)
        if self.does is not None:
            await self.does()
        made = CreateMessageResult if params.tools is None else CreateMessageResultWithTools
        return made(role="assistant", content=TextContent(type="text", text="fine"), model="m1")

    def options(self) -> dict[str, Any]:
        return {
            "elicitation_callback": self.elicit,
            "sampling_callback": self.sample,
            "sampling_capabilities": CAN_USE_TOOLS,
        }


def text(result: Any) -> str:
    return " ".join(each.text for each in result.content)


def code(result: Any) -> str:
    assert result.is_error
    return str(result.meta[META_REFUSAL]["code"])


def of(kit: Kit, tool: str) -> list[Any]:
    return [row for row in kit.broker._steps.values() if row.tool is not None and row.tool.name == tool]


# --- the way it should be


@both_eras
async def test_a_form_is_the_servers_step_which_the_client_accepts_does_and_ends(
    stepwrit: Kit, era: Era
) -> None:
    host = Host()
    async with stepwrit.client(asking(), era=era, **host.options()) as client:
        assert text(await client.call_tool("pay", {"amount": 5})) == "paid 5 True"

    (call,), (act,) = of(stepwrit, "ledger/pay"), of(stepwrit, "client/elicitation")
    assert (act.parent is call, act.performer, act.origin, act.state) == (True, AGENT, "server", "done")
    assert [step.id for step in host.steps] == [act.id]
    assert (host.steps[0].tool, host.steps[0].ended) == ("client/elicitation", "done")


@both_eras
@pytest.mark.parametrize("tools", [None, [LOOKUP]], ids=["plain", "tools"])
async def test_a_sampling_is_the_servers_step_too(stepwrit: Kit, era: Era, tools: list[Tool] | None) -> None:
    host = Host()
    async with stepwrit.client(asking(tools=tools), era=era, **host.options()) as client:
        assert "fine" in text(await client.call_tool("think"))

    (act,) = of(stepwrit, "client/sampling")
    assert (act.state, act.origin, act.tool.impact) == ("done", "server", "medium")
    assert act.ceiling.tools == (() if tools is None else ("ledger/lookup",))
    assert (host.shown, len(host.steps)) == (["Summarise."], 1)


@both_eras
async def test_two_questions_of_one_call_are_two_steps(stepwrit: Kit, era: Era) -> None:
    host = Host()
    async with stepwrit.client(asking(), era=era, **host.options()) as client:
        assert text(await client.call_tool("both")) == "both"

    acts = [*of(stepwrit, "client/elicitation"), *of(stepwrit, "client/sampling")]
    assert sorted(step.id for step in host.steps) == sorted(act.id for act in acts)
    assert {act.state for act in acts} == {"done"}


@both_eras
async def test_what_the_model_picks_hangs_below_the_sampling(stepwrit: Kit, era: Era) -> None:
    picked: list[str] = []

    async def pick() -> None:
        picked.append(text(await client.call_tool("lookup", {"word": "x"})))

    host = Host(pick)
    async with stepwrit.client(asking(tools=[LOOKUP]), era=era, **host.options()) as client:
        await client.call_tool("think")

    (act,), (pick_step,) = of(stepwrit, "client/sampling"), of(stepwrit, "ledger/lookup")
    assert (pick_step.parent is act, pick_step.initiator, pick_step.origin) == (True, AGENT, "server")
    assert picked == ["found x for server"]


@both_eras
@pytest.mark.parametrize("tools", [None, [LOOKUP]], ids=["nothing", "another"])
async def test_what_was_not_offered_is_refused(stepwrit: Kit, era: Era, tools: list[Tool] | None) -> None:
    picked: list[Any] = []

    async def pick() -> None:
        picked.append(await client.call_tool("other"))

    async with stepwrit.client(asking(tools=tools), era=era, **Host(pick).options()) as client:
        assert text(await client.call_tool("other")) == "other"
        assert "fine" in text(await client.call_tool("think"))

    assert [code(each) for each in picked] == ["ceiling"]
    assert len(of(stepwrit, "ledger/other")) == 1


# --- pages, roots, notifications, prompts


def pages(url: str = "https://pay.example/7") -> MCPServer:
    """Each way in which a tool sends a person to a page."""
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    def page(name: str | None) -> ElicitRequestURLParams:
        return ElicitRequestURLParams(message="Pay there.", url=url, elicitation_id=name)

    @server.tool()
    async def returned(ctx: Context) -> Any:
        if ctx.input_responses is not None:
            return f"{ctx.input_responses['p'].action} in round {current_step().round}"
        return InputRequiredResult(input_requests={"p": ElicitRequest(params=page(None))}, request_state="s")

    @server.tool()
    async def asked(ctx: Context) -> str:
        answer = await ctx.session.elicit_url("Pay there.", url, "e1")
        return f"{answer.action} in round {current_step().round}"

    @server.tool()
    async def raised() -> str:
        if current_step().round == 1:
            raise UrlElicitationRequiredError([page("e1"), page("e2")])
        return f"went on in round {current_step().round}"

    return server


async def test_a_page_in_a_result_is_a_step(stepwrit: Kit) -> None:
    host = Host()
    async with stepwrit.client(pages(), **host.options()) as client:
        assert text(await client.call_tool("returned")) == "accept in round 2"
    (act,) = of(stepwrit, "client/url")
    assert (act.state, act.tool.impact, [step.id for step in host.steps]) == ("done", "medium", [act.id])


async def test_a_page_asked_for_in_the_middle_of_a_call_is_a_step(stepwrit: Kit) -> None:
    host = Host()
    async with stepwrit.client(pages(), era="2025-11-25", **host.options()) as client:
        assert text(await client.call_tool("asked")) == "accept in round 1"
    assert [row.state for row in of(stepwrit, "client/url")] == ["done"]


async def test_pages_that_end_a_call_are_steps_and_the_next_call_goes_on(stepwrit: Kit) -> None:
    async with stepwrit.client(pages(), era="2025-11-25", **Host().options()) as client:
        with pytest.raises(MCPError) as told:
            await client.call_tool("raised")
        shown = UrlElicitationRequiredError.from_error(told.value.error).elicitations
        assert [each.url for each in shown] == ["https://pay.example/7"] * 2
        assert text(await client.call_tool("raised")) == "went on in round 2"
    assert [row.state for row in of(stepwrit, "client/url")] == ["done", "done"]


async def test_pages_of_an_error_need_proofs_too(stepwrit: Kit) -> None:
    async with stepwrit.client(pages(), era="2025-11-25", **Host().options()) as client:
        with pytest.raises(MCPError):
            await client.call_tool("raised")
        assert "round 2" in text(await client.call_tool("raised"))
        send = client.session.send_request

        async def stripped(*args: Any, **kwargs: Any) -> Any:
            try:
                return await send(*args, **kwargs)
            except MCPError as error:
                error.error.data.pop("_meta")
                raise

        client.session.send_request = stripped  # type: ignore[method-assign]
        assert code(await client.call_tool("raised")) == "no_step"
    assert f"step:{of(stepwrit, 'ledger/raised')[1].id}" in stepwrit.broker.marks


async def test_an_error_that_asks_for_pages_is_of_2025_only(stepwrit: Kit) -> None:
    async with stepwrit.client(pages(), **Host().options()) as client:
        assert code(await client.call_tool("raised")) == "not_yet_supported"


@both_eras
async def test_roots_are_a_step(stepwrit: Kit, era: Era) -> None:
    server, seen = MCPServer("ledger", extensions=[Stepwrit.from_env()]), list[str]()

    async def ask() -> ListRoots:
        return ListRoots()

    @server.tool()
    async def where(roots: Annotated[ListRootsResult, Resolve(ask)]) -> str:
        return f"{len(roots.roots)} roots"

    async def roots(_ctx: object) -> ListRootsResult:
        seen.append(current_step().tool)
        return ListRootsResult(roots=[])

    async with stepwrit.client(server, era=era, list_roots_callback=roots) as client:
        assert text(await client.call_tool("where")) == "0 roots"
    assert (seen, [row.state for row in of(stepwrit, "client/roots")]) == (["client/roots"], ["done"])


def telling() -> MCPServer:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def change(ctx: Context) -> str:
        await ctx.session.send_tool_list_changed()
        await ctx.report_progress(1, 2)
        return "changed"

    @server.tool()
    async def other() -> str:
        return "other"

    return server


class Told:
    """A host's handler of notifications. does: for each."""

    def __init__(self, does: Callable[[], Any] | None = None) -> None:
        self.got: list[Any] = []
        self.results: list[Any] = []
        self.does = does

    async def __call__(self, message: Any) -> None:
        self.got.append(message)
        if self.does is not None and isinstance(message, ToolListChangedNotification):
            self.results.append(await self.does())


async def test_a_notification_that_makes_the_client_act_is_proven_and_starts_nothing(stepwrit: Kit) -> None:
    told = Told(lambda: client.call_tool("other"))
    async with stepwrit.client(telling(), era="2025-11-25", message_handler=told) as client:
        assert text(await client.call_tool("change")) == "changed"
        assert text(await client.call_tool("other")) == "other"
        while not told.results:
            await anyio.sleep(0)
    (act,) = of(stepwrit, "client/notification")
    assert (act.origin, act.parent.tool.name) == ("server", "ledger/change")
    assert [type(each) for each in told.got] == [ToolListChangedNotification]
    assert [code(each) for each in told.results] == ["closed"]


async def test_a_notification_without_proof_twice_or_of_another_call_is_told_as_a_refusal(
    stepwrit: Kit,
) -> None:
    told = Told()
    async with stepwrit.client(telling(), era="2025-11-25", message_handler=told) as client:
        handler = client.session._message_handler
        await client.call_tool("change")
        while not told.got:
            await anyio.sleep(0)
        (real,) = told.got
        await handler(real)
        await handler(ToolListChangedNotification())
        changed = ResourceUpdatedNotification(params=ResourceUpdatedNotificationParams(uri="x://y"))
        changed.params.meta = real.params.meta
        await handler(changed)
    assert [each.code for each in told.got[1:]] == ["replay", "no_step", "arguments_changed"]


async def test_a_refused_notification_is_told_to_the_tool(stepwrit: Kit) -> None:
    stepwrit.refuse("client/notification", reason="limit")
    told = Told()
    async with stepwrit.client(telling(), era="2025-11-25", message_handler=told) as client:
        assert code(await client.call_tool("change")) == "limit"
    assert told.got == []


async def test_what_a_prompt_or_resource_asks_for_is_refused(stepwrit: Kit) -> None:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])
    asks = InputRequiredResult(input_requests={"r": ListRootsRequest()}, request_state="s")

    @server.prompt()
    async def hello(name: str) -> Any:
        return asks if name == "ask" else f"hello {name}"

    host = Host()
    async with stepwrit.client(server, **host.options()) as client:
        assert (await client.get_prompt("hello", {"name": "you"})).messages
        with pytest.raises(RefusedError) as no:
            await client.get_prompt("hello", {"name": "ask"})
    assert (no.value.code, host.steps) == ("no_step", [])


# --- what the client refuses


def bare(result: InputRequiredResult) -> InputRequiredResult:
    meta = {key: value for key, value in (result.meta or {}).items() if key != META_STEPS}
    return result.model_copy(update={"meta": meta})


async def tampered(client: Any, change: Callable[[InputRequiredResult], InputRequiredResult]) -> None:
    """Let a party in between change what the server asks: below the hook, where the session reads."""
    session = client.session
    original = session.send_request

    async def send(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        return change(result) if isinstance(result, InputRequiredResult) else result

    session.send_request = send


async def test_a_question_without_proof_is_not_asked_and_ends_the_call(stepwrit: Kit) -> None:
    host = Host()
    async with stepwrit.client(asking(), **host.options()) as client:
        assert "fine" in text(await client.call_tool("think"))
        await tampered(client, bare)
        result = await client.call_tool("think")

    assert code(result) == "no_step"
    assert len(host.shown) == 1
    assert "revoke" in stepwrit.ledger.kinds()
    assert f"step:{of(stepwrit, 'ledger/think')[1].id}" in stepwrit.broker.marks


async def test_all_or_none_of_a_results_questions_reach_the_host(stepwrit: Kit) -> None:
    def without_one(result: InputRequiredResult) -> InputRequiredResult:
        meta = json.loads(json.dumps(dict(result.meta or {})))
        meta[META_STEPS].pop(sorted(meta[META_STEPS])[-1])
        return result.model_copy(update={"meta": meta})

    host = Host()
    async with stepwrit.client(asking(), **host.options()) as client:
        assert text(await client.call_tool("both")) == "both"
        await tampered(client, without_one)
        assert code(await client.call_tool("both")) == "no_step"

    assert len(host.shown) == 2
    assert sorted(row.state for row in of(stepwrit, "client/elicitation")) == ["cancelled", "done"]


async def test_a_result_that_asks_for_too_much_at_once_asks_for_nothing(stepwrit: Kit) -> None:
    def many(result: InputRequiredResult) -> InputRequiredResult:
        (one,) = (result.input_requests or {}).values()
        return result.model_copy(update={"input_requests": {f"q{at}": one for at in range(33)}})

    host = Host()
    async with stepwrit.client(asking(), **host.options()) as client:
        assert "fine" in text(await client.call_tool("think"))
        await tampered(client, many)
        result = await client.call_tool("think")

    assert code(result) == "invalid_request"
    assert len(host.shown) == 1


async def test_a_question_that_is_delivered_twice_revokes_nothing(stepwrit: Kit) -> None:
    """2025-11-25: a stream that is resumed delivers again; the second is not asked, and the call goes on."""
    host, refused = Host(), list[Any]()
    async with stepwrit.client(asking(), era="2025-11-25", **host.options()) as client:
        session = client.session
        original = session.dispatch_input_request

        async def twice(ctx: ClientRequestContext, request: Any) -> Any:
            both = await asyncio.gather(original(ctx, request), original(ctx, request))
            refused.extend(each for each in both if isinstance(each, ErrorData))
            return next(each for each in both if not isinstance(each, ErrorData))

        session.dispatch_input_request = twice
        assert "fine" in text(await client.call_tool("think"))

    assert [each.data[META_REFUSAL]["code"] for each in refused] == ["replay"]
    assert len(host.shown) == 1
    assert "revoke" not in stepwrit.ledger.kinds()


@both_eras
async def test_a_server_that_is_not_guarded_asks_nothing_of_a_guarded_client(stepwrit: Kit, era: Era) -> None:
    plain = MCPServer("plain")

    async def sample() -> Sample:
        return Sample([said("hi")], max_tokens=5)

    @plain.tool()
    async def think(thought: Annotated[CreateMessageResult, Resolve(sample)]) -> str:
        return "thought"

    asked: list[Any] = []

    async def answer(_ctx: object, params: Any) -> CreateMessageResult:
        asked.append(params)
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="x"), model="m")

    mode = {"2026-07-28": "2026-07-28", "2025-11-25": "legacy"}[era]
    stepwrit.workload("plain")
    async with (
        Client(plain, mode=mode, sampling_callback=answer) as client,
        stepwrit.agent().intent(stepwrit.broker.id_token(agent=AGENT), purpose="t", tools=["*"]) as intent,
    ):
        assert text(await client.call_tool("think")) == "thought"
        intent.guard(client, "plain")
        result = await client.call_tool("think")

    assert (code(result), len(asked)) == ("no_step", 1)
    assert f"step:{of(stepwrit, 'plain/think')[0].id}" in stepwrit.broker.marks


# --- what ends under it


@both_eras
async def test_an_act_that_is_revoked_while_it_runs_is_not_answered(stepwrit: Kit, era: Era) -> None:
    async def revoked() -> None:
        stepwrit.broker.marks.add(f"step:{of(stepwrit, 'client/sampling')[-1].id}")

    host = Host()
    async with stepwrit.client(asking(), era=era, **host.options()) as client:
        assert "fine" in text(await client.call_tool("think"))
        host.does = revoked
        if era == MODERN:
            with pytest.raises(MCPError) as told:
                await client.call_tool("think")
            assert told.value.error.data[META_REFUSAL]["code"] == "revoked"
        else:
            assert code(await client.call_tool("think")) == "revoked"
    assert len(host.shown) == 2


@both_eras
async def test_a_refused_act_is_told_to_the_tool(stepwrit: Kit, era: Era) -> None:
    stepwrit.refuse("client/sampling", reason="policy")
    host = Host()
    async with stepwrit.client(asking(), era=era, **host.options()) as client:
        assert text(await client.call_tool("pay", {"amount": 1})) == "paid 1 True"
        assert code(await client.call_tool("think")) == "policy"
    assert host.shown == ["Really?"]


async def test_an_act_of_another_transaction_lends_nothing(stepwrit: Kit) -> None:
    """A callback that answers for one person uses the client of another's intent."""
    picked: list[Any] = []
    server = asking(tools=[LOOKUP])

    async def pick() -> None:
        picked.append(await theirs.call_tool("lookup", {"word": "x"}))

    mine = Host(pick).options()
    async with stepwrit.client(server, **mine) as client, stepwrit.client(server) as theirs:
        assert not (await theirs.call_tool("lookup", {"word": "x"})).is_error
        await client.call_tool("think")
    assert [code(each) for each in picked] == ["no_step"]


async def test_a_host_that_drives_the_rounds_itself_goes_on(stepwrit: Kit) -> None:
    host = Host()
    async with stepwrit.client(asking(), **host.options()) as client:
        session = client.session
        asked = await session.call_tool("pay", {"amount": 5}, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        answers = {
            key: ElicitResult(action="accept", content={"sure": True}) for key in asked.input_requests or {}
        }
        result = await session.call_tool(
            "pay", {"amount": 5}, input_responses=answers, request_state=asked.request_state
        )
    assert text(result) == "paid 5 True"
    assert [row.state for row in of(stepwrit, "client/elicitation")] == ["done"]


async def test_a_question_is_answered_once(stepwrit: Kit) -> None:
    host = Host()
    async with stepwrit.client(asking(), **host.options()) as client:
        session = client.session
        asked = await session.call_tool("pay", {"amount": 5}, allow_input_required=True)
        (request,) = (asked.input_requests or {}).values()
        ctx = ClientRequestContext(session=session, request_id="1")
        assert isinstance(await session.dispatch_input_request(ctx, request), ElicitResult)
        again = await session.dispatch_input_request(ctx, request)
    assert again.data[META_REFUSAL]["code"] == "replay"
    assert host.shown == ["Really?"]


async def test_a_caller_that_goes_away_ends_the_act_as_cancelled(stepwrit: Kit) -> None:
    began = anyio.Event()

    async def wait() -> None:
        began.set()
        await anyio.sleep_forever()

    host = Host(wait)
    async with stepwrit.client(asking(), **host.options()) as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "think")
        await began.wait()
        group.cancel_scope.cancel()
    assert [row.state for row in of(stepwrit, "client/sampling")] == ["cancelled"]


async def test_only_code_that_answers_is_below_the_act(stepwrit: Kit) -> None:
    async with stepwrit.client(asking(tools=[LOOKUP]), **Host().options()) as client:
        await client.call_tool("think")
        assert text(await client.call_tool("lookup", {"word": "x"})) == "found x for model"


async def test_there_is_no_act_without_a_call(stepwrit: Kit) -> None:
    async with stepwrit.client(asking()) as client:
        root = next(row for row in stepwrit.broker._steps.values() if row.parent is None)
        with pytest.raises(RefusedError) as no:
            await stepwrit.workload("ledger").open(_open(root.id))
        assert no.value.code == "not_found"
        with pytest.raises(RefusedError) as no:
            await stepwrit.agent().open(_open(root.id))
        assert no.value.code == "ceiling"
        assert client is not None


def _open(parent: str) -> OpenStepRequest:
    return OpenStepRequest(parent=parent, server="client", tool="elicitation", args={})


@both_eras
async def test_an_act_that_must_be_signed_goes_on_once_it_is(stepwrit: Kit, era: Era) -> None:
    stepwrit.need_approval("client/sampling")
    host = Host()

    async def sign(_ctx: object, params: Any) -> ElicitResult:
        assert params.url.startswith("https://broker.stepwrit.invalid/approvals/")
        stepwrit.approve("client/sampling")
        return ElicitResult(action="accept")

    options = {**host.options(), "elicitation_callback": sign}
    async with stepwrit.client(asking(), era=era, **options) as client:
        if era != MODERN:
            with pytest.raises(MCPError) as told:
                await client.call_tool("think")
            (page,) = UrlElicitationRequiredError.from_error(told.value.error).elicitations
            await sign(None, page)
        assert "fine" in text(await client.call_tool("think"))
    assert [row.state for row in of(stepwrit, "client/sampling")] == ["done"]
    assert host.shown == ["Summarise."]


@both_eras
async def test_a_fastmcp_server_samples_as_a_step(stepwrit: Kit, era: Era) -> None:
    server = fastmcp.FastMCP("ledger", middleware=[FastMCPStepwrit.from_env()])

    @server.tool
    async def think(ctx: fastmcp.Context) -> Any:
        if era != MODERN:
            return f"thought {(await ctx.session.create_message([said('Summarise.')], max_tokens=9)).model}"
        if ctx.input_responses is not None:
            return f"thought {ctx.input_responses['s'].model}"
        params = CreateMessageRequestParams(messages=[said("Summarise.")], max_tokens=9)
        return InputRequiredResult(
            input_requests={"s": CreateMessageRequest(params=params)}, request_state="state"
        )

    done: list[str] = []

    async def sample(_messages: Any, _params: Any, _ctx: Any) -> CreateMessageResult:
        done.append(current_step().tool)
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="x"), model="m1")

    async with stepwrit.client(server, era=era, sampling_handler=sample) as client:
        assert text(await client.call_tool("think")) == "thought m1"
    assert [row.state for row in of(stepwrit, "client/sampling")] == ["done"]
    assert done == ["client/sampling"]
