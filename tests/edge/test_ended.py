"""Over real sockets: a performer that never beats hears of a revocation by the held request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio
from tests.fakes.stage import Stage, spiffe

from stepwrit._alive import StoppedError
from stepwrit.client import Broker, Parts
from stepwrit.lineage import Step
from stepwrit.wire import AcceptRequest, StepAccepted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as stage:
        yield stage


pytestmark = pytest.mark.asyncio(loop_scope="module")
NOTE = "ledger/note"


async def never(_seconds: float) -> None:
    await anyio.sleep_forever()


async def performing(stage: Stage, path: str = "mcp-server/ledger") -> Broker:
    broker = Broker(await stage.transport(path), spiffe(path), Parts(base_url=stage.url))
    broker.alive.listen_after_s = 0.0
    broker.alive._after = (await broker.ended(None)).after  # so that it need not beat at first
    return broker


async def accepted(stage: Stage, broker: Broker) -> Step:
    from tests.fakes.stage import accept_body

    opened = await stage.opened(NOTE)
    body = accept_body(opened)
    request = AcceptRequest(**{name: body[name] for name in ("token", "proof", "args", "round")})
    answer: StepAccepted = await broker.accept(opened.step, request)
    return Step(broker, answer)


async def test_a_revoked_step_stops_its_body_and_no_other(stage: Stage) -> None:
    broker = await performing(stage)
    doomed, spared = await accepted(stage, broker), await accepted(stage, broker)
    outcome: dict[str, str] = {}
    ready, done = anyio.Event(), anyio.Event()

    async def body(step: Step) -> str:
        if step is doomed:
            ready.set()
            await anyio.sleep_forever()
        await done.wait()
        return "done"

    async def run(step: Step) -> None:
        try:
            outcome[step.id] = await broker.alive.beside(step, lambda: body(step), sleep=never)
        except StoppedError as stopped:
            outcome[step.id] = stopped.how
            done.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(run, doomed)
            group.start_soon(run, spared)
            await ready.wait()
            (await stage.mark("revoke", f"txn:{doomed.txn}")).ok()

    assert outcome == {doomed.id: "revoked", spared.id: "done"}
    assert [entry.facts["outcome"] for entry in stage.happened(doomed.txn, "step.closed") if entry.facts] == [
        "revoked",
        "revoked",
    ]


async def test_a_broker_that_stops_lets_go_of_those_it_holds(stage: Stage) -> None:
    """Otherwise its listeners would wait for them."""
    broker = await performing(stage)
    first = await broker.ended(None)
    heard: list[bool] = []

    async def held() -> None:
        heard.append((await broker.ended(first.after, 600)).complete)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(held)
            while not stage.broker.housed.endings._held:
                await anyio.sleep(0.01)
            stage.broker.housed.endings.close()
    assert heard == [True]
    await stage.restart()
