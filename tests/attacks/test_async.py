"""Jobs: what a queue, its readers and its writers can make of an id; and what may have changed since."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
import yaml
from tests.fakes.stage import ARGS, Actor, Opened, Reply, Stage, new, redeemed, refused, spiffe

UNKNOWN = "stp_100" + "0" * 26
LEDGER = "mcp-server/ledger"


async def resume(by: Actor, step: str, **how: Any) -> Reply:
    return await by.json(f"/v1/steps/{step}/resume", {"v": 1}, **how)


async def job(stage: Stage, tool: str = "ledger/transfer", **more: Any) -> Opened:
    """A deferred step whose agent has gone."""
    opened = await stage.opened(tool, deferred=True, **more)
    root = (await stage.broker.store.step(opened.step)).step.parent  # type: ignore[union-attr]
    (await opened.by.close(str(root))).ok()
    return opened


async def runs(stage: Stage, opened: Opened, by: str = LEDGER) -> dict[str, Any]:
    """The positive control: the right worker gets it."""
    return (await resume(await stage.actor(by), opened.step)).ok()


@pytest_asyncio.fixture(loop_scope="module")
async def registry(stage: Stage) -> AsyncGenerator[dict[str, Any]]:
    """The registry in force, to be changed; as it was, afterwards."""
    before = (stage.folder / "registry.yaml").read_text()
    yield yaml.safe_load(before)
    (await stage.apply("registry", before)).ok()


def entry(registry: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in registry["entries"] if each["name"] == name)


async def put(stage: Stage, registry: dict[str, Any]) -> None:
    registry["count"] = len(registry["entries"])
    (await stage.apply("registry", yaml.safe_dump(registry, sort_keys=False))).ok()


# --- an id in the wrong hands


@pytest.mark.parametrize(
    "thief",
    [
        "mcp-server/mallory",
        "mcp-server/audit",
        "agent/chat",
        "agent/other",
        "resource/bank/1",
        "trigger/nightly",
    ],
)
async def test_a_stolen_id_opens_nothing(stage: Stage, thief: str) -> None:
    assert (await runs(stage, await job(stage)))["args"] == ARGS
    opened, by = await job(stage), await stage.actor(thief)
    reply = await resume(by, opened.step)
    refused(stage, reply, "not_found", "wrong_workload")
    assert b"cents" not in reply.raw
    for verb, body in (("heartbeat", {}), ("wait", {"round": 1}), ("close", {"outcome": "done"})):
        refused(stage, await by.json(f"/v1/steps/{opened.step}/{verb}", {"v": 1, **body}), "not_found")
    await runs(stage, opened)


async def test_of_another_tenant_it_is_not_even_said_that_it_exists(stage: Stage) -> None:
    opened, vault = await job(stage), await stage.actor("mcp-server/vault")
    theirs, nothing = await resume(vault, opened.step), await resume(vault, UNKNOWN)
    refused(stage, theirs, "not_found")
    assert theirs.refusal["reason"] == nothing.refusal["reason"]
    await runs(stage, opened)


async def test_an_id_alone_gets_no_credential_and_no_step_token(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    refused(stage, await ledger.credential(opened.step), "wrong_state")
    refused(stage, await ledger.token(opened.step), "not_found")
    await runs(stage, opened)
    (await ledger.credential(opened.step)).ok()


async def test_a_key_that_is_only_claimed_resumes_nothing(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    path = f"/v1/steps/{opened.step}/resume"
    other = await job(stage)
    elsewhere = ledger.proof(f"/v1/steps/{other.step}/resume")
    assert (await resume(ledger, opened.step, proof=elsewhere)).code == "invalid_proof"
    assert (await resume(ledger, opened.step, proof=ledger.proof(path, "GET"))).code == "invalid_proof"
    proof = ledger.proof(path)
    (await resume(ledger, opened.step, proof=proof)).ok()
    await runs(stage, other)


async def test_one_proof_resumes_one_job(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    proof = ledger.proof(f"/v1/steps/{opened.step}/resume")
    (await resume(ledger, opened.step, proof=proof)).ok()
    assert (await resume(ledger, opened.step, proof=proof)).code == "replay"


# --- a message that comes again


async def test_of_many_deliveries_at_once_one_runs(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    workers = [ledger.with_new_key() for _ in range(16)]
    replies = await asyncio.gather(*(resume(each, opened.step) for each in workers))
    won = [each for each in replies if each.status == 200]
    assert len(won) == 1
    assert {each.code for each in replies if each.status != 200} == {"replay"}
    assert len(stage.happened(opened.txn, "step.resumed")) == 1


async def test_a_message_that_was_kept_runs_nothing_after_the_job(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    await runs(stage, opened)
    refused(stage, await resume(ledger.with_new_key(), opened.step), "replay")
    (await ledger.close(opened.step)).ok()
    refused(stage, await resume(ledger, opened.step), "already_done")
    refused(stage, await ledger.credential(opened.step), "already_done")
    assert redeemed(stage, opened.txn) == 0


async def test_a_second_worker_of_the_pattern_takes_nothing_from_the_first(stage: Stage) -> None:
    one, two = await stage.actors("mcp-server/files/1", "mcp-server/files/2")
    opened = await job(stage, "files/put")
    (await resume(one, opened.step)).ok()
    refused(stage, await resume(two, opened.step), "replay")
    refused(stage, await two.heartbeat(opened.step), "not_found", "wrong_workload")
    refused(stage, await two.close(opened.step), "not_found", "wrong_workload")
    (await one.heartbeat(opened.step)).ok()


async def test_a_run_that_is_over_gives_its_credential_to_nobody(stage: Stage) -> None:
    """The first worker parked; what it holds is not the second's, and it is not the performer any more."""
    one, two = await stage.actors("mcp-server/files/1", "mcp-server/files/2")
    opened = await job(stage, "files/put")
    (await resume(one, opened.step)).ok()
    (await one.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})).ok()
    (await resume(two, opened.step)).ok()
    files = "https://bank.example/v1/files"
    refused(stage, await one.credential(opened.step, url=files), "not_found", "wrong_workload")
    (await two.credential(opened.step, url=files)).ok()


# --- a message that was made or changed


async def test_a_job_cannot_bring_arguments_or_an_origin(stage: Stage) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    for more in ({"args": {"cents": 1}}, {"origin": "human"}, {"round": 7}, {"deferred": True}):
        reply = await ledger.json(f"/v1/steps/{opened.step}/resume", {"v": 1, **more})
        assert (reply.status, reply.code) == (400, "invalid_request")
    got = await runs(stage, opened)
    assert (got["args"], got["origin"]) == (ARGS, "model")


async def test_a_call_that_was_not_deferred_is_not_resumed_without_its_initiators_proof(stage: Stage) -> None:
    ledger = await stage.actor(LEDGER)
    opened = await stage.opened()
    refused(stage, await resume(ledger, opened.step), "wrong_state")
    (await ledger.accept(opened)).ok()
    (await ledger.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})).ok()
    refused(stage, await resume(ledger, opened.step), "wrong_state")
    await runs(stage, await job(stage))


async def test_a_deferred_step_is_no_way_out_of_the_ceiling(stage: Stage) -> None:
    """A server may defer what it may start, with the origin that it has, and nothing more."""
    under, ledger = await stage.accepted("ledger/note"), await stage.actor(LEDGER)
    below = await ledger.open(under.step, "audit/record", args={}, deferred=True)
    for tool in ("audit/purge", "ledger/wipe", "files/put"):
        refused(stage, await ledger.open_reply(under.step, tool, {}, deferred=True), "ceiling", "policy")
    assert (await runs(stage, below, "mcp-server/audit"))["origin"] == "server"


async def test_a_job_cannot_be_laundered_into_a_human_one(stage: Stage) -> None:
    """What a server defers is the server's, whoever waits for it; and what that starts is held to it."""
    under, ledger = await stage.accepted("ledger/note"), await stage.actor(LEDGER)
    below = await ledger.open(under.step, "audit/record", args={}, deferred=True)
    got = await runs(stage, below, "mcp-server/audit")
    assert [hop["origin"] for hop in got["chain"]] == ["model", "server"]
    audit = await stage.actor("mcp-server/audit")
    for tool in ("ledger/note", "ledger/wipe", "audit/record"):
        refused(stage, await audit.open_reply(below.step, tool, {}, deferred=True), "ceiling", "policy")
    (await ledger.open_reply(under.step, "audit/record", {}, deferred=True)).ok()


# --- what changed in between


async def test_the_requester_was_revoked(stage: Stage) -> None:
    opened = await job(stage)
    who = (await stage.broker.store.step(opened.step)).step.intent.requester  # type: ignore[union-attr]
    assert who is not None
    (await stage.mark("freeze", f"requester:{who.opaque}")).ok()
    refused(stage, await resume(await stage.actor(LEDGER), opened.step), "frozen")
    (await stage.mark("unfreeze", f"requester:{who.opaque}")).ok()
    await runs(stage, opened)


async def test_a_person_who_is_inactive(stage: Stage, registry: dict[str, Any]) -> None:
    """Frozen at once in all they set in motion; and refused even where an operator thaws them by mistake."""
    opened, held = await job(stage), await stage.held()
    alice = {"name": "alice", "identities": [{"issuer": stage.issuer.url, "subject": "alice"}]}
    await put(stage, {**registry, "persons": [{**alice, "active": False}]})
    ledger = await stage.actor(LEDGER)
    refused(stage, await held.redeem(), "frozen")
    refused(stage, await ledger.credential(held.step), "frozen")
    assert (await resume(ledger, opened.step)).code == "frozen"
    chat = await stage.actor("agent/chat")
    form = chat.intent_form(stage.issuer.mint("alice", client_id="chat-app"))
    assert (await chat.form(form)).status >= 400
    who = (await stage.broker.store.step(opened.step)).step.intent.requester  # type: ignore[union-attr]
    assert who is not None
    (await stage.mark("unfreeze", f"requester:{who.opaque}")).ok()
    told = refused(stage, await resume(ledger, opened.step), "frozen").facts
    assert (told or {})["rule"] == "registry persons"
    await put(stage, {**registry, "persons": [alice]})
    await runs(stage, opened)


async def test_a_tool_that_was_taken_from_the_registry(stage: Stage, registry: dict[str, Any]) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    kept = entry(registry, "ledger")["tools"].pop("transfer")
    await put(stage, registry)
    refused(stage, await resume(ledger, opened.step), "not_registered", "frozen")
    entry(registry, "ledger")["tools"]["transfer"] = kept
    await put(stage, registry)
    await runs(stage, opened)


@pytest.mark.parametrize(
    "change",
    [
        {"impact": "high"},
        {"schema": f"sha256-{'A' * 43}"},
        {"plan": [{"at": "https://bank.example", "request": "DELETE /v1/books"}]},
    ],
)
async def test_a_tool_that_became_another(
    stage: Stage, registry: dict[str, Any], change: dict[str, Any]
) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    before = dict(entry(registry, "ledger")["tools"]["transfer"])
    entry(registry, "ledger")["tools"]["transfer"] = {**before, **change}
    await put(stage, registry)
    refused(stage, await resume(ledger, opened.step), "not_registered")
    entry(registry, "ledger")["tools"]["transfer"] = before
    await put(stage, registry)
    await runs(stage, opened)


async def test_whoever_started_it_may_not_any_more(stage: Stage, registry: dict[str, Any]) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    before = entry(registry, "chat")["may_start"]
    entry(registry, "chat")["may_start"] = {"tools": ["audit/*"], "impact": "high"}
    await put(stage, registry)
    refused(stage, await resume(ledger, opened.step), "ceiling")
    entry(registry, "chat")["may_start"] = before
    await put(stage, registry)
    await runs(stage, opened)


@pytest.mark.parametrize(
    "target", ["tool:ledger/transfer", "server:ledger", f"workload:{spiffe('agent/chat')}"]
)
async def test_frozen_meanwhile(stage: Stage, target: str) -> None:
    opened, ledger = await job(stage), await stage.actor(LEDGER)
    (await stage.mark("freeze", target)).ok()
    refused(stage, await resume(ledger, opened.step), "frozen")
    (await stage.mark("unfreeze", target)).ok()
    await runs(stage, opened)


async def test_its_transaction_was_revoked_after_the_agent_had_gone(stage: Stage) -> None:
    opened, other = await job(stage), await job(stage)
    (await stage.mark("revoke", f"txn:{opened.txn}")).ok()
    refused(stage, await resume(await stage.actor(LEDGER), opened.step), "revoked")
    await runs(stage, other)


async def test_the_step_that_deferred_it_was_revoked(stage: Stage) -> None:
    """Its normal end leaves the job; a revocation reaches it, also afterwards."""
    ledger, below = await stage.actor(LEDGER), []
    for _ in range(2):
        under = await stage.accepted("ledger/note")
        below.append((under, await ledger.open(under.step, "audit/record", args={}, deferred=True)))
        (await ledger.close(under.step)).ok()
    (await stage.mark("revoke", f"step:{below[0][0].step}")).ok()
    refused(stage, await resume(await stage.actor("mcp-server/audit"), below[0][1].step), "revoked")
    await runs(stage, below[1][1], "mcp-server/audit")


async def test_an_agent_that_gave_up_took_its_jobs_along(stage: Stage) -> None:
    chat, ledger = await stage.actor("agent/chat"), await stage.actor(LEDGER)
    for outcome, code in (("failed", "closed"), ("cancelled", "closed")):
        root = (await chat.intent())["step"]
        opened = await chat.open(root, deferred=True)
        (await chat.close(root, outcome)).ok()
        refused(stage, await resume(ledger, opened.step), code)
    await runs(stage, await job(stage))


async def test_nothing_of_a_done_intent_can_be_started_anew(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    root = (await chat.intent())["step"]
    opened = await chat.open(root, deferred=True)
    (await chat.close(root)).ok()
    refused(stage, await chat.open_reply(root, deferred=True), "already_done")
    await runs(stage, opened)


# --- what is kept


async def test_arguments_are_in_no_log_and_in_nobodys_answer_but_the_workers(stage: Stage) -> None:
    secret = f"secret-{new()}"
    opened = await job(stage, "ledger/transfer", args={"to": secret, "cents": 1})
    got = await runs(stage, opened)
    assert got["args"]["to"] == secret
    for raw in (stage.folder / "store").glob("stepwrit.db*"):
        assert secret.encode() not in raw.read_bytes(), raw
    told = json.dumps([entry.facts for entry in stage.broker.ledger.of_txn(opened.txn)], default=str)
    assert secret not in told
    story = (await stage.admin("GET", f"/v1/admin/explain/{opened.txn}")).raw
    assert secret.encode() not in story
    (await (await stage.actor(LEDGER)).close(opened.step)).ok()
    assert await stage.broker.store.sealed_args(opened.step) is None


async def test_a_lost_worker_ends_the_job_and_no_other_begins_it(stage: Stage) -> None:
    """Last: time passes for all."""
    opened, early = await job(stage), await job(stage)
    ledger = await stage.actor(LEDGER)
    await runs(stage, opened)
    stage.pass_time(61)
    await runs(stage, early)
    refused(stage, await resume(ledger.with_new_key(), opened.step), "expired")
    refused(stage, await ledger.heartbeat(opened.step), "expired")
