"""A server that starts its own transactions for calls without a step gets that one call of it, and nobody."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest_asyncio
from tests.fakes.stage import ENTRIES, Actor, Opened, Reply, Stage, refused

from stepwrit.wire import CeilingSpec
from stepwrit_broker.flows.explain import explain

OPEN = {"impact": "low", "plan": "self", "without_step": "root"}
NOBODY = CeilingSpec(tools=(), impact="low")


def _entries() -> list[dict[str, Any]]:
    """ledger/ping and audit/ping may be called without a step."""
    own = {"mcp-server/ledger", "mcp-server/audit"}
    return [
        each | {"tools": each["tools"] | {"ping": OPEN, "pong": OPEN}} if each["id"] in own else each
        for each in ENTRIES
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(entries=_entries()) as stage:
        yield stage


async def ask(who: Actor, tool: str | None = "ping", id_token: str | None = None, **terms: Any) -> Reply:
    """A root for a call without a step."""
    wish: dict[str, Any] = {"ceiling": NOBODY, "without_step": tool, **terms}
    return await who.form(who.intent_form(id_token, **wish))


async def rooted(who: Actor, tool: str = "ping") -> Opened:
    """The call itself, opened and accepted by the server that got it."""
    root = (await ask(who, tool)).ok()
    made = await who.open(root["step"], root["tool"])
    (await who.accept(made)).ok()
    return made


async def test_one_call_is_the_servers_alone_and_the_story_says_so(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    root = (await ask(ledger, purpose="alice told me to")).ok()
    assert (root["origin"], root["proof"], root["tool"]) == ("server", None, "ledger/ping")
    assert root["ceiling"] == {"tools": ["audit/*", "ledger/ping"], "impact": "low"}
    assert root["ends_at"] <= stage.now() + 900
    made = await ledger.open(root["step"], "ledger/ping")
    (await ledger.accept(made)).ok()
    for step in (made.step, root["step"]):
        (await ledger.close(step)).ok()
    story = explain(stage.broker.ledger, made.txn, None)
    told: Mapping[str, Any] = story["root"]  # type: ignore[assignment]
    assert (told["without_step"], told["requester"], told["owner"]) == ("ledger/ping", None, None)
    assert told["purpose"] == "a call of ledger/ping that came without a step"
    assert "alice" not in json.dumps(story)


async def test_tools_without_the_setting_and_of_others_are_not_to_be_had(stage: Stage) -> None:
    ledger, mallory = await stage.actor("mcp-server/ledger"), await stage.actor("mcp-server/mallory")
    (await ask(ledger)).ok()
    for tool in ("note", "transfer", "wipe", "record", "ledger/ping", "audit/ping", "*", "", "no-such"):
        refused(stage, await ask(ledger, tool), "no_step")
    refused(stage, await ask(mallory), "no_step")
    refused(stage, await ask(mallory, "steal"), "no_step")


async def test_nobody_but_a_tool_server_starts_such_a_root(stage: Stage) -> None:
    (await ask(await stage.actor("mcp-server/ledger"))).ok()
    token = stage.issuer.mint("alice", client_id="chat-app")
    chat = await stage.actor("agent/chat")
    refused(stage, await ask(chat), "invalid_request")
    nightly = await stage.actor("trigger/nightly")
    refused(stage, await ask(nightly), "invalid_request")
    refused(stage, await ask(await stage.actor("resource/shop")), "invalid_request")
    (await chat.form(chat.intent_form(token))).ok()


async def test_an_intent_of_an_agent_cannot_be_passed_off_as_one(stage: Stage) -> None:
    """With a person's proof the setting would only blur whose transaction it is."""
    chat = await stage.actor("agent/chat")
    token = stage.issuer.mint("alice", client_id="chat-app")
    refused(stage, await ask(chat, id_token=token), "invalid_request")
    (await chat.form(chat.intent_form(token))).ok()  # and the proof is not used up


async def test_a_server_gets_no_person(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    (await ask(ledger)).ok()
    token = stage.issuer.mint("alice", client_id="chat-app")
    refused(stage, await ask(ledger, id_token=token), "origin_claimed")
    refused(stage, await ask(ledger, None), "origin_claimed")
    chat = await stage.actor("agent/chat")
    (await chat.form(chat.intent_form(token))).ok()


async def test_below_it_nothing_is_of_more_than_low_impact_and_nothing_is_approved(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    made = await rooted(ledger)
    (await ledger.open_reply(made.step, "audit/record")).ok()
    refused(stage, await ledger.open_reply(made.step, "audit/purge"), "ceiling")
    refused(stage, await ledger.open_reply(made.step, "ledger/wipe"), "ceiling")
    root = (await ask(ledger, ceiling=CeilingSpec(tools=("*",), impact="high"))).ok()
    assert root["ceiling"]["impact"] == "low"
    refused(stage, await ledger.open_reply(root["step"], "ledger/wipe"), "ceiling")
    assert not stage.happened(made.txn, "approval.asked")


async def test_such_a_root_has_one_child_which_is_the_call(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    root = (await ask(ledger)).ok()
    for other in ("ledger/pong", "audit/record", "audit/ping", "client/elicitation", "ledger/note"):
        refused(stage, await ledger.open_reply(root["step"], other), "ceiling")
    made = await ledger.open(root["step"], "ledger/ping")
    refused(stage, await ledger.open_reply(root["step"], "ledger/ping"), "limit")
    (await ledger.accept(made)).ok()
    refused(stage, await ledger.open_reply(made.step, "ledger/ping"), "ceiling")  # not in its may_start


async def test_another_server_can_do_nothing_with_it(stage: Stage) -> None:
    ledger, audit = await stage.actor("mcp-server/ledger"), await stage.actor("mcp-server/audit")
    root = (await ask(ledger)).ok()
    refused(stage, await audit.open_reply(root["step"], "ledger/ping"), "origin_claimed")
    refused(stage, await audit.open_reply(root["step"], "audit/ping"), "origin_claimed")
    made = await ledger.open(root["step"], "ledger/ping")
    refused(stage, await audit.accept(made), "wrong_workload")
    (await ledger.accept(made)).ok()


async def test_what_is_no_longer_allowed_is_refused_at_the_child_too(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    root = (await ask(ledger)).ok()
    closed = [
        each | {"tools": each["tools"] | {"ping": {"impact": "low", "plan": "self"}}}
        if "tools" in each
        else each
        for each in _entries()
    ]
    stage.write_registry(closed)
    await stage.broker.files.apply("registry")
    try:
        refused(stage, await ledger.open_reply(root["step"], "ledger/ping"), "ceiling")
        refused(stage, await ask(ledger), "no_step")
    finally:
        stage.write_registry(_entries())
        await stage.broker.files.apply("registry")
    (await ledger.open_reply(root["step"], "ledger/ping")).ok()


async def test_it_is_charged_to_the_server_and_ends_by_itself(stage: Stage) -> None:
    ledger = await stage.actor("mcp-server/ledger")
    made = await rooted(ledger)
    root = (await stage.broker.store.step(made.step)).step.parent  # type: ignore[union-attr]
    opened = await stage.broker.store.step(str(root))
    assert opened is not None
    assert opened.step.expires_at <= stage.now() + 900
    (await ledger.close(str(root))).ok()
    refused(stage, await ledger.heartbeat(made.step), "closed", "already_done")


async def test_what_waits_for_a_person_elsewhere_is_simply_refused_here(stage: Stage) -> None:
    rule = """
@id("notes-signed")
@verdict("needs_approval")
@setting("test")
forbid (principal, action == Stepwrit::Action::"open_step", resource)
when { context.action.tool == "audit/record" } unless { context has approval };
"""
    async with Stage(entries=_entries(), rules={"90-notes.cedar": rule}) as strict:
        chat, ledger = await strict.actor("agent/chat"), await strict.actor("mcp-server/ledger")
        held = await chat.open((await strict.root())["step"], "ledger/note")
        (await ledger.accept(held)).ok()
        assert (await ledger.open_reply(held.step, "audit/record")).code == "authorization_pending"
        made = await rooted(ledger)
        refused(strict, await ledger.open_reply(made.step, "audit/record"), "approval_required")
