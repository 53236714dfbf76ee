"""Jobs: deferred by a tool or an agent, resumed by a worker with an id, in an event loop or a thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx2
import pytest
from mcp.server.mcpserver import MCPServer

from stepwrit import jobs
from stepwrit._testing_kit import AGENT, Kit
from stepwrit.agent import Intent
from stepwrit.client import Broker, SyncBroker
from stepwrit.errors import ApprovalPendingError, RefusedError
from stepwrit.lineage import current_step
from stepwrit.mcp import Stepwrit
from stepwrit.testing import Kit as Public

BANK = "https://bank.example"
ARGS: dict[str, Any] = {"amount": 5, "to": "bob"}


@pytest.fixture
def kit() -> Kit:
    made = Kit()
    made.tool("ledger/transfer", plan=[f"POST {BANK}/v1/transfers"])
    return made


@pytest.fixture
def worker(kit: Kit) -> Broker:
    return kit.workload("ledger")


@pytest.fixture
def thread(kit: Kit) -> SyncBroker:
    return kit.sync_workload("ledger")


@asynccontextmanager
async def intent_of(kit: Kit) -> AsyncIterator[Intent]:
    token = kit.broker.id_token(agent=AGENT)
    async with kit.agent().intent(token, purpose="a test", tools=["*"]) as intent:
        yield intent


async def deferred(kit: Kit, tool: str = "ledger/transfer", args: dict[str, Any] | None = None) -> str:
    """A job of an intent that is done."""
    kit.workload("ledger")
    async with intent_of(kit) as intent:
        return await intent.defer(tool, ARGS if args is None else args)


async def refused(broker: Broker, step: str) -> RefusedError:
    with pytest.raises(RefusedError) as no:
        async with broker.resumed(step):
            pytest.fail("the body ran")
    return no.value


async def test_what_an_agent_deferred_runs_with_its_arguments_as_the_current_step(
    kit: Kit, worker: Broker
) -> None:
    step = await deferred(kit)
    async with worker.resumed(step) as job:
        assert current_step() is job
        assert (job.id, job.args, job.tool, job.round, job.origin) == (
            step,
            ARGS,
            "ledger/transfer",
            1,
            "model",
        )
        assert "bob" not in repr(job)
    assert job.ended == "done"
    assert kit.ledger.kinds()[-2:] == ["resumed", "done"]
    with pytest.raises(RefusedError, match="no_step"):
        current_step()


async def test_a_tool_defers_for_another_server_and_for_itself(kit: Kit, worker: Broker) -> None:
    server, made = MCPServer("shop", extensions=[Stepwrit(kit.workload("shop"), name="shop")]), list[str]()

    @server.tool()
    async def order(amount: int) -> str:
        made.append(await current_step().defer("ledger/transfer", {"amount": amount}))
        made.append(await current_step().defer("tidy"))
        return "queued"

    async with kit.client(server) as client:
        assert not (await client.call_tool("order", {"amount": 7})).is_error
    async with worker.resumed(made[0]) as job:
        assert (job.args, job.origin) == ({"amount": 7}, "server")
        assert [hop.tool for hop in job.chain] == ["shop/order", "ledger/transfer"]
    async with kit.workload("shop").resumed(made[1]) as own:
        assert (own.tool, own.args) == ("shop/tidy", {})


async def test_a_job_gets_credentials_as_always(kit: Kit, worker: Broker) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"paid"})

    bank = kit.resource(app, BANK)
    async with worker.resumed(await deferred(kit)) as job:
        right = job.credential(BANK)
        async with bank.client(right) as http:
            assert (await http.post("/v1/transfers", json={"cents": 500})).text == "paid"
    with pytest.raises(RefusedError, match="closed"):
        await right.token("POST", f"{BANK}/v1/transfers")


async def test_a_body_that_raises_has_failed_and_never_runs_again(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    with pytest.raises(LookupError, match="gone"):
        async with worker.resumed(step):
            raise LookupError("gone")
    assert kit.ledger.kinds()[-1] == "failed"
    assert (await refused(worker, step)).code == "already_done"


async def test_redelivery_never_runs_the_body_twice(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    async with worker.resumed(step):
        again = await refused(worker, step)
        assert (again.code, again.refusal.retry_after) == ("replay", 60)
        assert (await refused(kit.workload("ledger"), step)).code == "replay"
    assert (await refused(worker, step)).code == "already_done"


async def test_a_stolen_id_is_nothing_to_another(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    assert (await refused(kit.workload("shop"), step)).code == "not_found"
    async with worker.resumed(step):
        pass


async def test_a_cancelled_worker_cancels_the_step(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    with anyio.CancelScope() as scope:
        async with worker.resumed(step):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert kit.ledger.kinds()[-1] == "cancelled"


async def test_a_job_that_others_end_is_stopped_and_told_why(kit: Kit, worker: Broker) -> None:
    worker.alive.listen_after_s = 0
    stopped = False
    with pytest.raises(RefusedError, match="ended while the job ran"):  # noqa: PT012  the block is the job
        async with intent_of(kit) as intent:
            step = await intent.defer("ledger/transfer", ARGS)
            async with worker.resumed(step):
                await kit.agent().close_step(intent.step, "cancelled")
                try:
                    await anyio.sleep_forever()
                finally:
                    stopped = True
    assert stopped
    assert (await refused(worker, step)).code == "closed"


async def test_a_job_that_is_parked_goes_on_with_another_round(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    async with worker.resumed(step) as job:
        await job.park()
        with pytest.raises(RefusedError, match="waiting"):
            await job.park()
    assert kit.ledger.kinds()[-1] == "waiting"
    async with worker.resumed(step) as job:
        assert (job.round, job.args) == (2, ARGS)
    assert kit.ledger.kinds()[-1] == "done"


async def test_a_parked_job_whose_body_lingers_is_not_refused(kit: Kit, worker: Broker) -> None:
    step = await deferred(kit)
    resumed = replace(await worker.resume(step), heartbeat_s=0)
    async with jobs.running(worker, resumed) as job:
        await job.park()
        await anyio.sleep(0.05)
    assert job.ended == "waiting"
    async with worker.resumed(step):
        pass


async def test_an_intent_that_fails_takes_its_jobs_along(kit: Kit, worker: Broker) -> None:
    kept: list[str] = []
    with pytest.raises(LookupError):  # noqa: PT012  the block is the intent
        async with intent_of(kit) as intent:
            kept.append(await intent.defer("ledger/transfer"))
            raise LookupError
    assert (await refused(worker, kept[0])).code == "closed"


async def test_a_job_that_must_be_signed_first_is_named_at_once_and_runs_later(
    kit: Kit, worker: Broker
) -> None:
    kit.need_approval("transfer")
    async with intent_of(kit) as intent:
        with pytest.raises(ApprovalPendingError) as pending:
            await intent.defer("ledger/transfer", ARGS)
        step = pending.value.approval.step
        assert (await refused(worker, step)).code == "authorization_pending"
        kit.approve("transfer")
        assert await intent.defer("ledger/transfer", ARGS) == step, "the same call goes on with it"
    async with worker.resumed(step) as job:
        assert job.args == ARGS


async def test_what_waits_deferred_is_not_what_is_called_now(kit: Kit) -> None:
    kit.workload("ledger")
    kit.need_approval("transfer")
    async with intent_of(kit) as intent:
        with pytest.raises(ApprovalPendingError) as later:
            await intent.defer("ledger/transfer", ARGS)
        with pytest.raises(ApprovalPendingError) as now:
            await intent.open("ledger", "transfer", ARGS)
        assert now.value.approval.step != later.value.approval.step
        kit.approve("transfer")
        assert await intent.defer("ledger/transfer", ARGS) == later.value.approval.step


async def test_a_tools_job_that_must_be_signed_is_handed_to_its_client(kit: Kit, worker: Broker) -> None:
    server, made = MCPServer("shop", extensions=[Stepwrit(kit.workload("shop"), name="shop")]), list[str]()
    kit.need_approval("transfer", then="approve")

    @server.tool()
    async def order() -> str:
        made.append(await current_step().defer("ledger/transfer", ARGS, wait_for_approval=5))
        return "queued"

    async with kit.client(server) as client:
        assert not (await client.call_tool("order", {})).is_error
    async with worker.resumed(made[0]) as job:
        assert job.args == ARGS


# --- threads


async def test_a_thread_resumes_heartbeats_and_closes(kit: Kit, thread: SyncBroker) -> None:
    step = await deferred(kit)
    with thread.resumed(step) as job:
        assert (job.id, job.args, job.ended) == (step, ARGS, None)
        assert current_step() is job.step
        assert job.ref == job.step.ref
        assert step in repr(job)
        assert threading.active_count() > 1
    assert (job.ended, kit.ledger.kinds()[-1]) == ("done", "done")
    with pytest.raises(RefusedError, match="already_done"), thread.resumed(step):
        pytest.fail("the body ran")


async def test_a_threads_job_has_credentials_and_defers(kit: Kit, thread: SyncBroker) -> None:
    seen: list[httpx2.Request] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200)

    with thread.resumed(await deferred(kit)) as job:
        right = job.credential(BANK)
        with httpx2.Client(auth=right, transport=httpx2.MockTransport(take)) as http:
            http.post(f"{BANK}/v1/transfers", json={})
        assert seen[0].headers["Authorization"].startswith("DPoP ")
        assert right.token_sync("POST", f"{BANK}/v1/transfers").headers["DPoP"]
        below = job.defer("ledger/tidy", {"after": job.id})
    with thread.resumed(below) as second:
        assert second.args == {"after": job.id}


async def test_a_threads_body_that_raises_has_failed(kit: Kit, thread: SyncBroker) -> None:
    step = await deferred(kit)
    with pytest.raises(LookupError), thread.resumed(step):
        raise LookupError
    assert kit.ledger.kinds()[-1] == "failed"


async def test_a_threads_job_is_parked(kit: Kit, thread: SyncBroker) -> None:
    step = await deferred(kit)
    with thread.resumed(step) as job:
        job.park()
    assert kit.ledger.kinds()[-1] == "waiting"
    with thread.resumed(step) as job:
        assert job.step.round == 2


async def test_a_thread_whose_step_others_end_hears_it_at_its_next_heartbeat(
    kit: Kit, thread: SyncBroker
) -> None:
    root = ""
    with pytest.raises(LookupError):  # noqa: PT012  the block is the intent
        async with intent_of(kit) as intent:
            step, root = await intent.defer("ledger/transfer", ARGS), intent.step
            raise_later = LookupError()
            resumed = replace(thread.resume(step), heartbeat_s=0)
            with pytest.raises(RefusedError, match="ended while the job ran"):  # noqa: PT012, SIM117  the block is the job
                with jobs.running_sync(thread, resumed) as job:
                    await kit.agent().close_step(root, "cancelled")
                    while job.ended is None:
                        await anyio.sleep(0.001)
            raise raise_later
    with pytest.raises(RefusedError, match="closed"), thread.resumed(step):
        pytest.fail("the body ran")


async def test_a_thread_in_doubt_goes_on(
    kit: Kit, thread: SyncBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepwrit._reply import local
    from stepwrit.errors import UnavailableError

    beats = 0

    def doubt(step: str) -> Any:
        nonlocal beats
        beats += 1
        raise UnavailableError(local("unavailable", "nobody answers"))

    resumed = replace(thread.resume(await deferred(kit)), heartbeat_s=0)
    monkeypatch.setattr(thread, "heartbeat", doubt)
    with jobs.running_sync(thread, resumed) as job:
        while beats < 2:
            await anyio.sleep(0.001)
        assert job.ended is None
    assert kit.ledger.kinds()[-1] == "done"


async def test_an_end_that_cannot_be_told_is_left_to_the_heartbeat(
    kit: Kit, thread: SyncBroker, worker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepwrit._reply import local
    from stepwrit.errors import UnavailableError

    def lost(*_: object) -> Any:
        raise UnavailableError(local("unavailable", "nobody answers"))

    async def lost_too(*_: object) -> Any:
        lost()

    monkeypatch.setattr(thread, "close_step", lost)
    monkeypatch.setattr(worker, "close_step", lost_too)
    with thread.resumed(await deferred(kit)) as job:
        pass
    assert job.ended == "done"
    async with worker.resumed(await deferred(kit)) as other:
        pass
    assert other.ended == "done"


async def test_what_needs_an_event_loop_says_so(kit: Kit, thread: SyncBroker) -> None:
    from stepwrit._blocking import now

    with pytest.raises(RuntimeError, match="event loop"):
        now(anyio.sleep(1))
    kit.need_approval("tidy")
    with thread.resumed(await deferred(kit)) as job:
        with pytest.raises(ApprovalPendingError):
            job.defer("tidy")
        kit.approve("tidy")
        assert job.defer("tidy")
        kit.allow("tidy")
        made = now(job.step.start("ledger", "tidy"))
        assert now(made.meta())
        made._usable_until = 0.0
        assert now(made.headers())
    assert Public is Kit
