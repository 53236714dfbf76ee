"""The Access Request and Approval Profile (ARAP, draft 1), where approval is what is missing.

MUSTs by the profile's section names; the Access Request Service is the broker itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from tests.conformance.authzen.scene import (
    MANY,
    READ,
    RECORD_1,
    WRITE,
    Scene,
    ask,
    decision,
    reason,
)
from tests.fakes.stage import Actor, Opened, Reply, accept_body, new

from stepwrit_broker.core.persons import Identity
from stepwrit_broker.flows import approving
from stepwrit_broker.ports_approval import Given

REQUESTS = "/access/v1/requests"
URN = "urn:openid:authzen:access-request:error:"
DANGER = {"type": "tool", "id": "records/danger"}
Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A requestable denial, and who may make a request of it."""

    scene: Scene
    alice: Actor
    body: Body
    context: Body

    @property
    def submission(self) -> Body:
        denial = {
            "evaluation_id": self.context["evaluation_id"],
            "evaluated_at": self.context["evaluated_at"],
            "expires_at": self.context["access_request"]["expires_at"],
            "binding_token": self.context["access_request"]["binding_token"],
            "reason": self.context["reason"],
        }
        return {
            **self.body,
            "denial": denial,
            "client": {"id": "edge"},
            "requested_access": {"emergency": True},
        }

    async def submit(self, body: Body | None = None, by: Actor | None = None, **how: Any) -> Reply:
        return await (by or self.alice).json(REQUESTS, self.submission if body is None else body, **how)

    async def again(self, approval: object, **changes: Any) -> Reply:
        """The re-evaluation, with the approval object unchanged."""
        context = {**self.body["context"], "approval": approval}
        return await self.scene.ask({**self.body, "context": context, **changes})


def with_args(**args: Any) -> Body:
    return {"name": "open_step", "properties": {"args": args}}


async def denied(scene: Scene, *, args: Body | None = None) -> Asked:
    root = await scene.root("alice")
    action = READ if args is None else with_args(**args)
    body = {**scene.question("alice", action, DANGER), "context": {"step": root["step"]}}
    reply = await scene.ask(body)
    assert reason(reply) == "approval_required"
    alice = await scene.stage.actor("agent/alice")
    return Asked(scene=scene, alice=alice, body=body, context=reply.body["context"])


async def task(by: Actor, name: str) -> Reply:
    return await by.send("GET", f"{REQUESTS}/{name}", b"", {})


async def sign(scene: Scene, name: str) -> None:
    """Alice, who wants it, signs it: what an adapter hands over once it has verified her signature."""
    house = scene.stage.broker.house
    record = await house.approvals.approval(name)
    assert record is not None
    by = Identity(scene.stage.issuer.url, "alice")
    given = Given(
        by=by, method="key", digest=record.asked.digest, authenticator=None, evidence={"signature": "s"}
    )
    assert (await approving.sign(house, name, given)).state == "given"


async def pending(scene: Scene, **how: Any) -> tuple[Asked, Body]:
    asked = await denied(scene, **how)
    reply = await asked.submit()
    assert reply.status == 202, reply.raw
    return asked, reply.body["task"]


def problem(reply: Reply) -> str:
    """The profile's own type of a problem."""
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.body["status"] == reply.status
    assert str(reply.body["type"]).startswith(URN), reply.raw
    return str(reply.body["type"]).removeprefix(URN)


# --- the whole way


async def test_from_a_denial_to_an_approved_call(scene: Scene) -> None:
    asked = await denied(scene, args={})
    hint = asked.context["access_request"]
    assert hint["endpoint"] == scene.stage.url + REQUESTS
    assert "next_action" not in asked.context
    left = datetime.fromisoformat(hint["expires_at"]).timestamp() - scene.stage.now()
    assert 290 < left <= 300

    reply = await asked.submit()
    made = reply.body["task"]
    assert (reply.status, made["status"], "result" in reply.body) == (202, "pending", False)
    assert made["status_endpoint"] == reply.headers["location"] == f"{scene.stage.url}{REQUESTS}/{made['id']}"
    assert made["links"]["ticket"].endswith(f"/approvals/{made['id']}")
    waiting = await task(asked.alice, made["id"])
    assert (waiting.status, waiting.body["task"]) == (200, made)
    assert waiting.headers["retry-after"] == "5"

    early = await asked.again({"id": made["id"]})
    assert reason(early) == "approval_required"
    assert (early.body["context"]["next_action"], early.body["context"]["retry_after"]) == ("retry", 5)

    await sign(scene, made["id"])
    done = (await task(asked.alice, made["id"])).ok()
    assert (done["task"]["status"], done["result"]["mode"]) == ("approved", "reevaluate")
    approval = done["result"]["approval"]
    assert approval["id"] == made["id"]
    assert datetime.fromisoformat(approval["approved_at"]) < datetime.fromisoformat(
        approval["approved_until"]
    )

    yes = await asked.again(approval)
    assert decision(yes) is True
    assert yes.body["context"]["approval"] == {name: approval[name] for name in ("id", "approved_until")}
    assert decision(await scene.ask(asked.body)) is False, "without the reference it is the same denial"

    step = made["https://stepwrit.dev/step"]
    token = (await asked.alice.token(step)).ok()
    opened = Opened(step=step, txn=token["txn"], token=token["token"], args={}, by=asked.alice)
    server = await scene.stage.actor("mcp-server/records")
    (await server.json(f"/v1/steps/{step}/accept", accept_body(opened))).ok()
    used = await asked.again(approval)
    assert (reason(used), used.body["context"]["next_action"]) == ("approval_required", "request")
    assert "access_request" in used.body["context"], "used once; a new one may be asked for"
    assert (await task(asked.alice, made["id"])).body["task"]["status"] == "approved"


async def test_a_denial_stays_one_whatever_it_says(scene: Scene) -> None:
    asked = await denied(scene)
    server = await scene.stage.actor("mcp-server/records")
    assert decision(await scene.ask(scene.question("alice", READ, RECORD_1))) is True
    assert (await server.credential(asked.context["access_request"]["binding_token"])).status >= 400


@pytest.mark.parametrize(
    ("action", "tool"), [(WRITE, "records/two"), (READ, "audit/record"), (READ, "records/none")]
)
async def test_only_what_an_approval_would_cure_is_requestable(scene: Scene, action: Body, tool: str) -> None:
    assert "access_request" in (await denied(scene)).context
    reply = await scene.ask(scene.question("alice", action, {"type": "tool", "id": tool}))
    assert decision(reply) is False
    assert "access_request" not in reply.body["context"]


async def test_in_a_batch_each_denial_has_its_own_binding(scene: Scene) -> None:
    root = (await scene.root("alice"))["step"]
    items = [
        {"action": {"name": "open_step", "properties": {"args": {"n": number}}}, "resource": DANGER}
        for number in (1, 2)
    ]
    reply = await scene.ask(
        {"subject": scene.alice, "context": {"step": root}, "evaluations": items}, path=MANY
    )
    first, second = (each["context"] for each in reply.body["evaluations"])
    assert first["access_request"]["binding_token"] != second["access_request"]["binding_token"]
    alice = await scene.stage.actor("agent/alice")
    body = {"subject": scene.alice, **items[0], "context": {"step": root}}
    wrong = Asked(scene=scene, alice=alice, body=body, context=second)
    right = Asked(scene=scene, alice=alice, body=body, context=first)
    assert problem(await wrong.submit()) == "invalid_denial_binding"
    assert (await right.submit()).status == 202


# --- the denial that it follows from

NOT_BOUND: dict[str, Callable[[Body], object]] = {
    "another resource": lambda body: body.update(resource={"type": "tool", "id": "records/two"}),
    "other arguments": lambda body: body.update(action=with_args(n=2)),
    "a property more": lambda body: body["subject"].update(properties={"role": "admin"}),
    "another step": lambda body: body["context"].update(step="stp_1000000000000000000000000000"),
    "no step": lambda body: body["context"].pop("step"),
    "another subject": lambda body: body["subject"].update(id=body["subject"]["id"] + "x"),
    "no token": lambda body: body["denial"].pop("binding_token"),
    "a token of nobody": lambda body: body["denial"].update(binding_token="e30.e30"),
    "no base64": lambda body: body["denial"].update(binding_token="x y.z"),
    "a token without an end": lambda body: body["denial"].update(
        binding_token=body["denial"]["binding_token"].partition(".")[0]
    ),
    "another evaluation": lambda body: body["denial"].update(evaluation_id="0000000000"),
    "another end": lambda body: body["denial"].update(expires_at="2100-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("name", NOT_BOUND)
async def test_a_request_is_bound_to_the_very_denial(scene: Scene, name: str) -> None:
    asked = await denied(scene, args={"n": 1})
    body = json.loads(json.dumps(asked.submission))
    NOT_BOUND[name](body)
    reply = await asked.submit(body)
    assert (reply.status, problem(reply)) == (400, "invalid_denial_binding")
    assert (await asked.submit()).status == 202, "the denial itself was good"


async def test_a_changed_end_inside_the_token_is_no_token(scene: Scene) -> None:
    asked = await denied(scene)
    body = asked.submission
    claims, _, mac = body["denial"]["binding_token"].partition(".")
    for forged in (claims[:-1] + ("A" if claims[-1] != "A" else "Q"), claims):
        changed = f"{forged}.{mac if forged != claims else mac[::-1]}"
        reply = await asked.submit({**body, "denial": {**body["denial"], "binding_token": changed}})
        assert problem(reply) == "invalid_denial_binding"
    assert (await asked.submit()).status == 202


async def test_without_a_denial_nothing_is_requestable(scene: Scene) -> None:
    asked = await denied(scene)
    body = {name: value for name, value in asked.submission.items() if name != "denial"}
    reply = await asked.submit(body)
    assert (reply.status, problem(reply)) == (400, "not_requestable")
    for items in ([{"resource": DANGER, "action": READ}], []):
        assert (await asked.submit({**asked.submission, "items": items})).status == 400
    for denial in ("x", {"binding_token": 7}, {"expires_at": "soon"}, {"evaluation_id": None}):
        assert (await asked.submit({**body, "denial": denial})).status == 400


async def test_an_old_denial_is_gone(own: Scene) -> None:
    asked = await denied(own)
    own.stage.pass_time(310)
    reply = await asked.submit()
    assert (reply.status, problem(reply)) == (410, "expired_denial")
    fresh = (await own.ask(asked.body)).body["context"]
    assert (await replace(asked, context=fresh).submit()).status == 202


async def test_context_may_be_added_to_and_an_actor_normalised(scene: Scene) -> None:
    asked = await denied(scene)
    body = json.loads(json.dumps(asked.submission))
    body["context"]["business_justification"] = "the customer waits"
    body["subject"]["properties"] = {"act": {"sub": "somebody"}}
    assert problem(await asked.submit(body)) == "invalid_denial_binding", "it was not asked about"
    del body["subject"]["properties"]
    assert (await asked.submit(body)).status == 202
    actor = {**asked.body, "subject": {**asked.body["subject"], "properties": {"act": {"sub": "a"}, "x": 1}}}
    context = (await scene.ask(actor)).body["context"]
    plain = {**actor, "subject": {**asked.body["subject"], "properties": {"x": 1}}}
    again = Asked(scene=scene, alice=asked.alice, body=plain, context=context)
    assert (await again.submit()).status == 202, "`subject.properties.act` is no part of the binding"


# --- who may request, who may look


async def test_only_the_subject_requests(scene: Scene) -> None:
    asked = await denied(scene)
    for path in ("gateway/edge", "agent/bob", "mcp-server/records", "operator/ops"):
        reply = await asked.submit(by=await scene.stage.actor(path))
        assert (reply.status, reply.code) == (403, "wrong_workload")
    assert (await asked.submit()).status == 202
    bare = await asked.alice.send(
        "POST", REQUESTS, json.dumps(asked.submission).encode(), {"content-type": "application/json"}
    )
    assert (bare.status, bare.code) == (401, "invalid_proof"), "a step is opened under a key"


async def test_a_task_is_there_for_its_initiator_and_for_who_may_ask_about_its_tool(scene: Scene) -> None:
    asked, made = await pending(scene)
    for by in (asked.alice, scene.gateway, await scene.stage.actor("mcp-server/records")):
        assert (await task(by, made["id"])).ok()["task"]["status"] == "pending"
    for path in ("agent/bob", "gateway/narrow", "gateway/blue", "agent/blue", "resource/shop"):
        by = await scene.stage.actor(path)
        unknown = await task(by, "apr_1000000000000000000000000000")
        found = await task(by, made["id"])
        assert (found.status, problem(found)) == (404, "unknown_task")
        assert found.body["detail"] == unknown.body["detail"]
    for name in ("", "x", "stp_1000000000000000000000000000", scene.roots["alice"], made["id"] + "/x"):
        assert (await task(asked.alice, name)).status == 404


async def test_who_polls_too_often_is_told_to_slow_down(own: Scene) -> None:
    asked, made = await pending(own)
    assert (await task(asked.alice, made["id"])).status == 200
    fast = await task(asked.alice, made["id"])
    assert (fast.status, fast.code) == (429, "slow_down")
    assert int(fast.headers["retry-after"]) >= 5
    assert (await task(own.gateway, made["id"])).status == 200, "each has a pace of its own"
    own.stage.pass_time(20)
    assert (await task(asked.alice, made["id"])).status == 200


async def test_only_get_reads_a_task_and_the_request_id_comes_back(scene: Scene) -> None:
    asked, made = await pending(scene)
    good = await asked.alice.send("GET", f"{REQUESTS}/{made['id']}", b"", {"x-request-id": "7"})
    assert (good.status, good.headers["x-request-id"]) == (200, "7")
    wrong = await asked.alice.json(f"{REQUESTS}/{made['id']}", {})
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET")
    assert (await asked.alice.send("GET", REQUESTS, b"", {})).status == 405


# --- ends


async def test_what_a_person_denies_is_denied(own: Scene) -> None:
    asked, made = await pending(own)
    who = Identity(own.stage.issuer.url, "alice")
    await approving.deny(own.stage.broker.house, who, made["id"], "not today")
    done = (await task(asked.alice, made["id"])).ok()
    assert (done["task"]["status"], "result" in done) == ("denied", False)
    reply = await asked.again({"id": made["id"]})
    assert (reason(reply), reply.body["context"]["next_action"]) == ("approval_required", "request")


async def test_what_nobody_signs_expires(own: Scene) -> None:
    asked, made = await pending(own)
    own.stage.pass_time(1000)
    assert (await task(asked.alice, made["id"])).ok()["task"]["status"] == "expired"


async def test_a_mark_stops_what_was_approved(scene: Scene) -> None:
    asked, made = await pending(scene)
    await sign(scene, made["id"])
    assert decision(await asked.again({"id": made["id"]})) is True
    (await scene.stage.mark("freeze", f"step:{made['https://stepwrit.dev/step']}")).ok()
    assert reason(await asked.again({"id": made["id"]})) == "frozen"


# --- approvals are for one thing


async def test_an_approval_is_for_the_very_step_and_for_nothing_else(scene: Scene) -> None:
    asked, made = await pending(scene, args={"n": 1})
    await sign(scene, made["id"])
    mine = {"id": made["id"], "approved_until": "2100-01-01T00:00:00Z", "state": {"any": "thing"}}
    assert decision(await asked.again(mine)) is True
    other_args = {"action": with_args(n=2)}
    deferred = {"action": {"name": "open_step", "properties": {"args": {"n": 1}, "deferred": True}}}
    other_root = (await scene.root("alice"))["step"]
    for changes in (other_args, deferred, {"context": {"step": other_root, "approval": mine}}):
        reply = await asked.again(mine, **changes)
        assert (reason(reply), reply.body["context"]["next_action"]) == ("approval_required", "request")
    for unknown in ({"id": "apr_1000000000000000000000000000"}, {"id": 7}, {}, "x", None, [mine]):
        reply = await asked.again(unknown)
        assert reason(reply) == "approval_required"
        assert "access_request" in reply.body["context"]
    assert decision(await asked.again(mine)) is True


async def test_the_same_key_gets_the_same_task_and_another_body_a_conflict(scene: Scene) -> None:
    asked, op = await denied(scene), new()
    first = await asked.submit(op=op)
    again = await asked.submit(op=op)
    assert first.body["task"]["id"] == again.body["task"]["id"]
    other = await asked.submit({**asked.submission, "requested_access": {}}, op=op)
    assert (other.status, problem(other)) == (409, "duplicate_request")


async def test_the_same_key_after_the_signature_gets_the_approved_task(scene: Scene) -> None:
    asked, op = await denied(scene), new()
    made = (await asked.submit(op=op)).body["task"]
    await sign(scene, made["id"])
    done = await asked.submit(op=op)
    assert (done.status, done.body["task"]["id"], done.body["task"]["status"]) == (
        201,
        made["id"],
        "approved",
    )


async def test_what_is_stopped_meanwhile_cannot_be_requested(scene: Scene) -> None:
    asked = await denied(scene)
    (await scene.stage.mark("freeze", "tool:records/danger")).ok()
    try:
        stopped = await asked.submit()
        assert (stopped.status, stopped.code) == (403, "frozen")
    finally:
        (await scene.stage.mark("unfreeze", "tool:records/danger")).ok()
    assert (await asked.submit()).status == 202


async def test_where_policy_wants_nobody_any_more_the_request_is_approved_at_once(own: Scene) -> None:
    asked = await denied(own)
    rule = own.stage.folder / "policy" / "40-approval.cedar"
    rule.unlink()
    await own.stage.broker.files.apply("policy")
    reply = await asked.submit()
    assert reply.status == 201, reply.raw
    assert (reply.body["task"]["status"], reply.body["result"]["mode"]) == ("approved", "reevaluate")
    made = reply.body["task"]
    assert (await task(asked.alice, made["id"])).ok() == reply.body
    assert (await task(own.gateway, made["id"])).status == 404
    assert decision(await asked.again(reply.body["result"]["approval"])) is True
    (await asked.alice.token(made["https://stepwrit.dev/step"])).ok()


async def test_a_request_is_on_record_as_the_step_that_it_opens(scene: Scene) -> None:
    asked, made = await pending(scene)
    root = await scene.stage.broker.store.step(asked.body["context"]["step"])
    assert root is not None
    (told,) = scene.stage.happened(root.step.txn, "approval.asked")
    assert told.facts is not None
    assert made["id"] in str(told.facts)
    assert len(scene.stage.happened(root.step.txn, "question.answered")) == 1
    narrow = await scene.stage.actor("gateway/narrow")
    assert decision(await ask(narrow, scene.question("alice", READ, RECORD_1))) is True
