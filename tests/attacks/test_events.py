"""Laundering through events: a trigger's root that came of a step is held to that step."""

from __future__ import annotations

import pytest
from tests.fakes.stage import Actor, Opened, Reply, Stage, refused

from stepwrit.wire import Budget, CeilingSpec


async def event(nightly: Actor, cause: str, **terms: object) -> Reply:
    return await nightly.form(nightly.intent_form(None, cause=cause, **terms))


async def ledger_step(stage: Stage, root: str) -> Opened:
    """A step below a trigger's root, accepted by the server that makes the next event."""
    opened = await (await stage.actor("trigger/nightly")).open(root, "ledger/note")
    (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
    return opened


@pytest.mark.parametrize("state", ["accepted", "done"])
async def test_a_revoked_cause_starts_nothing_and_what_it_started_ends(stage: Stage, state: str) -> None:
    nightly, cause = await stage.actor("trigger/nightly"), await stage.accepted()
    if state == "done":
        (await (await stage.actor("mcp-server/ledger")).close(cause.step)).ok()
    begun = (await event(nightly, cause.step)).ok()
    assert begun["origin"] == "server"
    held = await ledger_step(stage, begun["step"])
    (await stage.mark("revoke", f"txn:{cause.txn}")).ok()
    refused(stage, await event(nightly, cause.step), "revoked")
    refused(stage, await nightly.open_reply(begun["step"], "ledger/note"), "revoked")
    refused(stage, await (await stage.actor("mcp-server/ledger")).heartbeat(held.step), "revoked")


async def test_a_ring_of_events_runs_out_of_depth(stage: Stage) -> None:
    nightly, cause = await stage.actor("trigger/nightly"), await stage.accepted()
    for _ in range(3):
        cause = await ledger_step(stage, (await event(nightly, cause.step)).ok()["step"])
    entry = refused(stage, await event(nightly, cause.step), "limit")
    assert entry.facts is not None
    assert entry.facts["rule"] == "cause"


async def test_events_do_not_refill_a_budget(stage: Stage) -> None:
    chat, nightly = await stage.actor("agent/chat"), await stage.actor("trigger/nightly")
    root = await chat.intent(budget=Budget(steps=2))
    opened = await chat.open(root["step"], "ledger/note")
    (await (await stage.actor("mcp-server/ledger")).accept(opened)).ok()
    begun = (await event(nightly, opened.step, budget=Budget(steps=50))).ok()
    (await nightly.open_reply(begun["step"], "ledger/note")).ok()
    refused(stage, await nightly.open_reply(begun["step"], "ledger/note"), "limit")


async def test_a_cause_of_another_tenant_or_of_nobodys_is_none(stage: Stage) -> None:
    nightly, cause = await stage.actor("trigger/nightly"), await stage.accepted()
    (await event(nightly, cause.step)).ok()
    blue = await stage.actor("agent/blue")
    theirs = await blue.open(
        (await blue.intent(ceiling=CeilingSpec(tools=("vault/*",), impact="low")))["step"], "vault/read"
    )
    (await (await stage.actor("mcp-server/vault")).accept(theirs)).ok()
    unaccepted = await stage.opened()
    said = {
        reply.refusal["reason"]
        for reply in (
            await event(nightly, theirs.step),
            await event(nightly, unaccepted.step),
            await event(nightly, "stp_100" + "0" * 26),
        )
        if refused(stage, reply, "not_found")
    }
    assert len(said) == 1  # which of the three it is cannot be told apart


async def test_only_a_trigger_names_a_cause_and_never_its_ceiling(stage: Stage) -> None:
    chat, nightly, cause = (
        await stage.actor("agent/chat"),
        await stage.actor("trigger/nightly"),
        await stage.accepted(),
    )
    begun = (await event(nightly, cause.step)).ok()
    assert begun["ceiling"] == {"tools": ["ledger/*"], "impact": "medium"}
    token = stage.issuer.mint("alice", client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(token, cause=cause.step)), "invalid_request")
