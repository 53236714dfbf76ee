"""What a server makes its client do runs only as a proven step of that server, once, below that very call.

`take` is the client's gate, for every MCP library and protocol version; what stands before it and behind it
is tried on the real SDK, in both versions.
"""

import copy
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import pytest
import pytest_asyncio
from mcp import MCPError
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve, Sample
from mcp_types import CreateMessageResultWithTools, SamplingMessage, TextContent, Tool
from pydantic import BaseModel
from tests.attacks.test_influence import influence
from tests.fakes.asker import Between, Host, broker_of, guarded, server_of
from tests.fakes.stage import ENTRIES, Actor, Opened, Stage, new, refused

from stepwrit import _acts as acts
from stepwrit.digest import args_digest
from stepwrit.dpop import make_step_proof
from stepwrit.errors import RefusedError
from stepwrit.lineage import current_step
from stepwrit.wire import META_REFUSAL

ERAS = ["2026-07-28", "2025-11-25"]
both_eras = pytest.mark.parametrize("era", ERAS)
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
FORM: dict[str, Any] = {"message": "m" * 43, "schema": "s" * 43}
PROMPT: dict[str, Any] = {"content": "c" * 43, "messages": 1, "max_tokens": 9, "include_context": "none"}


def entries() -> list[dict[str, Any]]:
    """The ledger may ask its client's model, and offer it tools; mallory is named for nothing of the kind."""
    read = copy.deepcopy(ENTRIES)
    for entry in read:
        if entry["name"] == "ledger":
            named = ["audit/*", "ledger/note", "client/sampling", "client/roots", "client/url"]
            entry["may_start"] = {"tools": named, "impact": "low"}
        if entry["name"] == "chat":
            entry["may_start"]["tools"].append("mallory/*")
    return read


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(entries=entries()) as stage:
        yield stage


# --- the gate


class Asked:
    """A call of the chat agent's, and an act that its server opened below it."""

    def __init__(self, stage: Stage, call: Opened, act: Opened, name: str) -> None:
        self.stage, self.call, self.act = stage, call, act
        self.ask = acts.Ask(act=name, args=dict(act.args))

    def proof(self, *, by: Actor | None = None, args: dict[str, Any] | None = None, turn: int = 1) -> Any:
        """`{token, proof}` as the server sends it, or otherwise."""
        made = make_step_proof(
            (by or self.act.by).key,
            token=self.act.token,
            args=args_digest(self.ask.args if args is None else args),
            round=turn,
            now=self.stage.now(),
            jti=new(),
        )
        return {"token": self.act.token, "proof": made}

    async def take(self, proof: Any, *, at: str = "agent/chat", **changes: Any) -> Any:
        broker = await broker_of(await self.stage.actor(at))
        below = changes.pop("below", {self.call.step})
        return await acts.take(broker, replace(self.ask, **changes), proof, below)


async def asked(stage: Stage, name: str = "elicitation", args: dict[str, Any] | None = None) -> Asked:
    call, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    what = args or (FORM if name == "elicitation" else PROMPT)
    return Asked(stage, call, await ledger.open(call.step, f"client/{name}", args=what), name)


async def no(stage: Stage, taking: Any, *codes: str) -> None:
    """Refused, and where the broker was asked, on record."""
    with pytest.raises(RefusedError) as told:
        await taking
    assert told.value.code in codes, told.value
    if told.value.ref is not None:
        assert any(entry.kind == "refused" for entry in stage.on_record(told.value.ref))


async def ok(asked: Asked, **changes: Any) -> None:
    """The honest try passes after all the others."""
    step = await asked.take(asked.proof(), **changes)
    assert (step.origin, step.id, step.chain[-2].step) == ("server", asked.act.step, asked.call.step)


async def test_no_proof(stage: Stage) -> None:
    one = await asked(stage)
    await no(stage, one.take(None), "no_step")
    for odd in ({}, {"token": one.act.token}, "x", [], {**one.proof(), "more": 1}):
        await no(stage, one.take(odd), "invalid_request")
    await ok(one)


async def test_a_proof_by_another_key(stage: Stage) -> None:
    one = await asked(stage)
    await no(stage, one.take(one.proof(by=one.act.by.with_new_key())), "invalid_proof")
    await no(stage, one.take(one.proof(by=await stage.actor("mcp-server/mallory"))), "invalid_proof")
    await no(stage, one.take(one.proof(by=await stage.actor("agent/chat"))), "invalid_proof")
    await ok(one)


async def test_a_proof_of_another_question_or_round(stage: Stage) -> None:
    one = await asked(stage)
    await no(stage, one.take(one.proof(args={**FORM, "message": "x" * 43})), "invalid_proof")
    await no(stage, one.take(one.proof(turn=2)), "wrong_state")
    await ok(one)


async def test_a_question_swapped_after_it_was_decided_on(stage: Stage) -> None:
    one = await asked(stage, "sampling")
    for swap in (
        {**PROMPT, "content": "x" * 43},
        {**PROMPT, "max_tokens": 9000},
        {**PROMPT, "tools": ["note"]},
    ):
        await no(stage, one.take(one.proof(), args=swap), "arguments_changed")
        await no(stage, one.take(one.proof(args=swap), args=swap), "arguments_changed")
    await no(stage, one.take(one.proof(), act="elicitation"), "arguments_changed")
    await ok(one)


async def test_the_same_act_twice(stage: Stage) -> None:
    one = await asked(stage)
    proof = one.proof()
    await one.take(proof)
    await no(stage, one.take(proof), "replay")
    await no(stage, one.take(one.proof()), "replay")


async def test_an_act_of_another_call_transaction_or_server(stage: Stage) -> None:
    one, other = await asked(stage), await asked(stage)
    await no(stage, one.take(one.proof(), below={other.call.step}), "invalid_token")
    await no(stage, one.take(one.proof(), below=set()), "invalid_token")
    ledger, audit = one.act.by, await stage.actor("mcp-server/audit")
    record = await ledger.open(one.call.step, "audit/record", args={})
    (await audit.accept(record)).ok()
    theirs = Asked(
        stage, one.call, await audit.open(record.step, "client/elicitation", args=FORM), "elicitation"
    )
    await no(stage, theirs.take(theirs.proof()), "wrong_workload")  # its client is the ledger
    await ok(one)
    await ok(other)


async def test_an_act_for_another_client(stage: Stage) -> None:
    one = await asked(stage)
    for at in ("agent/other", "mcp-server/mallory", "mcp-server/ledger", "agent/blue"):
        await no(stage, one.take(one.proof(), at=at), "wrong_workload", "not_found")
    await ok(one)


async def test_an_act_that_was_revoked_or_is_over(stage: Stage) -> None:
    one, other, third, fourth = [await asked(stage) for _ in range(4)]
    (await stage.mark("revoke", f"step:{one.act.step}")).ok()
    await no(stage, one.take(one.proof()), "revoked")
    (await stage.mark("revoke", f"step:{other.call.step}")).ok()
    await no(stage, other.take(other.proof()), "revoked")
    (await third.act.by.close(third.call.step)).ok()
    await no(stage, third.take(third.proof()), "closed")
    await ok(fourth)


async def test_an_act_that_comes_too_late(stage: Stage) -> None:
    one, other = await asked(stage), await asked(stage)
    await ok(other)
    stage.pass_time(70)
    await no(stage, one.take(one.proof()), "expired")


async def test_a_step_token_of_a_tools_call_is_no_act(stage: Stage) -> None:
    """The client is shown the very token that it made for the call, or that of another server's tool."""
    one, chat = await asked(stage), await stage.actor("agent/chat")
    own = Asked(stage, one.call, one.call, "elicitation")
    await no(stage, own.take(own.proof()), "wrong_workload")
    await ok(one)
    assert chat.id != one.act.by.id


# --- what the broker lets a server ask


async def test_a_server_that_is_not_named_for_it_does_not_sample(stage: Stage) -> None:
    chat, mallory = await stage.actors("agent/chat", "mcp-server/mallory")
    wish = {"tools": ["mallory/*", "audit/*"], "impact": "high"}
    root = await chat.intent(ceiling=_spec(wish))
    call = await chat.open(root["step"], "mallory/steal", args={})
    (await mallory.accept(call)).ok()
    for act in ("sampling", "url", "roots"):
        refused(stage, await mallory.open_reply(call.step, f"client/{act}", PROMPT), "ceiling")
    (await mallory.open_reply(call.step, "client/elicitation", FORM)).ok()
    own = await asked(stage, "sampling")
    await ok(own)


def _spec(wish: dict[str, Any]) -> Any:
    from stepwrit.wire import CeilingSpec

    return CeilingSpec(tools=tuple(wish["tools"]), impact=wish["impact"])


async def test_a_server_may_not_claim_whose_the_answer_is(stage: Stage) -> None:
    """It passes the sampled text off as a person's: below the act, beside it, or by saying so."""
    one = await asked(stage, "sampling", {**PROMPT, "tools": ["audit/record"]})
    ledger = one.act.by
    await ok(one)
    for origin in ("human", "model", "server"):
        refused(
            stage, await ledger.open_reply(one.call.step, "audit/record", origin=origin), "origin_claimed"
        )
    refused(stage, await ledger.open_reply(one.act.step, "audit/record"), "origin_claimed")
    root = stage.happened(one.call.txn, "intent.opened")[0].facts
    assert root is not None
    refused(stage, await ledger.open_reply(str(root["step"]), "audit/record"), "origin_claimed")
    beside = (await ledger.open_reply(one.call.step, "audit/record")).ok()
    assert beside["origin"] == "server"


async def test_picks_hold_to_the_offer_the_agent_the_server_and_the_call(stage: Stage) -> None:
    offer = ["note", "transfer", "audit/record", "audit/purge", "files/put", "*", "ledger/*", "client/url"]
    one = await asked(stage, "sampling", {**PROMPT, "tools": offer})
    chat = await stage.actor("agent/chat")
    await ok(one)
    for tool in ("ledger/note", "audit/record"):
        assert (await chat.open_reply(one.act.step, tool)).ok()["origin"] == "server"
    for tool in ("ledger/transfer", "files/put", "audit/purge", "ledger/lookup", "client/url"):
        refused(stage, await chat.open_reply(one.act.step, tool), "ceiling")
    wider = {"tools": ["ledger/*"], "impact": "high"}
    refused(stage, await chat.open_reply(one.act.step, "ledger/note", ceiling=wider), "ceiling")


async def test_a_pick_made_beside_the_act_is_caught_by_influence(stage: Stage) -> None:
    """A host that loses the act opens the pick under the intent. Then it is the model's, and it is on
    record that what a server asked for could have had a part in it.
    """
    one = await asked(stage, "sampling", {**PROMPT, "tools": ["audit/record"]})
    chat = await stage.actor("agent/chat")
    await ok(one)
    root = stage.happened(one.call.txn, "intent.opened")[0].facts
    assert root is not None
    beside = (await chat.open_reply(str(root["step"]), "audit/record")).ok()
    assert beside["origin"] == "model"
    assert influence(stage, one.call.txn) == [("ledger/note", "untrusted"), ("client/sampling", "untrusted")]


# --- on the real SDK


class Sure(BaseModel):
    sure: bool


def _tool(name: str) -> Tool:
    return Tool(name=name, input_schema={"type": "object"})


async def _server(stage: Stage, *offered: str) -> MCPServer:
    server = await server_of(stage)

    async def confirm() -> Elicit[Sure]:
        return Elicit("Really?", Sure)

    async def sample() -> Sample:
        message = SamplingMessage(role="user", content=TextContent(type="text", text="Summarise."))
        return Sample([message], max_tokens=50, tools=[_tool(each) for each in offered])

    @server.tool()
    async def lookup(
        thought: Annotated[CreateMessageResultWithTools, Resolve(sample)],
        sure: Annotated[Sure, Resolve(confirm)],
    ) -> str:
        return f"{current_step().origin} {sure.sure} {thought.model}"

    @server.tool()
    async def note(text: str = "") -> str:
        return f"noted for {current_step().origin}"

    return server


def _code(result: Any) -> str:
    assert result.is_error, result
    return str(result.meta[META_REFUSAL]["code"])


@both_eras
async def test_both_sides_together(stage: Stage, era: str) -> None:
    picks: list[Any] = []

    async def pick(_params: Any) -> None:
        picks.append(await mcp.call_tool("note", {"text": "x"}))
        picks.append(await mcp.call_tool("lookup"))

    host = Host(pick)
    async with guarded(stage, await _server(stage, "note", "transfer"), host, era) as (mcp, intent):
        result = await mcp.call_tool("lookup")
        assert result.content[0].text == "model True m"  # type: ignore[union-attr]
        assert picks[0].content[0].text == "noted for server"
        assert _code(picks[1]) == "ceiling"
        assert (await mcp.call_tool("note")).content[0].text == "noted for model"  # type: ignore[union-attr]
        opened = {str(e.facts["tool"]): e.facts for e in stage.happened(intent.txn, "step.opened") if e.facts}
    assert {"client/sampling", "client/elicitation"} <= opened.keys()
    assert all(opened[tool]["origin"] == "server" for tool in ("client/sampling", "client/elicitation"))
    assert {act.ended for act in host.acts} == {"done"}


@both_eras
async def test_a_proof_that_somebody_takes_away_or_swaps(stage: Stage, era: str) -> None:
    host, kept = Host(), list[Any]()

    def keep(proofs: Mapping[str, Any]) -> Mapping[str, Any]:
        kept.extend(proofs.values())
        return proofs

    server = await _server(stage)
    async with guarded(stage, server, host, era) as (mcp, _):
        Between(mcp, keep)
        assert not (await mcp.call_tool("lookup")).is_error
    shown = len(host.shown)

    def other_token(proofs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: {**each, "token": kept[0]["token"]} for key, each in proofs.items()}

    tries: list[Any] = [
        (lambda _: {}, ["no_step"]),
        (lambda proofs: dict.fromkeys(proofs, kept[0]), ["invalid_token", "arguments_changed"]),
        (other_token, ["invalid_proof", "invalid_token", "arguments_changed"]),
    ]
    for change, codes in tries:
        async with guarded(stage, server, host, era) as (mcp, intent):
            Between(mcp, change)
            result = await mcp.call_tool("lookup")
            assert _code(result) in codes
            assert len(host.shown) == shown
            (call,) = stage.happened(intent.txn, "step.opened")[:1]
            assert call.facts is not None
            revoked = [e for e in stage.broker.ledger.of_txn(intent.txn) if e.kind == "mark.set"]
            assert any(str(call.facts["step"]) in str(e.facts) for e in revoked), [
                e.kind for e in stage.broker.ledger.of_txn(intent.txn)
            ]


@both_eras
async def test_an_act_that_is_revoked_while_the_model_thinks(stage: Stage, era: str) -> None:
    async def revoke(_params: Any) -> None:
        (await stage.mark("revoke", f"step:{host.acts[-1].id}")).ok()

    host = Host()
    async with guarded(stage, await _server(stage), host, era) as (mcp, _):
        assert not (await mcp.call_tool("lookup")).is_error
        host.does = revoke
        if era == "2026-07-28":
            with pytest.raises(MCPError) as told:
                await mcp.call_tool("lookup")
            assert told.value.error.data[META_REFUSAL]["code"] == "revoked"
        else:
            assert _code(await mcp.call_tool("lookup")) == "revoked"
