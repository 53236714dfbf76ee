"""What was closed, revoked, frozen, ran out or belongs to yesterday's store opens nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.fakes.stage import BANK, DOMAIN, ENTRIES, Held, Stage, accept_body, redeemed, refused, spiffe

ENDED = ("closed", "already_done", "revoked", "expired")


async def nothing_more(stage: Stage, held: Held, *codes: str) -> None:
    """Redeem, credential, child and fresh token are all refused; the ledger has no use."""
    refused(stage, await held.redeem(), *codes)
    refused(stage, await held.ledger.credential(held.step), *codes)
    refused(stage, await held.ledger.open_reply(held.step, "audit/record"), *codes)
    refused(stage, await held.opened.by.token(held.step), *codes, "wrong_state")
    assert redeemed(stage, held.txn) == 0


# --- the normal end


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled"])
async def test_after_its_close_a_step_gives_nothing(stage: Stage, outcome: str) -> None:
    held, other = await stage.held(), await stage.held()
    assert (await held.ledger.close(held.step, outcome)).ok()["state"] == outcome
    await nothing_more(stage, held, *ENDED)
    refused(stage, await held.ledger.close(held.step), *ENDED)
    (await other.redeem()).ok()


async def test_the_end_of_a_root_ends_what_is_below(stage: Stage) -> None:
    held = await stage.held()
    root = stage.happened(held.txn, "intent.opened")[0].facts
    assert root is not None
    (await held.opened.by.close(str(root["step"]))).ok()
    await nothing_more(stage, held, *ENDED)
    refused(stage, await held.opened.by.open_reply(str(root["step"])), *ENDED)


async def test_the_end_of_a_step_ends_its_servers_steps(stage: Stage) -> None:
    held, audit = await stage.held(), await stage.actor("mcp-server/audit")
    below = await held.ledger.open(held.step, "audit/record", args={"month": "x"})
    (await held.ledger.close(held.step)).ok()
    refused(stage, await audit.accept(below), *ENDED)


# --- marks


def targets() -> dict[str, Callable[[Held], str]]:
    return {
        "the step": lambda held: f"step:{held.step}",
        "the transaction": lambda held: f"txn:{held.txn}",
        "the credential": lambda held: f"grant:{held.grant}",
        "the performer": lambda held: f"workload:{held.ledger.id}",
        "the initiator": lambda held: f"workload:{held.opened.by.id}",
        "the tool": lambda _: "tool:ledger/transfer",
        "the server": lambda _: "server:ledger",
        "the resource": lambda _: f"resource:{BANK}",
        "the performer's key": lambda held: f"key:{held.ledger.key.thumbprint}",
        "the initiator's key": lambda held: f"key:{held.opened.by.key.thumbprint}",
        "the tenant": lambda _: "tenant:default",
        "the trust domain": lambda _: f"trust_domain:{DOMAIN}",
        "everyone below a path": lambda _: f"workload:{spiffe('mcp-server/*')}",
        "everyone in the domain": lambda _: f"workload:{spiffe('*')}",
        "everything": lambda _: "everything:all",
    }


@pytest.mark.parametrize("which", targets())
async def test_a_freeze_stops_the_redeem_and_its_lifting_lets_it_go_on(stage: Stage, which: str) -> None:
    held = await stage.held()
    target = targets()[which](held)
    assert (await stage.mark("freeze", target)).status == 200
    try:
        refused(stage, await held.redeem(), "frozen")
        assert redeemed(stage, held.txn) == 0
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    (await held.redeem()).ok()


@pytest.mark.parametrize("which", set(targets()) - {"the credential", "the resource"})
async def test_a_freeze_stops_new_credentials_and_accepts(stage: Stage, which: str) -> None:
    held, waiting = await stage.held(), await stage.opened()
    second = await stage.accepted("ledger/transfer")
    same = {"the step": f"step:{second.step}", "the transaction": f"txn:{second.txn}"}
    target = same.get(which) or targets()[which](held)
    assert (await stage.mark("freeze", target)).status == 200
    try:
        refused(stage, await held.ledger.credential(second.step), "frozen")
        if which not in same and "performer's key" not in which:
            refused(stage, await held.ledger.accept(waiting), "frozen")
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    (await held.ledger.credential(second.step)).ok()


@pytest.mark.parametrize("which", ["the step", "the transaction", "the credential"])
async def test_a_revocation_is_for_ever(stage: Stage, which: str) -> None:
    held, other = await stage.held(), await stage.held()
    target = targets()[which](held)
    assert (await stage.mark("revoke", target)).status == 200
    refused(stage, await held.redeem(), "revoked")
    assert (await stage.mark("unfreeze", target)).code == "not_found"
    assert (await stage.mark("freeze", target)).status == 200  # a weaker word does not replace it
    assert (await stage.mark("unfreeze", target)).code == "not_found"
    refused(stage, await held.redeem(), "revoked")
    (await other.redeem()).ok()


async def test_a_revoked_root_takes_every_descendant_with_it(stage: Stage) -> None:
    held, audit = await stage.held(), await stage.actor("mcp-server/audit")
    below = await held.ledger.open(held.step, "audit/record", args={"month": "x"})
    root = stage.happened(held.txn, "intent.opened")[0].facts
    assert root is not None
    assert (await stage.mark("revoke", f"step:{root['step']}")).status == 200
    refused(stage, await audit.accept(below), "revoked", "closed")
    await nothing_more(stage, held, "revoked", "closed")


async def test_the_key_that_opened_a_transaction_stops_all_of_it(stage: Stage) -> None:
    """Two steps down nothing is signed by the agent's key any more; its mark still counts."""
    held, audit = await stage.held(), await stage.actor("mcp-server/audit")
    below = await held.ledger.open(held.step, "audit/record", args={"month": "x"})
    target = f"key:{held.opened.by.key.thumbprint}"
    assert (await stage.mark("freeze", target)).status == 200
    try:
        refused(stage, await audit.accept(below), "frozen")
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    (await audit.accept(below)).ok()


async def test_a_requester_can_be_stopped(stage: Stage) -> None:
    held = await stage.held()
    record = await stage.broker.store.step(held.step)
    assert record is not None
    assert record.step.intent.requester is not None
    target = f"requester:{record.step.intent.requester.opaque}"
    assert (await stage.mark("freeze", target)).status == 200
    refused(stage, await held.redeem(), "frozen")
    chat = held.opened.by
    token = stage.issuer.mint("alice", client_id="chat-app")
    refused(stage, await chat.form(chat.intent_form(token)), "frozen")
    assert (await stage.mark("unfreeze", target)).status == 200
    (await held.redeem()).ok()
    (await chat.form(chat.intent_form(token))).ok()


async def test_a_frozen_pattern_stops_what_its_workloads_hold(stage: Stage) -> None:
    """`files/*` is one entry; a credential of one of its replicas is stopped like the replica itself."""
    chat, replica = await stage.actor("agent/chat"), await stage.actor("mcp-server/files/7")
    opened = await chat.open((await chat.intent())["step"], "files/put")
    (await replica.accept(opened)).ok()
    got = (await replica.credential(opened.step, url=f"{BANK}/v1/files")).ok()
    bank, url = await stage.actor("resource/bank/1"), f"{BANK}/v1/files"
    from tests.fakes.stage import redeem_body

    target = f"workload:{spiffe('mcp-server/files/*')}"
    assert (await stage.mark("freeze", target)).status == 200
    try:
        told = await bank.json("/v1/redeem", redeem_body(got["access_token"], replica, url=url))
        refused(stage, told, "frozen")
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    (await bank.json("/v1/redeem", redeem_body(got["access_token"], replica, url=url))).ok()


@pytest.mark.parametrize(
    "target",
    ["workload:agent/chat", "workload:spiffe://", "step:x", "grant:", "nonsense:x", "everything:*", "key:"],
)
async def test_a_mark_that_would_stop_nothing_is_refused(stage: Stage, target: str) -> None:
    assert (await stage.mark("freeze", target)).code == "invalid_request"


async def test_the_brake_works_while_everything_is_frozen(stage: Stage) -> None:
    held, ops = await stage.held(), await stage.actor("operator/ops")
    everything = {"v": 1, "verb": "freeze", "target": "everything:all", "reason": "fire"}
    assert (await stage.mark("freeze", "everything:all")).status == 200
    try:
        mark = everything | {"verb": "revoke", "target": f"step:{held.step}"}
        (await ops.json("/v1/revocations", mark)).ok()
    finally:
        assert (await stage.mark("unfreeze", "everything:all")).status == 200
    refused(stage, await held.redeem(), "revoked")


async def test_a_freeze_does_not_keep_a_performer_from_ending_its_step(stage: Stage) -> None:
    held = await stage.held()
    target = "tool:ledger/transfer"
    assert (await stage.mark("freeze", target)).status == 200
    try:
        (await held.ledger.heartbeat(held.step)).ok()
        (await held.ledger.close(held.step)).ok()
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    refused(stage, await held.redeem(), "closed")


# --- races


async def test_no_credential_that_raced_a_revocation_redeems_afterwards(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/transfer_twice"), await stage.actor("mcp-server/ledger")
    bank = await stage.actor("resource/bank/1")
    asked = [asyncio.create_task(ledger.credential(opened.step)) for _ in range(24)]
    await asyncio.sleep(0)
    assert (await stage.mark("revoke", f"step:{opened.step}")).status == 200
    replies = await asyncio.gather(*asked)
    granted = [reply.body["access_token"] for reply in replies if reply.status == 200]
    assert len(granted) <= 2
    for token in granted:
        refused(stage, await bank.redeem(token, ledger), "revoked")
    assert redeemed(stage, opened.txn) == 0


async def test_a_redeem_that_raced_a_revocation_came_wholly_before_or_not_at_all(stage: Stage) -> None:
    for _ in range(8):
        held = await stage.held()
        redeem = asyncio.create_task(held.redeem())
        marked = asyncio.create_task(stage.mark("revoke", f"grant:{held.grant}"))
        reply, _ = await asyncio.gather(redeem, marked)
        entries = [entry.kind for entry in stage.broker.ledger.of_txn(held.txn)]
        assert redeemed(stage, held.txn) == (reply.status == 200)
        if reply.status == 200:
            assert entries.index("grant.redeemed") < entries.index("mark.set")
        else:
            refused(stage, reply, "revoked")


# --- the registry takes something away


async def test_what_the_registry_no_longer_has_is_stopped_at_once(stage: Stage) -> None:
    held = await stage.held()
    without = [each for each in ENTRIES if each["id"] != "mcp-server/mallory"]
    slim = [each | {"tools": _less(each)} if each["id"] == "mcp-server/ledger" else each for each in without]
    try:
        stage.write_registry(slim)
        await stage.broker.files.apply("registry")
        refused(stage, await held.redeem(), "frozen")
        refused(stage, await held.ledger.credential(held.step), "frozen", "plan")
    finally:
        stage.write_registry(ENTRIES)
        await stage.broker.files.apply("registry")
    (await held.redeem()).ok()


def _less(entry: dict[str, object]) -> dict[str, object]:
    tools = entry["tools"]
    assert isinstance(tools, dict)
    return {name: tool for name, tool in tools.items() if name != "transfer"}


# --- another epoch


async def test_a_restart_kills_what_was_not_redeemed_and_keeps_what_was(stage: Stage) -> None:
    spent, unspent = await stage.held(), await stage.held()
    frozen = await stage.held()
    body = accept_body(spent.opened)  # for the shape only: its step is accepted already
    (await spent.redeem()).ok()
    assert (await stage.mark("freeze", f"step:{frozen.step}")).status == 200
    token = stage.issuer.mint("alice", client_id="chat-app")
    chat = await stage.actor("agent/chat")
    (await chat.form(chat.intent_form(token))).ok()

    await stage.restart()
    stage.forget_refusals()

    refused(stage, await unspent.redeem(), "expired", "invalid_token")
    refused(stage, await spent.redeem(), "replay", "invalid_token")
    refused(stage, await spent.ledger.credential(spent.step), "plan")  # its one use is spent for ever
    refused(stage, await frozen.ledger.credential(frozen.step), "frozen")
    refused(stage, await chat.form(chat.intent_form(token)), "replay", "human_proof")
    again = (await unspent.ledger.credential(unspent.step)).ok()  # the step lives, its count came back
    (await unspent.bank.redeem(again["access_token"], unspent.ledger)).ok()
    assert redeemed(stage, unspent.txn) == 1
    assert redeemed(stage, spent.txn) == 1
    assert body["round"] == 1


async def test_a_repeated_operation_after_a_restart_is_no_second_step(stage: Stage) -> None:
    from tests.fakes.stage import new

    chat, root, op = await stage.actor("agent/chat"), await stage.root(), new()
    first = (await chat.open_reply(root["step"], op=op)).ok()
    await stage.restart()
    stage.forget_refusals()
    assert (await chat.open_reply(root["step"], op=op)).ok()["step"] == first["step"]
    assert len(stage.happened(root["txn"], "step.opened")) == 1


async def test_a_proof_used_before_a_restart_is_used(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    port = stage.broker.mtls.address[1]
    settings = stage.settings
    proof = chat.proof("/v1/steps")
    (await chat.open_reply(root["step"], proof=proof)).ok()
    from dataclasses import replace as changed

    from stepwrit_broker.wiring.settings import Address

    stage.settings = lambda: changed(settings(), mtls=Address(host="127.0.0.1", port=int(port)))  # type: ignore[method-assign]
    try:
        await stage.restart()
    finally:
        stage.settings = settings  # type: ignore[method-assign]
    stage.forget_refusals()
    refused(stage, await chat.open_reply(root["step"], proof=proof), "replay")
    (await chat.open_reply(root["step"])).ok()


# --- what hangs on an end


async def test_a_deferred_step_outlives_an_intent_that_is_done_and_no_other_end(stage: Stage) -> None:
    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    kept, ended = await chat.intent(), await chat.intent()
    lives = await chat.open(kept["step"], deferred=True)
    dies = await chat.open(ended["step"], deferred=True)
    (await ledger.accept(lives)).ok()
    (await chat.close(kept["step"], "done")).ok()
    (await chat.close(ended["step"], "cancelled")).ok()
    refused(stage, await ledger.accept(dies), *ENDED)
    (await ledger.credential(lives.step)).ok()


async def test_a_deferred_step_outlives_the_call_that_opened_it(stage: Stage) -> None:
    ledger, audit = await stage.actor("mcp-server/ledger"), await stage.actor("mcp-server/audit")
    call = await stage.accepted()
    job = await ledger.open(call.step, "audit/record", args={"month": "x"}, deferred=True)
    (await ledger.close(call.step)).ok()
    (await audit.accept(job)).ok()
    root = stage.happened(call.txn, "intent.opened")[0].facts
    assert root is not None
    (await audit.heartbeat(job.step)).ok()
    (await call.by.close(str(root["step"]), "failed")).ok()
    refused(stage, await audit.heartbeat(job.step), *ENDED)


async def test_a_frozen_workload_ends_what_it_began_and_begins_nothing(stage: Stage) -> None:
    held, waiting = await stage.held(), await stage.opened()
    target = f"workload:{held.ledger.id}"
    assert (await stage.mark("freeze", target)).status == 200
    try:
        refused(stage, await held.ledger.accept(waiting), "frozen")
        refused(stage, await held.ledger.open_reply(held.step, "audit/record"), "frozen")
        refused(stage, await held.ledger.credential(held.step), "frozen")
        (await held.ledger.heartbeat(held.step)).ok()
        (await held.ledger.close(held.step)).ok()
    finally:
        assert (await stage.mark("unfreeze", target)).status == 200
    refused(stage, await held.redeem(), "closed")


async def test_a_revoked_workload_hears_of_it_at_its_next_sign_of_life(stage: Stage) -> None:
    held = await stage.held()
    assert (await stage.mark("revoke", f"step:{held.step}")).status == 200
    refused(stage, await held.ledger.heartbeat(held.step), "revoked")
