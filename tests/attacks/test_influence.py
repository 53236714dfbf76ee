"""What had a part in a step is what the broker saw, whatever an agent, a server or a long story says."""

from __future__ import annotations

from typing import Any

from tests.fakes.stage import Stage, refused


def influence(stage: Stage, txn: str) -> list[tuple[str, str]]:
    """Of the transaction's last step that was decided on: tools, and whether anybody vouches for them."""
    last = stage.happened(txn, "step.opened")[-1].facts
    assert last is not None
    kept: Any = stage.broker.ledger.decision(str(last["decision"]))
    return [(each["tool"], each["returns"]) for each in kept["document"]["influence"]]


async def test_an_agent_cannot_hide_what_it_read_by_choosing_another_parent(stage: Stage) -> None:
    """The injected text came with step 1; step 2 is opened under the root, as if nothing had been read."""
    root, chat = await stage.root(), await stage.actor("agent/chat")
    await chat.open(root["step"], "ledger/lookup")
    await chat.open(root["step"], "files/put")
    assert influence(stage, root["txn"]) == [("ledger/lookup", "untrusted")]


async def test_an_agent_that_is_not_believed_cannot_narrow(stage: Stage) -> None:
    root, chat = await stage.root(), await stage.actor("agent/chat")
    await chat.open(root["step"], "ledger/lookup")
    for claim in ([], ["stp_100" + "0" * 26]):
        refused(stage, await chat.open_reply(root["step"], "files/put", influence=claim), "influence_claimed")
    await chat.open(root["step"], "files/put")
    assert influence(stage, root["txn"]) == [("ledger/lookup", "untrusted")]


async def test_a_server_cannot_narrow(stage: Stage) -> None:
    model, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    refused(stage, await ledger.open_reply(model.step, "audit/record", influence=[]), "influence_claimed")
    (await ledger.open_reply(model.step, "audit/record")).ok()
    assert influence(stage, model.txn) == [("ledger/transfer", "untrusted")]


async def test_a_server_that_answers_without_accepting_is_counted_all_the_same(stage: Stage) -> None:
    """It never tells the broker that it runs: its answer reaches the model nevertheless."""
    root, chat = await stage.root(), await stage.actor("agent/chat")
    await chat.open(root["step"], "ledger/lookup")
    assert not stage.happened(root["txn"], "step.accepted")
    await chat.open(root["step"], "ledger/transfer")
    assert influence(stage, root["txn"]) == [("ledger/lookup", "untrusted")]


async def test_what_a_server_read_below_its_step_is_the_agents_influence_too(stage: Stage) -> None:
    model, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    (await ledger.open_reply(model.step, "audit/record")).ok()
    chat = await stage.actor("agent/chat")
    opened = stage.happened(model.txn, "intent.opened")[0].facts
    assert opened is not None
    await chat.open(str(opened["step"]), "files/put")
    assert influence(stage, model.txn) == [("ledger/transfer", "untrusted"), ("audit/record", "untrusted")]


async def test_no_number_of_harmless_steps_pushes_one_out_of_sight(stage: Stage) -> None:
    root, chat = await stage.root(), await stage.actor("agent/chat")
    await chat.open(root["step"], "ledger/lookup")
    for _ in range(40):
        await chat.open(root["step"], "ledger/note")
    await chat.open(root["step"], "files/put")
    assert influence(stage, root["txn"]) == [("ledger/lookup", "untrusted"), ("ledger/note", "untrusted")]
