"""RFC 7009: a client ends what was issued to it, and nothing else."""

from __future__ import annotations

import jwt
import pytest
from tests.fakes.bearer import Bearer
from tests.fakes.stage import Stage, credential_form, new, redeemed, refused
from tests.oauth.standard import FORM, WORKER, ask, bearers_step, introspected, is_active, revoked


async def test_a_performer_ends_its_credential_and_it_opens_nothing_more(stage: Stage) -> None:
    held, other = await stage.held(), await stage.held()
    assert await is_active(held)
    reply = await revoked(held.ledger, held.token)
    assert (reply.status, reply.body) == (200, {})
    assert not await is_active(held)
    refused(stage, await held.redeem(), "revoked")
    assert redeemed(stage, held.txn) == 0
    (entry,) = stage.happened(held.txn, "mark.set")
    assert entry.facts is not None
    assert (entry.facts["target"], entry.facts["by"]) == (f"grant:{held.grant}", held.ledger.id)
    assert (await other.redeem()).ok(), "another credential of the same client is none of this"


async def test_its_plan_line_gets_the_count_back_and_the_step_goes_on(stage: Stage) -> None:
    held = await stage.held()
    assert (await held.ledger.credential(held.step)).code == "plan", "the line may be used once"
    assert (await revoked(held.ledger, held.token)).status == 200
    await stage.broker.store.reap(stage.now())
    (ended,) = stage.happened(held.txn, "grant.expired")
    assert ended.facts is not None
    assert ended.facts["reason"] == "revoked"
    again = (await held.ledger.credential(held.step)).ok()["access_token"]
    assert (await held.bank.redeem(again, held.ledger)).ok()


async def test_revoking_again_or_what_is_spent_writes_nothing(stage: Stage) -> None:
    held = await stage.held()
    for _ in range(3):
        assert (await revoked(held.ledger, held.token)).status == 200
    assert len(stage.happened(held.txn, "mark.set")) == 1
    spent = await stage.held()
    (await spent.redeem()).ok()
    assert (await revoked(spent.ledger, spent.token)).status == 200
    assert not stage.happened(spent.txn, "mark.set")


@pytest.mark.parametrize("stranger", ["resource/bank/1", "agent/chat", "mcp-server/mallory", "operator/ops"])
async def test_a_foreign_credential_is_left_alone_and_the_try_is_on_record(
    stage: Stage, stranger: str
) -> None:
    held, who = await stage.held(), await stage.actor(stranger)
    reply = await revoked(who, held.token)
    assert (reply.status, reply.raw) == (200, b"{}")
    (entry,) = stage.happened(held.txn, "refused")
    assert entry.facts is not None
    assert (entry.facts["caller"], entry.facts["verb"]) == (who.id, "revoke_token")
    assert await is_active(held)
    assert (await held.redeem()).ok()


async def test_the_initiator_ends_a_step_by_its_token(stage: Stage) -> None:
    held = await stage.held()
    assert await is_active(held)
    assert (await revoked(held.ledger, held.opened.token)).status == 200, "the performer: nothing of its own"
    assert await is_active(held)
    assert (await revoked(held.opened.by, held.opened.token)).status == 200
    assert not await is_active(held)
    refused(stage, await held.redeem(), "revoked")
    refused(stage, await held.ledger.credential(held.step), "revoked")


async def test_the_roots_token_ends_the_transaction(stage: Stage) -> None:
    chat, ledger = await stage.actors("agent/chat", "mcp-server/ledger")
    root = await chat.intent()
    opened = await chat.open(root["step"])
    (await ledger.accept(opened)).ok()
    assert (await revoked(chat, root["access_token"], token_type_hint="access_token")).status == 200
    refused(stage, await ledger.credential(opened.step), "revoked")
    refused(stage, await chat.open_reply(root["step"]), "revoked")


async def test_unknown_tokens_are_answered_as_if_they_had_been_ended(stage: Stage) -> None:
    held = await stage.held()
    head, claims, signature = held.token.split(".")
    for token in (f"{head}.{claims}.{signature[::-1]}", "x", "a.b.c", "..", "é", "a" * 20_000):
        reply = await revoked(held.ledger, token)
        assert (reply.status, reply.raw) == (200, b"{}"), token[:80]
    assert await is_active(held)


async def test_what_can_never_be_ended_here_says_so(stage: Stage) -> None:
    held = await stage.held()
    document = stage.trust.ca.jwt_svid(held.ledger.id, ["https://x.example"])
    typed = jwt.encode({"a": 1}, "k" * 32, "HS256", headers={"typ": "dpop+jwt"})
    for token in (held.step, held.grant, held.txn, document, typed):
        reply = await revoked(held.ledger, token)
        assert (reply.status, reply.body["error"]) == (400, "unsupported_token_type"), token[:40]
    missing = await held.ledger.send("POST", "/oauth/revoke", b"a=b", {"Content-Type": FORM})
    assert (missing.status, missing.body["error"]) == (400, "invalid_request")
    assert await is_active(held)


async def test_nobody_unknown_ends_anything(stage: Stage) -> None:
    held = await stage.held()
    reply = await revoked(await stage.actor("agent/nobody"), held.token)
    assert (reply.status, reply.body["error"]) == (401, "invalid_client")
    assert await is_active(held)


async def test_a_frozen_client_still_ends_what_it_has(stage: Stage) -> None:
    held = await stage.held()
    (await stage.mark("freeze", f"workload:{held.ledger.id}")).ok()
    try:
        assert (await revoked(held.ledger, held.token)).status == 200
    finally:
        (await stage.mark("unfreeze", f"workload:{held.ledger.id}")).ok()
    assert not await is_active(held)
    refused(stage, await held.redeem(), "revoked")


async def test_a_client_with_a_jwt_svid_revokes_with_its_key_and_a_nonce(stage: Stage) -> None:
    worker, bank = Bearer(stage=stage, path=WORKER), await stage.actor("resource/bank/1")
    step = await bearers_step(stage, worker)
    token = (await worker.form(credential_form(step.step))).ok()["access_token"]
    assert (await introspected(bank, token))["active"] is True
    proof = worker.proof("/oauth/revoke", nonce=await worker.nonce())
    assert (await worker.form({"token": "x"}, path="/oauth/revoke", proof=proof)).status == 200
    again = await worker.form({"token": token}, path="/oauth/revoke", proof=proof)
    assert (again.status, again.body["error"]) == (400, "invalid_dpop_proof"), "a proof serves once"
    assert (await introspected(bank, token))["active"] is True
    assert (await worker.form({"token": token}, path="/oauth/revoke")).status == 200
    assert (await introspected(bank, token))["active"] is False


async def test_an_idempotency_key_is_welcome_and_still_means_one_request(stage: Stage) -> None:
    held, other = await stage.held(), await stage.held()
    name = new()
    first = await held.ledger.post("/oauth/revoke", f"token={held.token}".encode(), FORM, op=name)
    assert first.status == 200
    clash = await other.ledger.post("/oauth/revoke", f"token={other.token}".encode(), FORM, op=name)
    assert (clash.status, clash.code) == (400, "operation_reused")
    short = await other.ledger.post("/oauth/revoke", f"token={other.token}".encode(), FORM, op="x")
    assert (short.status, short.body["error"]) == (400, "invalid_request")
    assert await is_active(other)


async def test_no_answer_of_the_two_endpoints_may_be_kept(stage: Stage) -> None:
    held = await stage.held()
    for path in ("/oauth/introspect", "/oauth/revoke"):
        assert (await ask(held.ledger, path, held.token)).headers["cache-control"] == "no-store"
