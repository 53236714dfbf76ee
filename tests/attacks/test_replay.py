"""Whatever was used once is shown again."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.stage import (
    Actor,
    Reply,
    Stage,
    accept_body,
    credential_form,
    new,
    redeem_body,
    redeemed,
    refused,
)

# --- credentials


async def test_a_credential_shown_again_with_the_same_proof_is_refused(stage: Stage) -> None:
    held = await stage.held()
    body = redeem_body(held.token, held.ledger)
    (await held.bank.json("/v1/redeem", body)).ok()
    refused(stage, await held.bank.json("/v1/redeem", body), "replay")
    assert redeemed(stage, held.txn) == 1


async def test_a_credential_shown_again_with_a_new_proof_is_refused(stage: Stage) -> None:
    held = await stage.held()
    (await held.redeem()).ok()
    refused(stage, await held.redeem(), "replay")
    assert redeemed(stage, held.txn) == 1


async def test_a_credential_used_at_one_replica_is_refused_at_another(stage: Stage) -> None:
    held, other = await stage.held(), await stage.actor("resource/bank/2")
    (await held.redeem()).ok()
    told = refused(stage, await other.redeem(held.token, held.ledger), "replay")
    assert told.facts is not None
    assert told.facts["rule"] == "replay_foreign"
    assert redeemed(stage, held.txn) == 1


async def test_thirty_two_at_once_at_two_replicas_give_one_go_ahead(stage: Stage) -> None:
    held, other = await stage.held(), await stage.actor("resource/bank/2")
    await other.heartbeat("stp_100" + "0" * 26)  # its connection stands before the race
    tries = [(held.bank if n % 2 else other).redeem(held.token, held.ledger) for n in range(32)]
    replies = await asyncio.gather(*tries)
    assert sorted(reply.status for reply in replies) == [200] + [403] * 31
    for reply in replies:
        if reply.status != 200:
            refused(stage, reply, "replay")
    assert redeemed(stage, held.txn) == 1


async def test_another_replica_cannot_repeat_a_redeem_by_its_operation_id(stage: Stage) -> None:
    held, other, op = await stage.held(), await stage.actor("resource/bank/2"), new()
    body = redeem_body(held.token, held.ledger)
    first = (await held.bank.json("/v1/redeem", body, op=op)).ok()
    assert (await held.bank.json("/v1/redeem", body, op=op)).ok() == first
    refused(stage, await other.json("/v1/redeem", body, op=op), "replay")
    assert redeemed(stage, held.txn) == 1


async def test_an_operation_id_of_a_redeem_serves_no_other_credential(stage: Stage) -> None:
    first, second, op = await stage.held(), await stage.held(), new()
    (await first.redeem(op=op)).ok()
    refused(stage, await second.redeem(op=op), "operation_reused")
    (await second.redeem()).ok()


async def test_a_presenters_proof_is_not_good_for_a_second_credential(stage: Stage) -> None:
    first, second = await stage.held(), await stage.held()
    body = redeem_body(first.token, first.ledger)
    (await first.bank.json("/v1/redeem", body)).ok()
    mixed = body | {"token": second.token}
    refused(stage, await second.bank.json("/v1/redeem", mixed), "invalid_proof")
    (await second.redeem()).ok()


async def test_a_spent_credential_is_not_minted_again_for_its_operation(stage: Stage) -> None:
    opened, ledger = await stage.accepted(), await stage.actor("mcp-server/ledger")
    op, bank = new(), await stage.actor("resource/bank/1")
    first = (await ledger.credential(opened.step, op=op)).ok()
    again = (await ledger.credential(opened.step, op=op)).ok()
    assert again["grant"] == first["grant"]
    (await bank.redeem(first["access_token"], ledger)).ok()
    refused(stage, await bank.redeem(again["access_token"], ledger), "replay")
    refused(stage, await ledger.credential(opened.step, op=op), "replay")
    assert redeemed(stage, opened.txn) == 1


# --- key proofs


async def test_a_dpop_proof_opens_one_step(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    proof = chat.proof("/v1/steps")
    (await chat.open_reply(root["step"], proof=proof)).ok()
    refused(stage, await chat.open_reply(root["step"], proof=proof), "replay")
    assert len(stage.happened(root["txn"], "step.opened")) == 1
    (await chat.open_reply(root["step"])).ok()


async def test_a_dpop_proof_starts_one_intent(stage: Stage) -> None:
    chat, proof = await stage.actor("agent/chat"), (await stage.actor("agent/chat")).proof("/oauth/token")
    mint = stage.issuer.mint
    (await chat.form(chat.intent_form(mint("alice", client_id="chat-app")), proof=proof)).ok()
    unused = mint("alice", client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(unused), proof=proof), "replay")
    (await chat.form(chat.intent_form(unused))).ok()


async def test_a_dpop_proof_gets_one_credential(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/transfer_twice"), await stage.actor("mcp-server/ledger")
    proof = ledger.proof("/oauth/token")
    (await ledger.credential(opened.step, proof=proof)).ok()
    refused(stage, await ledger.credential(opened.step, proof=proof), "replay")
    assert len(stage.happened(opened.txn, "grant.issued")) == 1
    (await ledger.credential(opened.step)).ok()


@pytest.mark.parametrize("spoil", ["old", "future", "other path", "other method", "other host"])
async def test_a_dpop_proof_for_another_request_or_time_is_refused(stage: Stage, spoil: str) -> None:
    import time

    chat, root = await stage.actor("agent/chat"), await stage.root()
    proofs = {
        "old": chat.proof("/v1/steps", at=time.time() - 120),
        "future": chat.proof("/v1/steps", at=time.time() + 120),
        "other path": chat.proof("/oauth/token"),
        "other method": chat.proof("/v1/steps", "GET"),
        "other host": chat.proof("/v1/steps", base="https://evil.example"),
    }
    refused(stage, await chat.open_reply(root["step"], proof=proofs[spoil]), "invalid_proof")
    (await chat.open_reply(root["step"])).ok()
    assert len(stage.happened(root["txn"], "step.opened")) == 1


async def test_a_step_proof_and_its_token_are_accepted_once(stage: Stage) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    body = accept_body(opened)
    (await ledger.json(f"/v1/steps/{opened.step}/accept", body)).ok()
    refused(stage, await ledger.json(f"/v1/steps/{opened.step}/accept", body), "replay")
    refused(stage, await ledger.accept(opened), "replay")
    assert len(stage.happened(opened.txn, "step.accepted")) == 1


async def test_a_round_that_is_over_cannot_be_taken_again(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    (await ledger.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})).ok()
    refused(stage, await ledger.accept(opened), "replay")
    path = f"/v1/steps/{opened.step}/accept"
    refused(stage, await ledger.json(path, accept_body(opened, turn=3)), "wrong_state")
    (await ledger.json(path, accept_body(opened, turn=2))).ok()
    assert len(stage.happened(opened.txn, "grant.self")) == 1


# --- operation ids


async def _open(by: Actor, parent: str, op: str, tool: str = "ledger/transfer") -> Reply:
    return await by.open_reply(parent, tool, op=op)


async def test_an_operation_id_with_other_content_changes_nothing(stage: Stage) -> None:
    chat, root, op = await stage.actor("agent/chat"), await stage.root(), new()
    (await _open(chat, root["step"], op)).ok()
    refused(stage, await _open(chat, root["step"], op, "ledger/note"), "operation_reused")
    assert len(stage.happened(root["txn"], "step.opened")) == 1


async def test_another_key_of_the_caller_does_not_get_the_first_answer(stage: Stage) -> None:
    chat, root, op = await stage.actor("agent/chat"), await stage.root(), new()
    first = (await _open(chat, root["step"], op)).ok()
    second = (await _open(chat.with_new_key(), root["step"], op)).ok()
    assert first["step"] != second["step"]


async def test_another_caller_gets_nothing_by_an_operation_id(stage: Stage) -> None:
    held, op = await stage.held(), new()
    chat, other, root = await stage.actor("agent/chat"), await stage.actor("agent/other"), await stage.root()
    (await _open(chat, root["step"], op)).ok()
    refused(stage, await _open(other, root["step"], op), "wrong_workload", "not_found")
    mallory, form = await stage.actor("mcp-server/mallory"), credential_form(held.step)
    refused(stage, await mallory.form(form, op=op), "wrong_workload", "not_found")
    (await held.redeem()).ok()


async def test_thirty_two_equal_tries_open_one_step(stage: Stage) -> None:
    chat, root, op = await stage.actor("agent/chat"), await stage.root(), new()
    replies = await asyncio.gather(*(_open(chat, root["step"], op) for _ in range(32)))
    assert len({reply.ok()["step"] for reply in replies}) == 1
    assert len(stage.happened(root["txn"], "step.opened")) == 1


async def test_a_refused_try_leaves_its_operation_id_unused(stage: Stage) -> None:
    chat, root, op = await stage.actor("agent/chat"), await stage.root(), new()
    refused(stage, await _open(chat, root["step"], op, "ledger/nothing"), "not_registered")
    (await _open(chat, root["step"], op)).ok()


# --- plans


async def test_a_plan_is_used_as_often_as_it_says(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/transfer_twice"), await stage.actor("mcp-server/ledger")
    bank = await stage.actor("resource/bank/1")
    tokens = [(await ledger.credential(opened.step)).ok()["access_token"] for _ in range(2)]
    refused(stage, await ledger.credential(opened.step), "plan")
    for token in tokens:
        (await bank.redeem(token, ledger)).ok()
    refused(stage, await ledger.credential(opened.step), "plan")
    assert redeemed(stage, opened.txn) == 2


async def test_thirty_two_requests_at_once_get_what_the_plan_has(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/transfer_twice"), await stage.actor("mcp-server/ledger")
    replies = await asyncio.gather(*(ledger.credential(opened.step) for _ in range(32)))
    assert sorted(reply.status for reply in replies) == [200] * 2 + [403] * 30
    assert len(stage.happened(opened.txn, "grant.issued")) == 2
