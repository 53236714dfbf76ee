"""Pipelines of many servers on the real SDK and a real broker: attribution, bounds, two at once, cascades."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
import uvicorn
from mcp.server.mcpserver import MCPServer
from tests.fakes.pipeline import LIMITS, Pipeline, code_of, entries
from tests.fakes.stage import Stage, spiffe

from stepwrit import agent
from stepwrit.client import Parts
from stepwrit.errors import RefusedError

NAMES = [f"s{n}" for n in range(10)]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage(entries=entries(NAMES), limits=LIMITS) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def line(stage: Stage) -> AsyncIterator[Pipeline]:
    stage.forget_refusals()
    async with Pipeline(stage, NAMES) as line:
        yield line


@pytest.mark.parametrize(
    "route",
    [NAMES, ["s0", "s1", "s0"], ["s0", "s0", "s0"], ["s0", "s1", "s2", "s0", "s1", "s2"]],
    ids=["ten hops", "there and back", "itself", "loop"],
)
async def test_every_hop_is_on_record_as_it_was_called(line: Pipeline, route: list[str]) -> None:
    async with line.intent() as intent:
        result = await line.call(intent, route[0], route=route[1:])
        assert not result.is_error
        assert [each.server for each in line.ran] == route
        line.check(intent)


async def test_fifty_at_once_and_what_they_start_are_fifty_chains(line: Pipeline) -> None:
    async with line.intent() as intent:
        assert not (await line.call(intent, "s0", "fan", to="s1", count=50, deep=2)).is_error
        assert len(line.ran) == 1 + 50 * 2
        assert len({each.step.id for each in line.ran}) == 101
        line.check(intent)


async def test_two_transactions_through_the_same_servers_never_mix(line: Pipeline) -> None:
    async with line.intent() as one, line.intent() as two:
        await asyncio.gather(
            *(line.call(intent, "s0", "fan", to="s1", count=8, deep=3) for intent in (one, two)),
            *(line.call(intent, "s2", route=["s0", "s1", "s2"]) for intent in (one, two)),
        )
        assert len([each for each in line.ran if each.step.txn == one.txn]) == len(line.ran) / 2 == 29
        line.check(one)
        line.check(two)


# --- every bound bites, with a typed refusal that is on record


async def limited(line: Pipeline, rule: str, txn: str) -> None:
    """The last call was refused by this rule, and the ledger has it in that transaction's story."""
    assert line.codes.count("limit") == 1
    facts = [entry.facts for entry in line.stage.happened(txn, "refused") if entry.facts]
    assert [(each["code"], each["verb"]) for each in facts] == [("limit", "open")]
    assert str(facts[0]["rule"]).endswith(rule), facts[0]["rule"]


async def test_depth_ends_somewhere(line: Pipeline) -> None:
    async with line.intent(depth=4) as intent:
        assert not (await line.call(intent, "s0", route=["s1", "s2", "s3"])).is_error
        assert line.codes == [None] * 3
        await line.call(intent, "s0", route=["s1", "s2", "s3", "s4"])
        await limited(line, "depth", intent.txn)
        assert [each.server for each in line.ran] == ["s0", "s1", "s2", "s3"] * 2
        line.check(intent)


async def test_fan_out_ends_somewhere(line: Pipeline) -> None:
    async with line.intent() as intent:
        await line.call(intent, "s0", "fan", to="s1", count=60, deep=1)
        assert line.codes == [None] * 60
        await line.call(intent, "s2", "fan", to="s1", count=61, deep=1)
        await limited(line, "transaction.fan_out", intent.txn)
        line.check(intent)


async def test_the_steps_of_a_transaction_end_somewhere(line: Pipeline) -> None:
    async with line.intent(steps=4) as intent:
        await line.call(intent, "s0", route=["s1", "s0"])
        assert line.codes == [None] * 2
        await line.call(intent, "s0", route=["s1"])
        await limited(line, "steps", intent.txn)
        assert len(line.ran) == 4
        line.check(intent)


async def test_what_servers_start_ends_somewhere_and_the_model_goes_on(line: Pipeline) -> None:
    async with line.intent(server_steps=2) as intent:
        await line.call(intent, "s0", route=["s1", "s2"])
        assert line.codes == [None] * 2
        await line.call(intent, "s0", route=["s1"])
        await limited(line, "server_steps", intent.txn)
        assert code_of(await line.call(intent, "s3", route=[])) is None
        line.check(intent)


# --- cascades


async def holding(line: Pipeline, count: int) -> None:
    async with asyncio.timeout(30):
        while len(line.ran) < count:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("at", [-1, 0, 2, 4])
async def test_a_revoked_node_ends_all_below_it_and_nothing_above(
    stage: Stage, line: Pipeline, at: int
) -> None:
    """`at`: the hop that is revoked; -1 the root. The bodies that run below are stopped."""
    route = ["s0", "s1", "s2", "s3", "s4"]
    async with line.intent() as intent, line.intent() as other:
        spared = asyncio.create_task(line.call(other, "s5", "hold", route=["s6"]))
        await holding(line, 2)
        doomed = asyncio.create_task(line.call(intent, "s0", "hold", route=route[1:]))
        await holding(line, 2 + len(route))
        chain = [each for each in line.ran if each.step.txn == intent.txn]
        target = intent.step if at < 0 else chain[at].step.id
        below = chain[max(at, 0) :]
        (await stage.mark("revoke", f"step:{target}")).ok()
        result = await doomed
        ended = {
            each.facts["step"]: each.facts for each in stage.happened(intent.txn, "step.closed") if each.facts
        }
        assert {each.step.id: ended[each.step.id]["outcome"] for each in below} == {
            each.step.id: "revoked" for each in below
        }
        assert set(line.stopped) == {each.step.id for each in below}
        if at > 0:  # who called what was revoked is told, and ends in its own time
            assert code_of(result) is None
            assert [ended[each.step.id]["outcome"] for each in chain[:at]] == ["done"] * at
        else:
            assert code_of(result) == "revoked"
        line.gate.set()
        assert not (await spared).is_error
        for each in below:
            assert each.step.ended is not None


async def test_a_call_that_is_given_up_ends_what_it_started(stage: Stage, line: Pipeline) -> None:
    """A client that cancels: each server's call is cancelled by the one above, and each step is closed."""
    async with line.intent() as intent:
        call = asyncio.create_task(line.call(intent, "s0", "hold", route=["s1", "s2"]))
        await holding(line, 3)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(30):
            while len(stage.happened(intent.txn, "step.closed")) < 3:
                await asyncio.sleep(0.01)
        outcomes = {
            entry.facts["outcome"] for entry in stage.happened(intent.txn, "step.closed") if entry.facts
        }
        assert outcomes == {"cancelled"}
    assert len(line.stopped) == 3


# --- a sub-agent that is a server, and real sockets


async def test_a_sub_agent_behind_a_tool_starts_what_servers_start(stage: Stage, line: Pipeline) -> None:
    """One SPIFFE ID, one role, the lower one: its model's picks are `server`, and it exchanges no person."""
    inner = agent.Broker(
        await stage.transport("mcp-server/s0"), spiffe("mcp-server/s0"), Parts(base_url=stage.url)
    )
    codes: list[str] = []
    async with line.intent() as intent:
        assert not (await line.call(intent, "s0", route=["s1"])).is_error
        line.check(intent)
        for token in (stage.issuer.mint("alice", client_id="chat-app"), "its own word"):
            with pytest.raises(RefusedError) as no:
                await stage_intent(inner, token)
            codes.append(no.value.code)
    assert [each.step.origin for each in line.ran] == ["model", "server"]
    assert codes == ["origin_claimed", "origin_claimed"]


async def stage_intent(broker: agent.Broker, token: str) -> None:
    async with broker.intent(token, purpose="mine", tools=["s1/*"]):
        pass


async def test_the_same_over_streamable_http(stage: Stage) -> None:
    """Three servers on sockets of their own, in both directions, and a revocation in the middle."""
    async with AsyncExitStack() as stack:
        urls: dict[str, str] = {}
        line = await stack.enter_async_context(Pipeline(stage, NAMES[:3], connect=urls.__getitem__))
        for name, server in line.servers.items():
            urls[name] = await stack.enter_async_context(served(server))
        async with line.intent() as intent:
            result = await line.call(intent, "s0", route=["s1", "s2", "s0"])
            assert not result.is_error
            assert [each.server for each in line.ran] == ["s0", "s1", "s2", "s0"]
            line.check(intent)
            held = asyncio.create_task(line.call(intent, "s0", "hold", route=["s1", "s2"]))
            await holding(line, 7)
            (await stage.mark("revoke", f"step:{line.ran[5].step.id}")).ok()
            await held
            assert set(line.stopped) == {each.step.id for each in line.ran[5:]}
            line.check(intent)


@asynccontextmanager
async def served(server: MCPServer) -> AsyncGenerator[str]:
    """The server on a loopback port; its URL."""
    config = uvicorn.Config(server.streamable_http_app(), port=0, log_level="error", lifespan="on")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    async with asyncio.timeout(30):
        while not running.started:
            await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        running.should_exit = True
        await task
