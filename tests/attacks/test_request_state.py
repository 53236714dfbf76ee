"""What a waiting call keeps at its client continues that call, in its next round, once; and nothing else.

Real broker, real mcp in memory, two workers of one server with shared keys.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from tests.fakes.stage import Stage, spiffe

from stepwrit._outgoing import OutgoingStep
from stepwrit.agent import Broker as AgentBroker
from stepwrit.agent import Intent
from stepwrit.client import Broker, Parts
from stepwrit.mcp import Stepwrit, request_state
from stepwrit.wire import META_REFUSAL

KEYS, OTHER_KEYS = ["k" * 32], ["o" * 32]
ANSWER = {"who": ElicitResult(action="accept", content={"name": "bob"})}
ARGS: dict[str, object] = {"words": "hi"}


def worker(broker: Broker, ran: list[str], keys: list[str]) -> MCPServer:
    """One process of the server `ledger`; its tool asks as often as its state counts."""
    guard = Stepwrit(broker, name="ledger")
    server = MCPServer("ledger", extensions=[guard], request_state_security=request_state(keys=keys))

    @server.tool()
    async def note(words: str, ctx: Context) -> str | InputRequiredResult:
        round_ = int((ctx.request_state or "0:").partition(":")[0]) + 1
        ran.append(f"round {round_}")
        if round_ < 3:
            form = ElicitRequestFormParams(
                message="Who?", requested_schema={"type": "object", "properties": {}}
            )
            asked = {"who": ElicitRequest(params=form)}
            return InputRequiredResult(input_requests=asked, request_state=f"{round_}:the same for all")
        return f"{words} of {ctx.request_state}"

    return server


@dataclass
class World:
    """Two workers, one stranger's worker with other keys, and two agents with an intent each."""

    stage: Stage
    ran: list[str] = field(default_factory=list)

    async def broker(self, path: str) -> Broker:
        parts = Parts(base_url=self.stage.url)
        made = Broker(await self.stage.transport(path), spiffe(path), parts)
        made.alive.listen_after_s = 3600.0  # no call here is ended by others
        return made

    @asynccontextmanager
    async def client(self, keys: list[str] = KEYS) -> AsyncGenerator[Client]:
        server = worker(await self.broker("mcp-server/ledger"), self.ran, keys)
        async with Client(server, mode="2026-07-28", elicitation_callback=_never) as client:
            yield client

    @asynccontextmanager
    async def intent(self, path: str = "agent/chat") -> AsyncGenerator[Intent]:
        agent = AgentBroker(await self.stage.transport(path), spiffe(path), Parts(base_url=self.stage.url))
        token = self.stage.issuer.mint("alice", client_id="chat-app" if path == "agent/chat" else "other-app")
        async with agent.intent(token, purpose="notes", tools=["ledger/*"]) as intent:
            yield intent


async def _never(_ctx: object, _params: object) -> ElicitResult:
    raise AssertionError("these tests answer by themselves")


@dataclass
class Call:
    """One call, round by round, as a client that sends whatever it likes."""

    client: Client
    step: OutgoingStep

    async def send(self, state: str | None = None, **more: Any) -> Any:
        """The next round, with this state."""
        answers: Any = None if self.step.round == 0 else ANSWER
        return await self.client.session.call_tool(
            "note",
            ARGS,
            input_responses=more.get("answers", answers),
            request_state=state,
            meta=more.get("meta") or await self.step.meta(),
            allow_input_required=True,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage() as stage:
        yield stage


@pytest.fixture
def world(stage: Stage) -> World:
    return World(stage)


async def opened(intent: Intent, client: Client) -> Call:
    return Call(client, await intent.open("ledger", "note", ARGS))


async def waiting(intent: Intent, client: Client) -> tuple[Call, str]:
    """A call in its first round's end, and the state that it was given."""
    call = await opened(intent, client)
    return call, state_of(await call.send())


def state_of(result: Any) -> str:
    assert isinstance(result, InputRequiredResult), result
    assert result.request_state is not None
    return result.request_state


def code_of(result: Any) -> str:
    assert isinstance(result, CallToolResult), result
    assert result.is_error
    return str((result.meta or {})[META_REFUSAL]["code"])


async def finished(call: Call, state: str) -> str:
    """Both rounds that are left."""
    done = await call.send(state_of(await call.send(state)))
    assert isinstance(done, CallToolResult)
    assert not done.is_error
    return str(done.content[0].text)  # type: ignore[union-attr]


async def sealed_out(call: Call, state: str | None) -> None:
    """Mcp's seal does not open: an error that says nothing, and the body never runs."""
    with pytest.raises(MCPError, match="Invalid or expired requestState"):
        await call.send(state)


async def test_workers_with_shared_keys_go_on_with_each_others_rounds(world: World) -> None:
    async with world.client() as one, world.client() as two, world.intent() as intent:
        call, state = await waiting(intent, one)
        call.client = two
        second = state_of(await call.send(state))
        call.client = one
        done = await call.send(second)
    assert done.content[0].text == "hi of 2:the same for all"
    assert world.ran == ["round 1", "round 2", "round 3"]
    assert "the same" not in base64.urlsafe_b64decode(state[3:] + "===").decode("latin-1")


async def test_with_another_key_it_does_not_open(world: World) -> None:
    async with world.client() as one, world.client(OTHER_KEYS) as other, world.intent() as intent:
        call, state = await waiting(intent, one)
        call.client = other
        await sealed_out(call, state)
        call.client, call.step.round = one, 1
        assert await finished(call, state)
    assert world.ran == ["round 1", "round 2", "round 3"]


@pytest.mark.parametrize("path", ["agent/other", "agent/chat"], ids=["another caller", "another transaction"])
async def test_stolen_by_another_caller_or_for_another_transaction(world: World, path: str) -> None:
    async with world.client() as client, world.intent() as intent, world.intent(path) as theirs:
        call, state = await waiting(intent, client)
        thief, own = await waiting(theirs, client)
        await sealed_out(thief, state)
        assert world.ran == ["round 1", "round 1"]
        thief.step.round = 1
        assert await finished(call, state)
        assert await finished(thief, own)


async def test_stolen_before_the_thief_has_a_round_of_its_own(world: World) -> None:
    async with world.client() as client, world.intent() as intent, world.intent("agent/other") as theirs:
        call, state = await waiting(intent, client)
        thief = await opened(theirs, client)
        await sealed_out(thief, state)
        assert await finished(call, state)
    assert world.ran == ["round 1", "round 2", "round 3"]


async def test_swapped_between_two_waiting_calls_of_one_client(world: World) -> None:
    async with world.client() as client, world.intent() as intent:
        one, first = await waiting(intent, client)
        two, second = await waiting(intent, client)
        await sealed_out(one, second)
        await sealed_out(two, first)
        one.step.round = two.step.round = 1
        assert await finished(one, first)
        assert await finished(two, second)


async def test_replayed_after_its_round(world: World) -> None:
    async with world.client() as client, world.intent() as intent:
        call, state = await waiting(intent, client)
        meta = await call.step.meta()
        second = state_of(await call.send(state, meta=meta))
        assert code_of(await call.send(state, meta=meta)) == "replay"
        last = await call.step.meta()
        done = await call.send(second, meta=last)
        assert not done.is_error
        assert code_of(await call.send(second, meta=last)) == "already_done"
    assert world.ran == ["round 1", "round 2", "round 3"]


async def test_the_state_of_an_earlier_round_opens_no_later_one(world: World) -> None:
    async with world.client() as client, world.intent() as intent:
        call, state = await waiting(intent, client)
        second = state_of(await call.send(state))
        assert code_of(await call.send(state)) == "state_changed"
        call.step.round = 2
        done = await call.send(second)
        assert not done.is_error
    assert world.ran == ["round 1", "round 2", "round 3"]


async def test_absent_where_the_round_before_left_one(world: World) -> None:
    async with world.client() as client, world.intent() as intent:
        call, state = await waiting(intent, client)
        refused = await call.send(None)
        assert code_of(refused) == "state_changed"
        call.step.round = 1
        assert await finished(call, state)
    assert world.ran == ["round 1", "round 2", "round 3"]


@pytest.mark.parametrize("at", [3, 20, -1], ids=["its key", "its middle", "its end"])
async def test_altered(world: World, at: int) -> None:
    async with world.client() as client, world.intent() as intent:
        call, state = await waiting(intent, client)
        letter = "B" if state[at] == "A" else "A"
        changed = state[:at] + letter + state[at + 1 :] if at >= 0 else state[:-1] + letter
        await sealed_out(call, changed)
        call.step.round = 1
        assert await finished(call, state)


async def test_without_the_seal_the_brokers_digest_alone_keeps_it(world: World) -> None:
    """A server whose seal binds nobody: what is stolen or altered is still not what the step waits for."""
    from mcp.server.mcpserver import RequestStateSecurity

    class Plain:
        def seal(self, payload: bytes) -> str:
            return payload.hex()

        def unseal(self, token: str) -> bytes:
            return bytes.fromhex(token)

    server = worker(await world.broker("mcp-server/ledger"), world.ran, KEYS)
    boundary = next(each for each in server._lowlevel_server.middleware if hasattr(each, "_security"))
    boundary._security = RequestStateSecurity(codec=Plain(), bind_principal=None)  # type: ignore[attr-defined]
    async with (
        Client(server, mode="2026-07-28", elicitation_callback=_never) as client,
        world.intent() as intent,
        world.intent("agent/other") as theirs,
    ):
        one, first = await waiting(intent, client)
        two, second = await waiting(theirs, client)
        forged = bytes.fromhex(first).replace(b"1:the", b"2:the").hex()
        for wrong in (second, forged):
            assert code_of(await one.send(wrong)) == "state_changed"
            one.step.round = 1
        assert world.ran == ["round 1", "round 1"]
        assert await finished(one, first)
        assert await finished(two, second)
