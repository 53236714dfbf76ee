"""Ways round what a permit demands, over the wire. Each after its right use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest_asyncio
from tests.fakes.bearer import Bearer
from tests.fakes.stage import ARGS, ENTRIES, LIMITS, Stage, redeemed, refused, spiffe

from stepwrit.wire import CeilingSpec

LONE: dict[str, Any] = {
    "id": "agent/lone",
    "role": "agent",
    "name": "lone",
    "clients": ["lone-app"],
    "attest": ["jwt"],
    "may_start": {"tools": ["ledger/*"], "impact": "high"},
}
EDGE = {"id": "gateway/edge", "role": "gateway", "name": "edge", "may_ask": ["ledger/*", "audit/*"]}
QUESTIONS = "  - {name: questions, on: questions, per: [workload], rate: 60000/min, burst: 10000}\n"
SECRET = "DE02120300000000202051"
RULES = """
@id("short")
@obligation("max_life=20; redact=to")
permit (principal, action == Stepwrit::Action::"open_step", resource == Stepwrit::Tool::"ledger/transfer");

@id("few")
@obligation("fan_out=2")
permit (principal, action == Stepwrit::Action::"open_step", resource == Stepwrit::Tool::"ledger/note");

@id("attested")
@obligation("require=x509,dpop")
permit (principal, action == Stepwrit::Action::"open_step", resource == Stepwrit::Tool::"ledger/lookup");
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    entries = [*json.loads(json.dumps(ENTRIES)), LONE, EDGE]
    ledger = next(each for each in entries if each["id"] == "mcp-server/ledger")
    for tool in ("transfer", "transfer_twice"):
        ledger["tools"][tool]["facts"] = {"to": "/to"}
    rules = {"70-obligations.cedar": RULES, "facts.json": '{"to": "String"}'}
    limits = LIMITS.replace("concurrency:", f"{QUESTIONS}concurrency:").replace("count: 3", "count: 4")
    async with Stage(entries=entries, limits=limits, policy="low-risk", rules=rules) as running:
        yield running


async def test_a_credential_is_over_when_policy_says_so_whatever_the_limits_say(stage: Stage) -> None:
    quick, slow, long = await stage.held(), await stage.held(), await stage.accepted("ledger/lookup")
    (await quick.redeem()).ok()
    stage.pass_time(20.5)
    refused(stage, await slow.redeem(), "expired")
    assert redeemed(stage, slow.txn) == 0
    url = "https://bank.example/v1/accounts/7"
    got = (await slow.ledger.credential(long.step, method="GET", url=url)).ok()
    assert 20 < got["expires_in"] <= 60


async def test_many_at_once_open_no_more_than_policy_lets_them(stage: Stage) -> None:
    opened, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    found = await asyncio.gather(*(ledger.open_reply(opened.step, "audit/record") for _ in range(10)))
    good = [each for each in found if each.status < 400]
    assert len(good) == 2
    for each in found:
        if each not in good:
            assert refused(stage, each, "limit").facts is not None
            assert each.refusal["rule"] == "policy few obligation fan_out=2"
    other = await stage.accepted("ledger/lookup")
    for _ in range(3):
        (await ledger.open_reply(other.step, "audit/record")).ok()


async def test_a_bearer_does_not_pass_for_attested_by_a_certificate(stage: Stage) -> None:
    chat, lone = await stage.actor("agent/chat"), Bearer(stage=stage, path="agent/lone")
    await chat.open((await chat.intent())["step"], "ledger/lookup")
    token = stage.issuer.mint("alice", client_id="lone-app")
    wish = chat.intent_form(token, ceiling=CeilingSpec(tools=("ledger/*",), impact="high"))
    root = (await lone.form(wish)).ok()
    asked = {"v": 1, "parent": root["step"], "server": "ledger", "args": ARGS}
    (await lone.json("/v1/steps", {**asked, "tool": "note"})).ok()
    reply = await lone.json("/v1/steps", {**asked, "tool": "lookup"})
    refused(stage, reply, "policy")
    assert (
        reply.refusal["rule"]
        == f"policy v{stage.broker.live.now_in_force().versions.policy} attested obligation require=x509"
    )
    assert "X.509-SVID" in reply.refusal["reason"]


async def test_advice_knows_what_the_step_was_opened_with_and_what_policy_demands(stage: Stage) -> None:
    gate, chat = await stage.actor("gateway/edge"), await stage.actor("agent/chat")

    async def advised(who: str, step: str, tool: str) -> bool:
        question = {
            "subject": {"type": "workload", "id": spiffe(who)},
            "action": {"name": "open_step", "properties": {"args": ARGS}},
            "resource": {"type": "tool", "id": tool},
            "context": {"step": step},
        }
        headers = {"content-type": "application/json"}
        body = json.dumps(question).encode()
        return bool((await gate.send("POST", "/access/v1/evaluation", body, headers)).ok()["decision"])

    root = (await chat.intent())["step"]
    assert await advised("agent/chat", root, "ledger/lookup"), "every open proves a key, so advice need not"
    note, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    for _ in range(2):
        assert await advised("mcp-server/ledger", note.step, "audit/record")
        (await ledger.open_reply(note.step, "audit/record")).ok()
    assert not await advised("mcp-server/ledger", note.step, "audit/record")


async def test_what_is_redacted_is_told_to_no_auditor(stage: Stage) -> None:
    plain = await stage.accepted("ledger/transfer_twice", args={**ARGS, "to": SECRET})
    assert SECRET.encode() in (await stage.admin("GET", f"/v1/admin/explain/{plain.txn}")).raw
    opened, ledger = await stage.accepted(args={**ARGS, "to": SECRET}), await stage.actor("mcp-server/ledger")
    (await ledger.credential(opened.step)).ok()
    told = await stage.admin("GET", f"/v1/admin/explain/{opened.txn}")
    documents = [each for each in told.ok()["decisions"].values() if each["document"]["action"]]
    assert [each["redacted"] for each in documents] == [["to"], ["to"]]
    assert SECRET.encode() not in told.raw


async def test_a_misspelt_obligation_is_not_put_in_force(stage: Stage) -> None:
    (stage.folder / "policy" / "80.cedar").write_text(RULES.replace('@id("', '@id("more-'))
    before = stage.broker.live.now_in_force().versions.policy
    assert (await _apply(stage))["version"] == before + 1
    wrong = RULES.replace('@id("', '@id("yet-').replace("max_life", "max_lyfe")
    (stage.folder / "policy" / "80.cedar").write_text(wrong)
    assert "unknown obligation 'max_lyfe'" in (await _apply(stage))["refusal"]["reason"]
    assert stage.broker.live.now_in_force().versions.policy == before + 1


async def _apply(stage: Stage) -> dict[str, Any]:
    files = {path.name: path.read_text() for path in (stage.folder / "policy").iterdir()}
    return (await stage.apply("policy", json.dumps(files))).body
