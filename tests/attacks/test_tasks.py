"""A background task is a name: who stole it, guessed it, replays it or outlives it has nothing.

Each after the owner did the same thing and got it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from fastmcp import Client, FastMCP
from fastmcp_tasks.client import ToolTask, call_tool_task
from fastmcp_tasks.client_models import (
    CancelTaskRequest,
    ClientGetTaskResult,
    GetTaskRequest,
    GetTaskRequestParams,
    UpdateTaskRequest,
    UpdateTaskRequestParams,
)
from mcp import MCPError
from mcp_types import Result
from tests.fakes.stage import Stage, new

from stepwrit.agent import Broker as AgentBroker
from stepwrit.agent import Intent
from stepwrit.client import Broker, Parts
from stepwrit.dpop import make_step_proof
from stepwrit.fastmcp import Stepwrit, current_step
from stepwrit.wire import META_REFUSAL
from stepwrit.wire_tasks import META_TASK, ROUND, about_task

METHODS = ["tasks/get", "tasks/cancel", "tasks/update"]


class House:
    """The ledger as a FastMCP server with a queue, and whoever calls it, all at a real broker."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.queue = stage, f"q{new()}"
        self.gate, self.began, self.steps = asyncio.Event(), asyncio.Event(), list[Any]()
        self.stopped = asyncio.Event()

    async def sdk(self, path: str, kind: Any = Broker) -> Any:
        """The SDK's broker of one workload; each has a key of its own."""
        parts = Parts(base_url=self.stage.url, clock=self.stage)
        return kind(await self.stage.transport(path), f"spiffe://stage.test/{path}", parts)

    async def server(self, *, sleep: Any = asyncio.sleep, **options: Any) -> FastMCP:
        guard = Stepwrit(await self.sdk("mcp-server/ledger"), name="ledger", sleep=sleep)
        made = FastMCP("ledger", middleware=[guard])
        made.add_extension(guard.tasks(url="memory://", name=self.queue, **options))

        @made.tool(task=True)
        async def note(text: str) -> str:
            self.steps.append(current_step())
            self.began.set()
            try:
                await self.gate.wait()
            finally:
                self.stopped.set()
            return f"noted {text}"

        return made

    @asynccontextmanager
    async def intent(self, path: str = "agent/chat", **options: Any) -> AsyncGenerator[Intent]:
        broker = await self.sdk(path, AgentBroker)
        client = path.rpartition("/")[2] + "-app"
        token = self.stage.issuer.mint("alice", client_id=client)
        async with broker.intent(token, purpose="a test", tools=["ledger/*"], **options) as intent:
            yield intent

    async def task(self, client: Client[Any], text: str = "milk") -> ToolTask:
        self.began.clear()
        task = await call_tool_task(client, "note", {"text": text})
        await asyncio.wait_for(self.began.wait(), 10)
        return task


@pytest.fixture
async def house(stage: Stage) -> House:
    return House(stage)


@asynccontextmanager
async def owned(house: House, made: FastMCP | None = None) -> AsyncGenerator[tuple[Client[Any], Intent]]:
    """The owner's client of a running server."""
    async with Client(made or await house.server()) as client, house.intent() as intent:
        intent.guard(client, "ledger", tasks=["note"])
        yield client, intent


def request(method: str, task: str, meta: dict[str, Any] | None = None) -> Any:
    if method == "tasks/update":
        return UpdateTaskRequest(
            params=UpdateTaskRequestParams(task_id=task, input_responses={"k": {}}, meta=meta)  # type: ignore[call-arg]
        )
    kind = GetTaskRequest if method == "tasks/get" else CancelTaskRequest
    return kind(params=GetTaskRequestParams(task_id=task, meta=meta))  # type: ignore[call-arg]


async def ask(client: Client[Any], method: str, task: str, meta: dict[str, Any] | None = None) -> Any:
    kind = ClientGetTaskResult if method == "tasks/get" else Result
    return await client.session.send_request(request(method, task, meta), kind)


async def refused(client: Client[Any], method: str, task: str, meta: dict[str, Any] | None = None) -> str:
    with pytest.raises(MCPError) as told:
        await ask(client, method, task, meta)
    return str(told.value.error.data[META_REFUSAL]["code"])


def proof(key: Any, step: str, method: str, task: str, now: float, **changes: Any) -> dict[str, Any]:
    """What a client of ours would send, unless told otherwise."""
    params: dict[str, Any] = {"taskId": changes.get("about", task)}
    if method == "tasks/update":
        params["inputResponses"] = {"k": {}}
    digest = about_task(changes.get("claimed", method), params)
    made = make_step_proof(key, token=step, args=digest, round=ROUND, now=now, jti=new())
    return {META_TASK: {"proof": made}}


async def test_the_owner_gets_its_result_and_the_story_is_one_steps(house: House) -> None:
    async with owned(house) as (client, _):
        task = await house.task(client)
        assert (await task.status()).status == "working"
        house.gate.set()
        assert (await task.result()).data == "noted milk"
        step = house.steps[0]
        assert (step.origin, step.tool, step.round) == ("model", "ledger/note", 2)
        assert [e.kind for e in house.stage.broker.ledger.of_txn(step.txn)] == [
            "intent.opened",
            "step.opened",
            "step.accepted",
            "grant.self",
            "step.waiting",
            "step.resumed",
            "step.closed",
        ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("thief", ["agent/other", "agent/chat"])
async def test_another_caller_another_key_or_nobody_has_nothing_of_a_stolen_id(
    house: House, thief: str, method: str
) -> None:
    made = await house.server()
    async with owned(house, made) as (client, _), Client(made) as mallory, house.intent(thief) as theirs:
        task = await house.task(client)
        theirs.guard(mallory, "ledger", tasks=["note"])
        assert (await (await house.task(mallory, "mine")).status()).status == "working"  # control: its own

        assert await refused(mallory, method, task.task_id) == "no_step"
        key = theirs._broker.key
        meta = proof(key, house.steps[0].id, method, task.task_id, house.stage.now())
        assert await refused(mallory, method, task.task_id, meta) == "not_found"
        other = proof(key, house.steps[1].id, method, task.task_id, house.stage.now())
        assert await refused(mallory, method, task.task_id, other) == "not_found"

        await ask(client, method, task.task_id)
        house.gate.set()
        if method != "tasks/cancel":
            assert (await task.result()).data == "noted milk"


@pytest.mark.parametrize("method", METHODS)
async def test_what_proves_one_request_proves_no_other(house: House, method: str) -> None:
    """The owner's own proof, put under another method, another task, another transaction's step."""
    async with owned(house) as (client, intent):
        task, second = await house.task(client), await house.task(client, "tea")
        mine, other = (step.id for step in house.steps)
        key, now = intent._broker.key, house.stage.now()
        claimed = METHODS[METHODS.index(method) - 1]
        wrong = [
            proof(key, mine, method, task.task_id, now, claimed=claimed),
            proof(key, mine, method, task.task_id, now, about=second.task_id),
            proof(key, other, method, task.task_id, now),
            proof(key, intent.step, method, task.task_id, now),
            {META_TASK: {"proof": "no.proof.atall"}},
        ]
        for meta in wrong:
            assert await refused(client_without_hook(client), method, task.task_id, meta) == "not_found"
        assert (await task.status()).status == "working"


def client_without_hook(client: Client[Any]) -> Any:
    """The same connection, as if nobody guarded it."""
    session = client.session

    class Bare:
        class session:  # noqa: N801
            send_request = staticmethod(lambda *a: type(session).send_request(session, *a))

    return Bare


@pytest.mark.parametrize("method", METHODS)
async def test_a_forged_id_is_no_task(house: House, method: str) -> None:
    async with owned(house) as (client, intent):
        task = await house.task(client)
        await ask(client, "tasks/get", task.task_id)
        for forged in (new(), task.task_id[:-1], task.task_id + "x", "", house.steps[0].id):
            key, step = intent._broker.key, house.steps[0].id
            meta = proof(key, step, method, forged, house.stage.now())
            assert await refused(client, method, forged, meta) == "not_found"


@pytest.mark.parametrize("method", METHODS)
async def test_a_request_that_is_sent_again_is_a_replay(house: House, method: str) -> None:
    async with owned(house) as (client, intent):
        task = await house.task(client)
        meta = proof(intent._broker.key, house.steps[0].id, method, task.task_id, house.stage.now())
        bare = client_without_hook(client)
        await ask(bare, method, task.task_id, meta)
        expected = ("replay", "closed") if method == "tasks/cancel" else ("replay",)
        assert await refused(bare, method, task.task_id, meta) in expected


async def test_a_cancel_ends_the_step_and_its_body(house: House) -> None:
    async with owned(house) as (client, _):
        task = await house.task(client)
        await task.cancel()
        await asyncio.wait_for(house.stopped.wait(), 10)
        assert (await task.status()).status == "cancelled"
        step = await house.stage.broker.store.step(house.steps[0].id)
        assert step is not None
        assert step.life.state == "cancelled"
        for method in ("tasks/cancel", "tasks/update"):
            assert await refused(client, method, task.task_id) == "closed"


@pytest.mark.parametrize("above", ["step", "txn", "workload"])
async def test_a_result_is_nobodys_once_its_step_was_revoked(house: House, above: str) -> None:
    async with owned(house) as (client, _):
        task = await house.task(client)
        house.gate.set()
        assert (await task.result()).data == "noted milk"
        assert (await task.status()).status == "completed"
        step = house.steps[0]
        target = {"step": step.id, "txn": step.txn, "workload": "spiffe://stage.test/agent/chat"}[above]
        verb = "freeze" if above == "workload" else "revoke"
        (await house.stage.mark(verb, f"{above}:{target}")).ok()
        try:
            told = await refused(client, "tasks/get", task.task_id)
        finally:
            if verb == "freeze":
                (await house.stage.mark("unfreeze", f"{above}:{target}")).ok()
    assert told in ("revoked", "frozen")


async def test_a_body_stops_when_its_step_is_revoked(house: House) -> None:
    async def soon(_seconds: float) -> None:
        await asyncio.sleep(0.02)

    async with owned(house, await house.server(sleep=soon)) as (client, _):
        task = await house.task(client)
        assert not house.stopped.is_set()
        (await house.stage.mark("revoke", f"step:{house.steps[0].id}")).ok()
        await asyncio.wait_for(house.stopped.wait(), 10)
        assert await refused(client, "tasks/get", task.task_id) == "revoked"


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_task_does_not_outlive_an_intent_that_was_given_up(house: House, how: str) -> None:
    made = await house.server()
    async with Client(made) as client:
        broker = await house.sdk("agent/chat", AgentBroker)
        token = house.stage.issuer.mint("alice", client_id="chat-app")
        async with broker.intent(token, purpose="a test", tools=["ledger/*"]) as intent:
            intent.guard(client, "ledger", tasks=["note"])
            task = await house.task(client)
            assert (await task.status()).status == "working"
            await broker.close_step(intent.step, how)
            assert await refused(client, "tasks/get", task.task_id) == "closed"


async def test_a_task_that_nobody_takes_before_its_intent_ends_never_runs(house: House) -> None:
    async with owned(house) as (client, _):
        assert (await (await house.task(client)).status()).status == "working"
    async with Client(await house.server()) as client, house.intent(ttl=300) as intent:
        intent.guard(client, "ledger", tasks=["note"])
        task = await house.task(client)
        house.stage.pass_time(301)
        assert await refused(client, "tasks/get", task.task_id) == "expired"


async def test_arguments_that_were_changed_in_the_queue_run_nothing(house: House) -> None:
    made = await house.server()
    tasks = made._extensions["io.modelcontextprotocol/tasks"]
    async with owned(house, made) as (client, _):
        house.gate.set()
        assert (await (await house.task(client)).result()).data == "noted milk"

        hold = asyncio.Event()
        step_of = tasks._step_of  # type: ignore[attr-defined]

        async def late(task: str) -> Any:
            await hold.wait()
            return await step_of(task)

        tasks._step_of = late  # type: ignore[attr-defined]
        task = await call_tool_task(client, "note", {"text": "milk"})
        async with made._docket.redis() as redis:
            key = made._docket.key(f"fastmcp:task:anon:{task.task_id}:args")
            assert await redis.get(key) is not None
            await redis.set(key, '{"text": "poison"}')
        hold.set()
        result = await call(task)
    assert result.is_error
    assert "refused: arguments_changed." in result.content[0].text
    assert len(house.steps) == 1


async def call(task: ToolTask) -> Any:
    """The result, an error too."""
    task._raise_on_error = False
    return await task.result()


async def test_a_worker_that_was_restarted_runs_what_waited_and_nothing_twice(house: House) -> None:
    again = {"concurrency": 1, "redelivery_timeout": timedelta(seconds=0.5)}
    async with house.intent() as intent:
        async with Client(await house.server(**again)) as client:
            intent.guard(client, "ledger", tasks=["note"])
            running = await house.task(client)
            waiting = await call_tool_task(client, "note", {"text": "tea"})  # the worker is busy
        assert len(house.steps) == 1
        house.gate.set()
        delivered: list[str] = []
        second = await house.server(**again)
        tasks: Any = second._extensions["io.modelcontextprotocol/tasks"]
        bound = tasks._bound

        async def noted(task: str) -> Any:
            delivered.append(task)
            return await bound(task)

        tasks._bound = noted
        async with Client(second) as client:
            intent.guard(client, "ledger", tasks=["note"])
            assert (await handle(client, waiting).result()).data == "noted tea"
            with anyio.fail_after(20):
                while running.task_id not in delivered:  # the queue delivers it again
                    await anyio.sleep(0.05)
            assert (await ask(client, "tasks/get", running.task_id)).status == "cancelled"
    assert len(house.steps) == 2  # and its body ran once


def handle(client: Client[Any], task: ToolTask) -> ToolTask:
    """The same task on another connection."""
    made = ToolTask.__new__(ToolTask)
    vars(made).update(vars(task), _client=client)
    vars(made)["_cached_result"] = None
    return made


async def test_without_a_guarded_queue_there_are_no_tasks(house: House) -> None:
    from fastmcp_tasks import TasksExtension

    guard = Stepwrit(await house.sdk("mcp-server/ledger"), name="ledger")
    made = FastMCP("ledger", middleware=[guard])
    made.add_extension(TasksExtension(url="memory://", name=house.queue))
    ran: list[str] = []

    @made.tool(task=True)
    async def note(text: str) -> str:
        ran.append(current_step().id)
        return "noted"

    async with owned(house, made) as (client, _):
        assert (await client.call_tool("note", {"text": "milk"})).data == "noted"  # in the call itself
        with pytest.raises(Exception, match="did not run as a task"):
            await call_tool_task(client, "note", {"text": "milk"})
        for method in METHODS:
            assert await refused(client, method, "any") == "not_yet_supported"


async def test_a_step_that_is_not_deferred_becomes_no_task(house: House) -> None:
    house.gate.set()
    async with Client(await house.server()) as client, house.intent() as intent:
        intent.guard(client, "ledger")
        assert (await client.call_tool("note", {"text": "milk"})).data == "noted milk"
        with pytest.raises(Exception, match="did not run as a task"):
            await call_tool_task(client, "note", {"text": "milk"})
    assert [step.round for step in house.steps] == [1, 1]
