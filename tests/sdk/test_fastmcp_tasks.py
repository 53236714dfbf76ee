"""Background tasks of FastMCP: the body runs in the worker as its call's step."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp_tasks.client import ToolTask, call_tool_task
from mcp import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from stepwrit import testing
from stepwrit._testing_kit import AGENT, Kit
from stepwrit.agent import Intent
from stepwrit.fastmcp import Credential, Stepwrit, credential, current_step
from stepwrit.wire import META_REFUSAL
from stepwrit.wire_acts import META_STEPS
from stepwrit.wire_tasks import META_TASK

BANK = "https://bank.example"
stepwrit = testing.stepwrit


@pytest.fixture
def seen() -> list[Any]:
    return []


def server(seen: list[Any], url: str = "memory://") -> FastMCP:
    guard = Stepwrit.from_env(name="ledger")
    made = FastMCP("ledger", middleware=[guard])
    made.add_extension(guard.tasks(url=url))

    @made.tool(task=True)
    async def crunch(n: int, bank: Annotated[Credential, credential(BANK)]) -> str:
        step = current_step()
        seen.append((step.tool, step.origin, step.round, step.ended))
        await bank.token("GET", f"{BANK}/v1/rates")
        return f"crunched {n}"

    @made.tool(task=True)
    async def pay(amount: int, ctx: Context) -> Any:
        answer: Any = (ctx.input_responses or {}).get("sure")
        if answer is None:
            form = ElicitRequestFormParams(message="Pay 5?", requested_schema=FORM)
            return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)})
        seen.append((current_step().round, answer.action))
        return f"paid {amount}"

    return made


FORM: dict[str, Any] = {"type": "object", "properties": {"yes": {"type": "boolean"}}}


@asynccontextmanager
async def calling(
    kit: Kit, made: FastMCP, tasks: Any = ("crunch", "pay"), **options: Any
) -> AsyncGenerator[tuple[Client[Any], Intent]]:
    kit.tool("crunch", plan=[f"GET {BANK}/v1/rates"])
    made.middleware[0].guarded_by.broker = kit.workload("ledger")  # type: ignore[attr-defined]
    token = kit.broker.id_token(agent=AGENT)
    async with (
        Client(made, **options) as client,
        kit.agent().intent(token, purpose="a test", tools=["*"]) as intent,
    ):
        intent.guard(client, "ledger", tasks=tasks)
        yield client, intent


async def test_the_body_runs_in_the_worker_as_the_step_of_its_call(stepwrit: Kit, seen: list[Any]) -> None:
    async with calling(stepwrit, server(seen)) as (client, _):
        result = await client.call_tool("crunch", {"n": 5})

    assert result.data == "crunched 5"
    assert seen == [("ledger/crunch", "model", 2, None)]
    kinds = stepwrit.ledger.kinds()
    assert kinds == ["intent", "opened", "accepted", "waiting", "resumed", "issued", "done", "done"]
    assert len({entry.step for entry in stepwrit.ledger.entries[1:-1] if entry.kind != "issued"}) == 1


class Person:
    """Who is asked, and how often."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, message: str, _type: object, _params: object, _ctx: object) -> ElicitResult:
        self.asked.append(message)
        return ElicitResult(action="accept", content={"yes": True})


async def test_what_a_task_asks_is_a_step_of_its_own_and_its_answer_the_next_run(
    stepwrit: Kit, seen: list[Any]
) -> None:
    person = Person()
    async with calling(stepwrit, server(seen), elicitation_handler=person) as (client, _):
        assert (await client.call_tool("pay", {"amount": 5})).content[0].text == "paid 5"

    assert (person.asked, seen) == (["Pay 5?"], [(3, "accept")])
    kinds = stepwrit.ledger.kinds()
    assert kinds.count("resumed") == 2
    opened = [entry.tool for entry in stepwrit.ledger.of("opened")]
    assert opened == ["ledger/pay", "client/elicitation"]


@pytest.mark.parametrize("is_swapped", [False, True])
async def test_another_question_in_the_place_of_one_that_was_proven_asks_nobody(
    stepwrit: Kit, seen: list[Any], is_swapped: bool
) -> None:
    person, made = Person(), server(seen)

    @made.tool(task=True)
    async def twice() -> Any:
        seen.append(current_step().round)
        if len(seen) > 2:
            return "paid"
        form = ElicitRequestFormParams(message=f"Question {len(seen)}?", requested_schema=FORM)
        return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)})

    keys: list[str] = []

    async def asked(*question: Any) -> ElicitResult:
        assert not is_swapped or not person.asked, "the second one was never proven"
        return await person(*question)

    async with calling(stepwrit, made, ["twice"], elicitation_handler=asked) as (client, _):
        tasks: Any = made._extensions["io.modelcontextprotocol/tasks"]
        own = tasks._with_proofs

        async def swapped(task: str, result: Any) -> Any:
            proven = await own(task, result)
            keys.extend(proven["inputRequests"])
            if not is_swapped or len(set(keys)) == 1:
                return proven
            (question,) = proven["inputRequests"].values()
            return {**proven, "inputRequests": {keys[0]: question}, "_meta": {}}

        tasks._with_proofs = swapped
        if not is_swapped:
            assert (await client.call_tool("twice", {})).content[0].text == "paid"
            assert person.asked == ["Question 1?", "Question 2?"]
            return
        with pytest.raises(MCPError) as told:
            await client.call_tool("twice", {})

    assert told.value.error.data[META_REFUSAL]["code"] == "no_step"
    assert person.asked == ["Question 1?"]


@pytest.mark.parametrize("is_task", [False, True])
async def test_what_is_started_while_a_question_is_answered_is_never_the_models(
    stepwrit: Kit, seen: list[Any], is_task: bool
) -> None:
    made = server(seen)

    @made.tool(task=is_task)
    async def ask(ctx: Context) -> Any:
        if (ctx.input_responses or {}).get("sure") is None:
            form = ElicitRequestFormParams(message="Sure?", requested_schema=FORM)
            return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)})
        return "asked"

    @made.tool
    async def other() -> str:
        return "done"

    meanwhile: list[str] = []

    async def answers(*_question: object) -> ElicitResult:
        meanwhile.append((await client.call_tool("other", {}, raise_on_error=False)).content[0].text)
        return ElicitResult(action="accept", content={"yes": True})

    async with calling(stepwrit, made, ["ask"], elicitation_handler=answers) as (client, _):
        assert (await client.call_tool("ask", {})).content[0].text == "asked"
        assert (await client.call_tool("other", {})).content[0].text == "done"
    assert len(meanwhile) == 1
    assert meanwhile[0].startswith("refused: ceiling.")
    assert [each.tool for each in stepwrit.ledger.of("opened")].count("ledger/other") == 1


async def test_a_server_gets_no_proof_about_another_servers_task(stepwrit: Kit, seen: list[Any]) -> None:
    """Its id leaked, and another server of the same intent says that it is one of its own."""
    mail, made = FastMCP("mail", middleware=[Stepwrit.from_env(name="mail")]), server(seen)
    guard: Any = mail.middleware[0]
    mail.add_extension(guard.tasks(url="memory://", name="mail"))
    guard.guarded_by.broker = stepwrit.workload("mail")

    @mail.tool(task=True)
    async def send() -> str:
        return "sent"

    async with calling(stepwrit, made) as (client, intent), Client(mail) as other:
        intent.guard(other, "mail", tasks=["send"])
        task = await call_tool_task(client, "crunch", {"n": 5})
        theirs = await call_tool_task(other, "send", {})
        sent: list[Any] = []
        own = guard._tasks._attended

        async def noted(method: str, params: Any) -> Any:
            sent.append(params)
            return await own(method, params)

        guard._tasks._attended = noted
        assert (await theirs.result()).content[0].text == "sent"
        assert META_TASK in sent[0]["_meta"]
        sent.clear()
        stolen = theirs.create_result.model_copy(update={"task_id": task.task_id})
        with pytest.raises(MCPError):
            await ToolTask(other, "send", stolen).result()
        assert META_TASK not in (sent[0].get("_meta") or {})
        assert (await task.result()).content[0].text == "crunched 5"


async def test_a_task_of_no_call_of_ours_asks_nobody(
    stepwrit: Kit, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    person, made = Person(), server(seen)
    async with calling(stepwrit, made, elicitation_handler=person) as (client, _):
        assert (await client.call_tool("pay", {"amount": 5})).content[0].text == "paid 5"
        tasks: Any = made._extensions["io.modelcontextprotocol/tasks"]

        async def anybody(_method: str, _params: object) -> Any:
            return SimpleNamespace(step="", state="waiting")

        tasks._attended = anybody
        monkeypatch.setattr("stepwrit._hook_tasks.REMEMBERED", 0)
        with pytest.raises(MCPError) as told:
            await client.call_tool("pay", {"amount": 5})

    assert told.value.error.data[META_REFUSAL]["code"] == "no_step"
    assert person.asked == ["Pay 5?"]


@pytest.mark.parametrize("sent", [None, {}, {"other": {}}])
async def test_a_task_that_asks_without_proof_asks_nobody(
    stepwrit: Kit, seen: list[Any], sent: dict[str, Any] | None
) -> None:
    """After the one that asks with proof: the server keeps it back, or sends another."""
    person, made = Person(), server(seen)
    async with calling(stepwrit, made, elicitation_handler=person) as (client, _):
        assert (await client.call_tool("pay", {"amount": 5})).content[0].text == "paid 5"
        tasks: Any = made._extensions["io.modelcontextprotocol/tasks"]

        async def bare(_task: str, result: Any) -> Any:
            return {**result, "_meta": {} if sent is None else {META_STEPS: sent}}

        tasks._with_proofs = bare
        with pytest.raises(MCPError) as told:
            await client.call_tool("pay", {"amount": 5})

    assert told.value.error.data[META_REFUSAL]["code"] in ("no_step", "invalid_request")
    assert len(person.asked) == 1
    assert len(seen) == 1
