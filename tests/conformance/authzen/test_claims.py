"""What a question cannot claim, and what an answer says."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from tests.conformance.authzen.scene import (
    MANY,
    READ,
    RECORD_1,
    RECORD_2,
    WRITE,
    Scene,
    ask,
    decision,
    delete,
    reason,
)
from tests.fakes.stage import Actor, spiffe

# --- who may ask


async def test_only_a_workload_that_the_registry_lets_ask_is_answered(scene: Scene) -> None:
    body = scene.question("alice", READ, RECORD_1)
    for path in ("gateway/edge", "mcp-server/records", "gateway/fleet/7"):
        assert decision(await ask(await scene.stage.actor(path), body)) is True
    for path in (
        "agent/alice",
        "agent/chat",
        "mcp-server/ledger",
        "resource/shop",
        "trigger/nightly",
        "operator/ops",
    ):
        for what in (body, b"{", {}):
            reply = await ask(await scene.stage.actor(path), what)
            assert (reply.status, reply.code, reply.refusal["rule"]) == (
                403,
                "wrong_workload",
                "registry may_ask",
            )
            assert scene.stage.on_record(reply.refusal["ref"])[0].kind == "refused"
    unknown = await ask(await scene.stage.actor("gateway/unknown"), body)
    assert (unknown.status, unknown.code) == (401, "unattested")
    assert unknown.headers["www-authenticate"]


async def test_an_asker_learns_nothing_beyond_its_own_tools(scene: Scene) -> None:
    narrow = await scene.stage.actor("gateway/narrow")
    assert decision(await ask(narrow, scene.question("alice", READ, RECORD_1))) is True
    known = await ask(narrow, scene.question("alice", READ, RECORD_2))
    unknown = await ask(narrow, scene.question("alice", READ, {"type": "tool", "id": "records/nothing"}))
    assert reason(known) == reason(unknown) == "ceiling"
    assert known.body["context"]["reason_user"] == unknown.body["context"]["reason_user"]
    for other in (
        spiffe("mcp-server/records") + "/one",
        "records/one/",
        "records//one",
        "records/ONE",
        "one",
        "",
    ):
        assert (
            reason(await ask(narrow, scene.question("alice", READ, {"type": "tool", "id": other})))
            == "ceiling"
        )


async def test_a_gateway_does_nothing_but_ask(scene: Scene) -> None:
    assert decision(await scene.ask(scene.question("alice", READ, RECORD_1))) is True
    opened = await scene.gateway.open_reply(scene.roots["alice"], "records/one")
    assert opened.status == 403
    started = await scene.gateway.form(scene.gateway.intent_form(None))
    assert started.status in (400, 403)


# --- what is believed


CLAIMS: dict[str, dict[str, Any]] = {
    "origin": {"origin": "human"},
    "chain": {"chain": []},
    "requester": {"requester": {"issuer": "https://idp", "subject": "ceo"}},
    "approval": {"approval": {"id": "apr_1000000000000000000000000000"}},
    "ceiling": {"ceiling": {"tools": ["*"], "impact": "high"}},
    "tenant": {"tenant": "blue"},
    "attested_by": {"attested_by": "x509"},
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_what_a_question_claims_changes_no_decision(scene: Scene, name: str) -> None:
    claim = CLAIMS[name]
    danger = {"type": "tool", "id": "records/danger"}
    asked = (
        ("alice", READ, RECORD_1),
        ("bob", WRITE, RECORD_1),
        ("alice", WRITE, RECORD_2),
        ("alice", READ, danger),
    )
    for who, action, resource in asked:
        body = scene.question(who, action, resource)
        before = await scene.decide(body)
        body["context"] |= claim
        for part in ("subject", "resource", "action"):
            body[part] = {**body[part], **claim, "properties": {**body[part].get("properties", {}), **claim}}
        assert await scene.decide({**body, **claim}) is before


async def test_rule_6_of_the_certification_a_role_is_not_for_the_request_to_say(scene: Scene) -> None:
    body = scene.question("bob", WRITE, RECORD_2)
    assert await scene.decide(scene.question("bob", READ, RECORD_2)) is True
    for role in ("admin", "operator", "agent"):
        body["subject"] = {**scene.bob, "properties": {"role": role}}
        assert await scene.decide(body) is False


async def test_what_a_server_would_start_is_the_servers_whatever_is_said(scene: Scene) -> None:
    """The origin is that of the step in the question: here one that a server performs."""
    chat = await scene.stage.actor("agent/chat")
    opened = await chat.open((await chat.intent())["step"], "ledger/transfer")
    ledger = await scene.stage.actor("mcp-server/ledger")
    (await ledger.accept(opened)).ok()
    for tool, expected in (("audit/record", True), ("audit/purge", False)):
        body = {
            "subject": {"type": "workload", "id": ledger.id}, "action": READ,
            "resource": {"type": "tool", "id": tool}, "context": {"step": opened.step, "origin": "model"},
        }  # fmt: skip
        assert await scene.decide(body) is expected
        real = await ledger.open_reply(opened.step, tool)
        assert (real.status == 201) is expected, "the advice is what the open says"


async def test_advice_is_what_a_real_open_says(scene: Scene) -> None:
    alice = await scene.stage.actor("agent/alice")
    asked: list[tuple[dict[str, Any], str, int, str]] = [
        (READ, "records/one", 201, ""),
        (WRITE, "records/two", 403, "policy"),
        (delete(soft=False), "records/one", 403, "policy"),
        (READ, "audit/record", 403, "ceiling"),
        (READ, "records/none", 403, "not_registered"),
    ]
    for action, tool, status, code in asked:
        answer = await scene.ask(scene.question("alice", action, {"type": "tool", "id": tool}))
        args = action.get("properties", {}).get("args", {})
        real = await alice.open_reply(scene.roots["alice"], tool, args)
        assert (real.status, real.status == 201) == (status, decision(answer))
        if code:
            refusal = answer.body["context"]["refusal"]
            assert (real.code, refusal["code"]) == (code, code)
            for member in ("reason", "rule", "who_can_change_it"):
                assert refusal.get(member) == real.refusal.get(member)


async def test_what_a_real_open_would_ask_persons_for_is_a_no_and_asks_nobody(scene: Scene) -> None:
    alice, root = await scene.stage.actor("agent/alice"), await scene.root("alice")
    danger = {"type": "tool", "id": "records/danger"}
    body = {**scene.question("alice", READ, danger), "context": {"step": root["step"]}}
    assert reason(await scene.ask(body)) == "approval_required"
    assert scene.stage.happened(root["txn"], "approval.asked") == []
    real = await alice.open_reply(root["step"], "records/danger", {})
    assert real.code == "authorization_pending"
    assert len(scene.stage.happened(root["txn"], "approval.asked")) == 1


async def test_the_client_s_own_tools_are_asked_about_like_others(scene: Scene) -> None:
    resource = {"type": "tool", "id": "client/elicitation"}
    alice, records = await scene.stage.actors("agent/alice", "mcp-server/records")
    opened = await alice.open((await scene.root("alice"))["step"], "records/one", args={})
    (await records.accept(opened)).ok()
    server = {"subject": {"type": "workload", "id": records.id}, "context": {"step": opened.step}}
    body = {**scene.question("alice", READ, resource), **server}
    assert await scene.decide(body) is True
    assert reason(await scene.ask({**body, "context": {}})) == "no_step"
    assert reason(await scene.ask(scene.question("alice", READ, resource))) == "ceiling", (
        "an agent asks nobody"
    )


# --- without a step


async def test_without_a_step_the_answer_is_no_and_says_whether_it_depends_on_one(scene: Scene) -> None:
    async def without(who: str, tool: str, **context: Any) -> str:
        body = scene.question(who, READ, {"type": "tool", "id": tool})
        return reason(await scene.ask({**body, "context": context}))

    assert await scene.decide(scene.question("alice", READ, RECORD_1)) is True
    assert await without("alice", "records/one") == "no_step"
    assert await without("alice", "records/one", origin="human", approval={"id": "x"}) == "no_step"
    assert await without("bob", "audit/record") == "ceiling", "the registry never lets bob start it"
    assert await without("alice", "records/none") == "not_registered"
    (await scene.stage.mark("freeze", "tool:records/two")).ok()
    try:
        assert await without("alice", "records/two") == "frozen"
    finally:
        (await scene.stage.mark("unfreeze", "tool:records/two")).ok()


async def test_the_step_must_be_the_subjects_and_must_run(scene: Scene) -> None:
    alice = await scene.stage.actor("agent/alice")
    root = (await scene.root("alice"))["step"]
    body = scene.question("alice", READ, RECORD_1)
    assert await scene.decide({**body, "context": {"step": root}}) is True
    assert reason(await scene.ask({**body, "context": {"step": scene.roots["bob"]}})) == "not_found"
    for unknown in ("", "stp_1", "stp_1" + "0" * 28, root + "0", "txn_" + root[4:]):
        assert reason(await scene.ask({**body, "context": {"step": unknown}})) == "not_found"
    opened = await alice.open(root, "records/one", args={})
    server = {"subject": {"type": "workload", "id": spiffe("mcp-server/records")}}
    child = {
        **body,
        **server,
        "resource": {"type": "tool", "id": "audit/record"},
        "context": {"step": opened.step},
    }
    assert reason(await scene.ask(child)) == "wrong_state", "nobody has accepted it"
    (await alice.close(root)).ok()
    assert reason(await scene.ask({**body, "context": {"step": root}})) == "already_done"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": {"type": "user", "id": "alice"}},
        {"subject": {"type": "workload", "id": "alice"}},
        {"subject": {"type": "workload", "id": spiffe("agent/nobody")}},
        {"subject": {"type": "workload", "id": spiffe("agent/alice", "elsewhere.test")}},
        {"action": {"name": "read"}},
        {"action": {"name": "start_intent"}},
        {"resource": {"type": "record", "id": "records/one"}},
    ],
    ids=["type", "no id", "unregistered", "foreign", "action", "intent", "resource"],
)
async def test_what_is_not_known_is_a_no(scene: Scene, change: dict[str, Any]) -> None:
    body = scene.question("alice", READ, RECORD_1)
    assert await scene.decide(body) is True
    assert reason(await scene.ask({**body, **change})) == "not_found"


async def test_a_subject_that_may_come_in_two_manners_is_allowed_what_both_are(scene: Scene) -> None:
    """High impact is not for bearers: what depends on the manner is not known, so it is a no."""
    both = await scene.stage.actor("agent/both")
    root = (await scene.root("both"))["step"]
    subject = {"type": "workload", "id": both.id}
    body = {"subject": subject, "action": READ, "resource": RECORD_1, "context": {"step": root}}
    assert await scene.decide(body) is True
    reply = await scene.ask({**body, "resource": {"type": "tool", "id": "records/danger"}})
    assert "jwt-never-high" in reply.body["context"]["refusal"]["rule"]


async def test_arguments_that_mean_two_things_are_refused_as_at_the_open(scene: Scene) -> None:
    body = scene.question("alice", READ, RECORD_1)
    assert await scene.decide(body) is True
    known = json.dumps({**body, "action": {"name": "open_step", "properties": {"args": "HERE"}}})
    for args in ('{"n":9007199254740993}', '{"n":1e999}', '{"s":"\\ud800"}'):
        raw = known.replace('"HERE"', args)
        for path in ("/access/v1/evaluation", MANY):
            assert (await scene.ask(raw.encode(), path=path)).status == 400


# --- what an answer says


async def test_a_yes_names_the_policies_and_versions_and_is_on_record(scene: Scene) -> None:
    reply = await scene.ask(scene.question("alice", READ, RECORD_1))
    context = reply.body["context"]
    assert context["policies"] == ["registered-tools"]
    assert set(context["versions"]) == {"policy", "registry", "limits"}
    assert datetime.fromisoformat(context["evaluated_at"]).tzinfo is not None
    (entry,) = scene.stage.on_record(context["evaluation_id"])
    assert entry.facts is not None
    assert entry.kind == "question.answered"
    said = {name: entry.facts[name] for name in ("caller", "asking", "subject", "tool", "step", "answer")}
    assert said == {
        "caller": scene.gateway.id, "subject": scene.alice["id"], "tool": "records/one",
        "asking": "open_step", "step": scene.roots["alice"], "answer": "permit",
    }  # fmt: skip
    assert entry.txn is not None, "it is told in the story of its transaction"
    assert "args" not in entry.facts


async def test_a_no_names_its_reason_in_words_that_are_fixed(scene: Scene) -> None:
    reply = await scene.ask(scene.question("bob", WRITE, RECORD_1))
    context = reply.body["context"]
    assert (context["reason"], context["reason_user"]) == ("policy", {"en": "bob may not write"})
    assert context["refusal"]["rule"] == f"policy v{context['versions']['policy']} bob-writes-nothing"
    assert "forbid" not in reply.raw.decode()
    (entry,) = scene.stage.on_record(context["evaluation_id"])
    assert entry.facts is not None
    assert (entry.facts["answer"], entry.facts["code"]) == ("deny", "policy")


async def test_names_that_nobody_registered_are_not_written_down(scene: Scene) -> None:
    stranger = {"subject": {"type": "user", "id": "alice@example.com"}}
    reply = await scene.ask({**scene.question("alice", READ, RECORD_1), **stranger})
    (entry,) = scene.stage.on_record(reply.body["context"]["evaluation_id"])
    assert "alice@example.com" not in str(entry.facts)


async def test_asking_opens_nothing_reserves_nothing_and_counts_against_no_transaction(scene: Scene) -> None:
    stage = scene.stage
    alice: Actor = await stage.actor("agent/alice")
    root = await scene.root("alice")
    before = dict(stage.broker.store.tats())
    body = {**scene.question("alice", READ, RECORD_1), "context": {"step": root["step"]}}
    for _ in range(10):
        assert await scene.decide(body) is True
    assert dict(stage.broker.store.tats()).items() <= before.items(), "old ones may have been purged"
    record = await stage.broker.store.step(root["step"])
    assert record is not None
    assert record.life.children == 0
    assert stage.happened(root["txn"], "step.opened") == []
    (await alice.open_reply(root["step"], "records/one", {})).ok()
