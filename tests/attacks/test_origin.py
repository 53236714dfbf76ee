"""Who started it is derived, never claimed, and never rises; what may be started only narrows."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.stage import ENTRIES, Opened, Stage, refused

from stepwrit.wire import CeilingSpec

HIGH = {"tools": ["ledger/*", "audit/*", "files/*"], "impact": "high"}


async def test_each_origin_is_what_the_channel_says(stage: Stage) -> None:
    root = await stage.root()
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    (await chat.open_reply(root["step"])).ok()
    model = await stage.accepted()
    told = (await ledger.open_reply(model.step, "audit/record")).ok()
    assert (root["origin"], told["origin"]) == ("human", "server")
    assert [e.facts["origin"] for e in stage.happened(model.txn, "step.opened") if e.facts] == [
        "model",
        "server",
    ]


@pytest.mark.parametrize("origin", ["human", "model", "server"])
@pytest.mark.parametrize("who", ["agent/chat", "mcp-server/ledger"])
async def test_an_origin_cannot_be_sent(stage: Stage, who: str, origin: str) -> None:
    model = await stage.accepted()
    by = await stage.actor(who)
    parent = (await stage.root())["step"] if who == "agent/chat" else model.step
    refused(stage, await by.open_reply(parent, "audit/record", origin=origin), "origin_claimed")
    (await by.open_reply(parent, "audit/record")).ok()


async def test_a_server_cannot_take_the_models_place_under_its_root(stage: Stage) -> None:
    model, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    root = stage.happened(model.txn, "intent.opened")[0].facts
    assert root is not None
    refused(stage, await ledger.open_reply(str(root["step"]), "audit/record"), "origin_claimed")
    (await ledger.open_reply(model.step, "audit/record")).ok()


async def test_a_server_cannot_open_below_another_servers_step(stage: Stage) -> None:
    model, mallory = await stage.accepted(), await stage.actor("mcp-server/mallory")
    refused(stage, await mallory.open_reply(model.step, "audit/record"), "origin_claimed")
    refused(stage, await mallory.open_reply("stp_100" + "0" * 26, "audit/record"), "not_found")
    (await (await stage.actor("mcp-server/ledger")).open_reply(model.step, "audit/record")).ok()


async def test_an_agent_cannot_lend_its_origin_to_what_a_server_started(stage: Stage) -> None:
    """model → server → the agent again, by the one thing that it performs for a server: an elicitation."""
    model = await stage.accepted()
    ledger, chat = await stage.actor("mcp-server/ledger"), await stage.actor("agent/chat")
    asked = await ledger.open(model.step, "client/elicitation", args={"question": "really?"})
    assert (await chat.accept(asked)).ok()["origin"] == "server"
    for tool in ("ledger/transfer", "audit/record", "ledger/note"):
        refused(stage, await chat.open_reply(asked.step, tool), "ceiling", "policy")
    refused(stage, await chat.open_reply(asked.step, "client/elicitation"), "ceiling")
    assert all(e.facts["origin"] == "server" for e in stage.happened(model.txn, "step.opened")[1:] if e.facts)


async def test_below_a_servers_step_everything_is_the_servers(stage: Stage) -> None:
    model = await stage.accepted()
    ledger, audit = await stage.actor("mcp-server/ledger"), await stage.actor("mcp-server/audit")
    record = await ledger.open(model.step, "audit/record", args={"month": "x"})
    (await audit.accept(record)).ok()
    asked = (await audit.open_reply(record.step, "client/elicitation")).ok()
    assert (asked["origin"], asked["performer"]) == ("server", ledger.id)
    refused(stage, await audit.open_reply(record.step, "ledger/note"), "ceiling")  # the way back is not open


async def test_below_a_trigger_an_agent_is_no_model(stage: Stage) -> None:
    nightly, ledger = await stage.actor("trigger/nightly"), await stage.actor("mcp-server/ledger")
    root = (await nightly.form(nightly.intent_form(None))).ok()
    assert (await nightly.open_reply(root["step"], "ledger/note")).ok()["origin"] == "server"
    refused(stage, await nightly.open_reply(root["step"], "ledger/transfer"), "policy")
    step = await nightly.open(root["step"], "ledger/note")
    (await ledger.accept(step)).ok()
    asked = (await ledger.open_reply(step.step, "client/elicitation")).ok()
    assert asked["origin"] == "server"


# --- ceilings


async def test_a_ceiling_is_the_persons_wish_within_the_registry(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    wish = CeilingSpec(tools=("*",), impact="high")
    root = await chat.intent(ceiling=wish)
    assert root["ceiling"] == {"tools": ["audit/*", "files/*", "ledger/*"], "impact": "high"}
    refused(stage, await chat.open_reply(root["step"], "mallory/steal"), "ceiling")
    (await chat.open_reply(root["step"])).ok()


async def test_an_intent_for_what_the_registry_does_not_give_is_refused(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    token = stage.issuer.mint("alice", client_id="chat-app")
    for tools in (("mallory/*",), (), ("vault/read",)):
        wish = CeilingSpec(tools=tools, impact="high")
        refused(stage, await chat.form(chat.intent_form(token, ceiling=wish)), "ceiling")
    (await chat.form(chat.intent_form(token))).ok()


async def test_a_child_stays_within_the_wish(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    root = await chat.intent(ceiling=CeilingSpec(tools=("ledger/note",), impact="low"))
    for tool in ("ledger/transfer", "audit/record", "ledger/lookup"):
        refused(stage, await chat.open_reply(root["step"], tool), "ceiling")
    (await chat.open_reply(root["step"], "ledger/note")).ok()


WIDER: list[dict[str, Any]] = [
    {"tools": ["*"], "impact": "low"},
    {"tools": ["ledger/*", "audit/*"], "impact": "low"},
    {"tools": ["audit/record"], "impact": "high"},
    {"tools": ["mallory/steal"], "impact": "low"},
]


@pytest.mark.parametrize("wider", WIDER, ids=str)
async def test_a_childs_ceiling_cannot_be_wider_than_its_parents(stage: Stage, wider: dict[str, Any]) -> None:
    chat = await stage.actor("agent/chat")
    root = await chat.intent(ceiling=CeilingSpec(tools=("ledger/transfer", "audit/record"), impact="medium"))
    refused(stage, await chat.open_reply(root["step"], ceiling=wider), "ceiling")
    narrow = {"tools": ["audit/record"], "impact": "low"}
    (await chat.open_reply(root["step"], ceiling=narrow)).ok()


async def _accepted(stage: Stage, wish: CeilingSpec, **more: Any) -> Opened:
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    opened = await chat.open((await chat.intent(ceiling=wish))["step"], "ledger/note", **more)
    (await ledger.accept(opened)).ok()
    return opened


async def test_a_server_starts_only_what_registry_and_parent_both_allow(stage: Stage) -> None:
    ledger, wide = (
        await stage.actor("mcp-server/ledger"),
        CeilingSpec(tools=("ledger/*", "audit/*"), impact="high"),
    )
    step = await _accepted(stage, wide)
    (await ledger.open_reply(step.step, "audit/record")).ok()
    refused(stage, await ledger.open_reply(step.step, "ledger/note"), "ceiling")  # not in its may_start
    refused(stage, await ledger.open_reply(step.step, "audit/purge"), "ceiling")  # of too high impact there
    narrow = await _accepted(stage, CeilingSpec(tools=("ledger/note",), impact="low"))
    refused(stage, await ledger.open_reply(narrow.step, "audit/record"), "ceiling")
    told = await _accepted(stage, wide, ceiling={"tools": [], "impact": "low"})
    refused(stage, await ledger.open_reply(told.step, "audit/record"), "ceiling")


async def test_a_server_without_may_start_starts_nothing(stage: Stage) -> None:
    chat, files = await stage.actor("agent/chat"), await stage.actor("mcp-server/files/1")
    opened = await chat.open((await chat.intent())["step"], "files/put")
    (await files.accept(opened)).ok()
    refused(stage, await files.open_reply(opened.step, "audit/record"), "ceiling")


async def test_a_server_starts_nothing_of_more_than_low_impact_whatever_the_registry_says(
    stage: Stage,
) -> None:
    """mallory's may_start reaches to high; the policy does not."""
    allowed = [each | {"may_start": HIGH} if each["id"] == "mcp-server/ledger" else each for each in ENTRIES]
    stage.write_registry(allowed)
    try:
        await stage.broker.files.apply("registry")
        model, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
        (await ledger.open_reply(model.step, "audit/record")).ok()
        refused(stage, await ledger.open_reply(model.step, "audit/purge"), "policy")
        refused(stage, await ledger.open_reply(model.step, "ledger/wipe"), "policy")
    finally:
        stage.write_registry(ENTRIES)
        await stage.broker.files.apply("registry")


async def test_high_impact_waits_for_an_approval(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    waits = (await chat.open_reply(root["step"], "ledger/wipe")).refusal
    assert (waits["code"], waits["approval"]["id"][:4]) == ("authorization_pending", "apr_")
    (await chat.open_reply(root["step"], "ledger/transfer")).ok()


async def test_a_step_nobody_accepted_has_no_children_and_no_credential(stage: Stage) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    refused(
        stage,
        await ledger.open_reply(opened.step, "audit/record"),
        "wrong_state",
        "origin_claimed",
        "not_found",
    )
    refused(stage, await ledger.credential(opened.step), "wrong_state")
    (await ledger.accept(opened)).ok()
    (await ledger.credential(opened.step)).ok()


async def test_depth_and_fan_out_end_somewhere(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    root = await chat.intent(budget=_budget(steps=3))
    for _ in range(3):
        (await chat.open_reply(root["step"], "ledger/note")).ok()
    refused(stage, await chat.open_reply(root["step"], "ledger/note"), "limit")


async def test_the_servers_steps_of_a_transaction_are_counted(stage: Stage) -> None:
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    root = await chat.intent(budget=_budget(server_steps=1))
    opened = await chat.open(root["step"], "ledger/note")
    (await ledger.accept(opened)).ok()
    (await ledger.open_reply(opened.step, "audit/record")).ok()
    refused(stage, await ledger.open_reply(opened.step, "audit/record"), "limit")
    (await chat.open_reply(root["step"], "ledger/note")).ok()


async def test_a_budget_only_lowers_what_the_operator_allows(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    root = await chat.intent(budget=_budget(steps=10**6, server_steps=10**6, depth=10**6))
    record = await stage.broker.store.step(root["step"])
    assert record is not None
    intent = record.step.intent
    assert (intent.steps_max, intent.server_steps_max, intent.depth_max) == (200, 20, 8)
    none = await chat.intent(budget=_budget(steps=-5))
    refused(stage, await chat.open_reply(none["step"], "ledger/note"), "limit")


def _budget(**most: int) -> Any:
    from stepwrit.wire import Budget

    return Budget(**most)


async def test_a_cause_is_the_name_of_a_step_and_no_story(stage: Stage) -> None:
    nightly, held = await stage.actor("trigger/nightly"), await stage.held()
    (await nightly.form(nightly.intent_form(None, cause=held.step))).ok()
    for cause in ("approved by bob", "x" * 70_000, held.txn, ""):
        refused(stage, await nightly.form(nightly.intent_form(None, cause=cause)), "invalid_request")
