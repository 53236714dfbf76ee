"""The certification's scenarios, by their numbers: Basic, Batch and Discovery, over the real HTTP face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.authzen.scene import (
    CONFIGURATION,
    MANY,
    READ,
    RECORD_1,
    RECORD_2,
    SINGLE,
    WRITE,
    Scene,
    decision,
    decisions,
    delete,
)

Body = dict[str, Any]


# --- c-1-4: the fixture's own decisions

FIXTURE: list[tuple[str, str, Body, Body, bool]] = [
    ("rule 1", "alice", READ, RECORD_1, True),
    ("rule 2", "alice", WRITE, RECORD_1, True),
    ("rule 3", "bob", READ, RECORD_1, True),
    ("rule 4", "bob", WRITE, RECORD_1, False),
    ("rule 5", "alice", WRITE, RECORD_2, False),
    ("rule 7", "alice", delete(soft=True), RECORD_1, True),
    ("rule 8", "alice", delete(soft=False), RECORD_1, False),
]


@pytest.mark.parametrize(
    ("rule", "who", "action", "resource", "expected"), FIXTURE, ids=[row[0] for row in FIXTURE]
)
@pytest.mark.parametrize("path", [SINGLE, MANY])
async def test_c_1_4_the_fixtures_decisions(
    scene: Scene, rule: str, who: str, action: Body, resource: Body, expected: bool, path: str
) -> None:
    assert await scene.decide(scene.question(who, action, resource), path=path) is expected, rule


async def test_c_2_2_3_an_optional_context_changes_no_decision(scene: Scene) -> None:
    body = scene.question("alice", READ, RECORD_1)
    body["context"] = scene.of("alice", time="2025-06-27T18:03-07:00", ip="192.168.1.1")
    assert await scene.decide(body) is True


async def test_c_2_2_8_additional_properties_are_accepted(scene: Scene) -> None:
    body = scene.question("alice", READ, RECORD_1)
    body["subject"] = {**scene.alice, "properties": {"department": "Sales", "role": "manager"}}
    body["action"] = {**READ, "properties": {"method": "GET"}}
    body["resource"] = {**RECORD_1, "properties": {"status": "active", "owner": "bob"}}
    assert await scene.decide(body) is True


async def test_c_2_2_9_unknown_fields_are_ignored(scene: Scene) -> None:
    body = scene.question("alice", READ, RECORD_1, foo="bar", futureField={"nested": True})
    assert await scene.decide(body) is True
    body["subject"]["later"] = body["action"]["later"] = body["resource"]["later"] = [1, None]
    assert await scene.decide(body) is True


# --- c-2-4: errors


def _without(*path: str) -> Callable[[Body], Body]:
    def change(body: Body) -> Body:
        at = body
        for name in path[:-1]:
            at[name] = at = dict(at[name])
        del at[path[-1]]
        return body

    return change


def _with(value: object, *path: str) -> Callable[[Body], Body]:
    def change(body: Body) -> Body:
        at = body
        for name in path[:-1]:
            at[name] = at = dict(at[name])
        at[path[-1]] = value
        return body

    return change


BAD: dict[str, Callable[[Body], Body]] = {
    "c-2-4-1 no subject": _without("subject"),
    "c-2-4-1 no action": _without("action"),
    "c-2-4-1 no resource": _without("resource"),
    "c-2-4-2 subject without type": _without("subject", "type"),
    "c-2-4-2 subject without id": _without("subject", "id"),
    "c-2-4-2 action without name": _without("action", "name"),
    "c-2-4-2 resource without type": _without("resource", "type"),
    "c-2-4-2 resource without id": _without("resource", "id"),
    "c-2-4-6 subject is a string": _with("alice", "subject"),
    "c-2-4-6 subject is null": _with(None, "subject"),
    "c-2-4-6 subject is an array": _with([], "subject"),
    "c-2-4-6 action.name is a number": _with(123, "action", "name"),
    "c-2-4-6 subject.id is a boolean": _with(True, "subject", "id"),
    "c-2-4-6 resource.type is an object": _with({}, "resource", "type"),
    "c-2-4-6 context is a string": _with("now", "context"),
    "c-2-4-6 context.step is a number": _with(7, "context", "step"),
    "c-2-4-6 subject.properties is an array": _with([], "subject", "properties"),
    "c-2-4-6 action.properties is a string": _with("x", "action", "properties"),
    "c-2-4-6 resource.properties is a number": _with(1, "resource", "properties"),
    "c-2-4-6 args is an array": _with([1], "action", "properties", "args"),
    "c-2-4-6 deferred is a string": _with("yes", "action", "properties", "deferred"),
}


@pytest.mark.parametrize("path", [SINGLE, MANY])
@pytest.mark.parametrize("name", BAD)
async def test_c_2_4_what_is_missing_or_of_another_type_is_a_400(scene: Scene, name: str, path: str) -> None:
    whole = scene.question("alice", {**READ, "properties": {}}, RECORD_1)
    assert await scene.decide(whole, path=path) is True
    reply = await scene.ask(BAD[name](whole), path=path)
    assert reply.status == 400, name
    assert reply.body["detail"], "an error message string"
    assert "decision" not in reply.body


NO_OBJECT: dict[str, bytes] = {
    "empty": b"",
    "cut": b"{",
    "null": b"null",
    "array": b"[]",
    "string": b'"text"',
    "number": b"7",
    "a member twice": b'{"subject":{},"subject":{}}',
    "no number": b'{"a":NaN}',
    "not UTF-8": b"\xff{}",
    "deep": b"[" * 5000,
    "deep below": b'{"a":' * 5000,
}


@pytest.mark.parametrize("path", [SINGLE, MANY])
@pytest.mark.parametrize("raw", NO_OBJECT.values(), ids=NO_OBJECT)
async def test_c_2_4_4_and_5_what_is_no_json_object_is_a_400(scene: Scene, raw: bytes, path: str) -> None:
    assert await scene.decide(scene.question("alice", READ, RECORD_1), path=path) is True
    assert (await scene.ask(raw, path=path)).status == 400


@pytest.mark.parametrize("path", [SINGLE, MANY])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_c_2_4_3_another_content_type_is_a_400(scene: Scene, kind: str, path: str) -> None:
    body = scene.question("alice", READ, RECORD_1)
    for good in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert await scene.decide(body, path=path, content_type=good) is True
    assert (await scene.ask(body, path=path, content_type=kind)).status == 400


async def test_only_post_is_served(scene: Scene) -> None:
    assert await scene.decide(scene.question("alice", READ, RECORD_1)) is True
    for path in (SINGLE, MANY):
        reply = await scene.gateway.send("GET", path, b"", {"x-request-id": "7"})
        assert (reply.status, reply.headers["allow"], reply.headers["x-request-id"]) == (405, "POST", "7")


# --- c-2-5, c-2-6


@pytest.mark.parametrize("path", [SINGLE, MANY])
async def test_c_2_5_1_the_request_id_comes_back_with_answers_and_errors(scene: Scene, path: str) -> None:
    body, name = scene.question("alice", READ, RECORD_1), "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"
    good = await scene.ask(body, path=path, x_request_id=name)
    assert (good.status, good.headers["x-request-id"]) == (200, name)
    no = await scene.ask(
        scene.question("bob", WRITE, RECORD_1), path=path, x_request_id="any string; of=any, kind"
    )
    assert (decision(no), no.headers["x-request-id"]) == (False, "any string; of=any, kind")
    bad = await scene.ask(b"{", path=path, x_request_id=name)
    assert (bad.status, bad.headers["x-request-id"]) == (400, name)
    stranger = await scene.stage.actor("agent/chat")
    forbidden = await scene.ask(body, path=path, by=stranger, x_request_id=name)
    assert (forbidden.status, forbidden.headers["x-request-id"]) == (403, name)


async def test_c_2_5_2_without_a_request_id_there_is_an_answer(scene: Scene) -> None:
    reply = await scene.ask(scene.question("alice", READ, RECORD_1))
    assert decision(reply) is True
    assert "x-request-id" not in reply.headers


async def test_c_2_6_the_same_question_gets_the_same_decision(scene: Scene) -> None:
    yes, no = scene.question("alice", READ, RECORD_1), scene.question("bob", WRITE, RECORD_1)
    for _ in range(5):
        assert (await scene.decide(yes), await scene.decide(no)) == (True, False)


# --- c-3: several


async def test_c_3_2_1_defaults_serve_each_evaluation(scene: Scene) -> None:
    body = {
        "subject": scene.alice, "action": READ, "context": scene.of("alice"),
        "evaluations": [{"resource": RECORD_1}, {"resource": RECORD_2}],
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, True]


async def test_c_3_2_2_order_is_kept(scene: Scene) -> None:
    body = {
        "subject": scene.bob, "resource": RECORD_1, "context": scene.of("bob"),
        "evaluations": [{"action": READ}, {"action": WRITE}],
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, False]
    body["evaluations"] = [{"action": WRITE}, {"action": READ}, {"action": WRITE}]
    assert await scene.decide_all(body) == [False, True, False]


async def test_c_3_2_3_each_evaluation_has_its_own_properties(scene: Scene) -> None:
    body = {
        "subject": scene.alice, "resource": RECORD_1, "context": scene.of("alice"),
        "evaluations": [{"action": delete(soft=True)}, {"action": delete(soft=False)}, {"action": READ}],
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, False, True]


async def test_c_3_2_5_no_defaults_are_needed(scene: Scene) -> None:
    items = [scene.question("alice", READ, RECORD_1), scene.question("bob", WRITE, RECORD_1)]
    assert await scene.decide_all({"evaluations": items}) == [True, False]


async def test_c_3_2_6_context_is_inherited_unless_overridden(scene: Scene) -> None:
    body = {
        "subject": scene.alice, "action": READ, "context": scene.of("alice", time="2025-06-27T18:03-07:00"),
        "evaluations": [
            {"resource": RECORD_1},
            {"resource": RECORD_2, "context": scene.of("alice", source="batch-override")},
            {"resource": RECORD_2, "context": {"time": "2025-06-27T19:00-07:00"}},
        ],
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, True, False], "another context has no step of the default's"


async def test_c_3_2_7_a_value_replaces_the_default_but_for_required_names(scene: Scene) -> None:
    body = {
        "subject": {"type": "workload"}, "context": scene.of("alice"),
        "action": {"name": "open_step", "properties": {"args": {"write": True}}},
        "resource": {"type": "tool", "id": "records/two"},
        "evaluations": [
            {"subject": {"id": scene.alice["id"]}, "resource": {"id": "records/one"}},
            {"subject": scene.alice, "resource": RECORD_2},
            {"subject": {"id": scene.alice["id"]}, "action": {"properties": {"args": {}}}},
            {"subject": {"id": scene.alice["id"]}, "action": {"name": "open_step"}},
        ],
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, False, True, True], "properties are not inherited by halves"


async def test_c_3_3_length_order_and_decisions(scene: Scene) -> None:
    items = [scene.question("alice", READ if n % 2 else delete(soft=False), RECORD_1) for n in range(50)]
    reply = await scene.ask({"evaluations": items}, path=MANY)
    assert decisions(reply) == [bool(n % 2) for n in range(50)]
    assert list(reply.body) == ["evaluations"]


@pytest.mark.parametrize("item", [{}, {"resource": "x"}, {"resource": {}}, None, "x", 7, []])
async def test_c_3_4_1_a_bad_evaluation_is_a_no_of_its_own(scene: Scene, item: object) -> None:
    body = {
        "subject": scene.alice, "action": READ, "context": scene.of("alice"),
        "evaluations": [{"resource": RECORD_1}, item, {"resource": RECORD_2}],
    }  # fmt: skip
    reply = await scene.ask(body, path=MANY)
    assert decisions(reply) == [True, False, True]
    context = reply.body["evaluations"][1]["context"]
    assert (context["reason"], context["error"]["status"]) == ("invalid_request", 400)
    assert context["error"]["message"]


async def test_c_3_4_2_and_3_no_or_no_evaluations_is_a_single_one(scene: Scene) -> None:
    for who, action, expected in (("alice", READ, True), ("bob", WRITE, False)):
        body = scene.question(who, action, RECORD_1)
        for whole in (body, {**body, "evaluations": []}):
            reply = await scene.ask(whole, path=MANY)
            assert decision(reply) is expected
            assert "evaluations" not in reply.body
    assert (await scene.ask({"evaluations": []}, path=MANY)).status == 400


@pytest.mark.parametrize("evaluations", [{}, "x", 7, None, True])
async def test_evaluations_of_another_type_are_a_400(scene: Scene, evaluations: object) -> None:
    body = scene.question("alice", READ, RECORD_1)
    assert await scene.decide(body, path=MANY) is True
    assert (await scene.ask({**body, "evaluations": evaluations}, path=MANY)).status == 400


@pytest.mark.parametrize("default", ["subject", "action", "resource", "context", "options"])
async def test_a_default_of_another_type_is_a_400(scene: Scene, default: str) -> None:
    body = {"evaluations": [scene.question("alice", READ, RECORD_1)]}
    assert await scene.decide_all(body) == [True]
    assert (await scene.ask({**body, default: "x"}, path=MANY)).status == 400


# --- 7.1.2.1: the three semantics

YES, NO = READ, delete(soft=False)
SEMANTICS: list[tuple[str | None, list[Body], list[bool]]] = [
    (None, [YES, NO, YES], [True, False, True]),
    ("execute_all", [YES, NO, YES], [True, False, True]),
    ("deny_on_first_deny", [YES, NO, YES], [True, False]),
    ("deny_on_first_deny", [YES, YES], [True, True]),
    ("permit_on_first_permit", [NO, YES, NO], [False, True]),
    ("permit_on_first_permit", [NO, NO], [False, False]),
]


@pytest.mark.parametrize(("semantic", "actions", "expected"), SEMANTICS)
async def test_the_three_semantics(
    scene: Scene, semantic: str | None, actions: list[Body], expected: list[bool]
) -> None:
    chosen = {} if semantic is None else {"evaluations_semantic": semantic}
    body: Body = {
        "subject": scene.alice, "resource": RECORD_1, "context": scene.of("alice"),
        "evaluations": [{"action": each} for each in actions],
        "options": {"another_option": "value", **chosen},
    }  # fmt: skip
    assert await scene.decide_all(body) == expected


async def test_an_error_ends_deny_on_first_deny_too(scene: Scene) -> None:
    body = {
        "subject": scene.alice, "action": READ, "context": scene.of("alice"),
        "evaluations": [{"resource": RECORD_1}, {}, {"resource": RECORD_1}],
        "options": {"evaluations_semantic": "deny_on_first_deny"},
    }  # fmt: skip
    assert await scene.decide_all(body) == [True, False]


@pytest.mark.parametrize("semantic", ["", "EXECUTE_ALL", "first", 1, None, ["execute_all"]])
async def test_a_semantic_that_is_not_one_of_the_three_is_a_400(scene: Scene, semantic: object) -> None:
    body: Body = {"evaluations": [scene.question("alice", READ, RECORD_1)], "options": {}}
    assert await scene.decide_all(body) == [True]
    body["options"] = {"evaluations_semantic": semantic}
    assert (await scene.ask(body, path=MANY)).status == 400


# --- c-6: discovery


async def test_c_6_the_metadata_names_what_is_served(scene: Scene) -> None:
    reply = await scene.gateway.send("GET", CONFIGURATION, b"", {})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    base = scene.stage.url
    assert base.startswith("https://")
    assert reply.body == {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + SINGLE,
        "access_evaluations_endpoint": base + MANY,
        "access_request_endpoint": base + "/access/v1/requests",
        "capabilities": ["urn:openid:authzen:capability:access-request"],
    }, "a parameter without a value is left out, and an API that is not served is not named"
    for name in ("subject", "resource", "action"):
        assert (await scene.ask({}, path=f"/access/v1/search/{name}")).status == 404


async def test_the_issuers_metadata_names_the_policy_decision_point(scene: Scene) -> None:
    reply = await scene.gateway.send("GET", "/.well-known/oauth-authorization-server", b"", {})
    assert reply.ok()["stepwrit_policy_decision_point"] == scene.stage.url
