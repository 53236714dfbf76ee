"""Asking for advice, to learn of others, to be told yes by what is over, or to wear the broker out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from tests.conformance.authzen.scene import (
    GATEWAY,
    MANY,
    READ,
    RECORD_1,
    SINGLE,
    AskedStage,
    Scene,
    ask,
    decision,
    decisions,
    reason,
)
from tests.fakes.stage import LIMITS, Actor, Reply, spiffe

from stepwrit.wire import BODY_MAX_BYTES, CeilingSpec
from stepwrit_broker.edge.authzen.shapes import EVALUATIONS_MAX

TIGHT = LIMITS.replace(
    "concurrency:",
    "  - {name: questions, on: questions, per: [workload], rate: 60/min, burst: 10}\nconcurrency:",
).replace("count: 3", "count: 4")
_OWN = ("evaluation_id", "evaluated_at", "refusal")  # what differs from answer to answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked_stage() -> AsyncGenerator[AskedStage]:
    async with AskedStage() as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tight() -> AsyncGenerator[AskedStage]:
    async with AskedStage(limits=TIGHT) as stage:
        yield stage


async def scene_of(stage: AskedStage) -> Scene:
    scene = Scene(stage=stage, gateway=await stage.actor(GATEWAY))
    stage.forget_questions()
    stage.forget_refusals()
    return Scene(stage=stage, gateway=scene.gateway, roots={"alice": (await scene.root("alice"))["step"]})


def telling(reply: Reply) -> dict[str, Any]:
    """All that an answer tells, but for its own name and time."""
    context = reply.body["context"]
    refusal = {name: text for name, text in context["refusal"].items() if name != "ref"}
    return {
        "decision": decision(reply),
        **{k: v for k, v in context.items() if k not in _OWN},
        "refusal": refusal,
    }


# --- tenants: unknown and not-yours look alike


async def test_another_tenants_steps_subjects_and_tools_look_like_none(asked_stage: AskedStage) -> None:
    blue, edge = await asked_stage.actor("agent/blue"), await asked_stage.actor("gateway/blue")
    root = (await blue.intent(ceiling=CeilingSpec(tools=("vault/*",), impact="low")))["step"]
    theirs = {
        "subject": {"type": "workload", "id": blue.id}, "action": READ,
        "resource": {"type": "tool", "id": "vault/read"}, "context": {"step": root},
    }  # fmt: skip
    assert decision(await ask(edge, theirs)) is True, "in its own tenant it is answered"
    scene = await scene_of(asked_stage)
    mine = scene.question("alice", READ, RECORD_1)
    assert await scene.decide(mine) is True
    unknown = {
        "subject": {"subject": {"type": "workload", "id": spiffe("agent/nobody")}},
        "context": {"context": {"step": "stp_100" + root[7:-1] + ("0" if root[-1] != "0" else "1")}},
        "resource": {"resource": {"type": "tool", "id": "vault/none"}},
    }
    for part, nothing in unknown.items():
        foreign = await scene.ask({**mine, part: theirs[part]})
        assert telling(foreign) == telling(await scene.ask({**mine, **nothing})), part
    for part in ("subject", "context"):  # … and from the other side
        assert reason(await ask(edge, {**theirs, part: mine[part]})) == "not_found"


async def test_a_question_about_anothers_step_is_no_hop_of_its_story(asked_stage: AskedStage) -> None:
    scene = await scene_of(asked_stage)
    blue = await asked_stage.actor("agent/blue")
    root = await blue.intent(ceiling=CeilingSpec(tools=("vault/*",), impact="low"))
    body = {**scene.question("alice", READ, RECORD_1), "context": {"step": root["step"]}}
    reply = await scene.ask(body)
    assert reason(reply) == "not_found"
    assert asked_stage.happened(root["txn"], "question.answered") == []
    (entry,) = asked_stage.on_record(reply.body["context"]["evaluation_id"])
    assert entry.facts is not None
    assert entry.txn is None
    assert root["step"] not in str(entry.facts)


# --- marks, and what is over


@pytest.mark.parametrize(
    "target",
    [
        *("workload:{alice}", "workload:{below}", "workload:{server}", "tool:records/one", "server:records"),
        *("step:{root}", "txn:{txn}", "requester:{requester}", "key:{key}"),
    ],
)
async def test_a_mark_anywhere_above_makes_it_a_no_at_once(asked_stage: AskedStage, target: str) -> None:
    scene = await scene_of(asked_stage)
    alice = await asked_stage.actor("agent/alice")
    record = await asked_stage.broker.store.step(scene.roots["alice"])
    assert record is not None
    assert record.step.intent.requester is not None
    mark = target.format(
        alice=alice.id,
        below=spiffe("agent/*"),
        server=spiffe("mcp-server/records"),
        root=record.step.id,
        txn=record.step.txn,
        requester=record.step.intent.requester.opaque,
        key=alice.key.thumbprint,
    )
    body = scene.question("alice", READ, RECORD_1)
    assert await scene.decide(body) is True
    (await asked_stage.mark("freeze", mark)).ok()
    try:
        assert reason(await scene.ask(body)) == "frozen"
    finally:
        (await asked_stage.mark("unfreeze", mark)).ok()
    assert await scene.decide(body) is True


@pytest.mark.parametrize("target", ["workload:{narrow}", "tenant:default", "everything:all"])
async def test_a_frozen_asker_is_told_nothing(asked_stage: AskedStage, target: str) -> None:
    scene = await scene_of(asked_stage)
    narrow = await asked_stage.actor("gateway/narrow")
    body, mark = scene.question("alice", READ, RECORD_1), target.format(narrow=narrow.id)
    assert decision(await ask(narrow, body)) is True
    (await asked_stage.mark("freeze", mark)).ok()
    try:
        stopped = await ask(narrow, body)
        said = stopped.code if stopped.status == 403 else reason(stopped)
        assert said == "frozen"
    finally:
        (await asked_stage.mark("unfreeze", mark)).ok()
    assert decision(await ask(narrow, body)) is True


async def test_what_has_expired_or_was_narrowed_is_a_no(asked_stage: AskedStage) -> None:
    scene = await scene_of(asked_stage)
    alice = await asked_stage.actor("agent/alice")
    soon = int(asked_stage.now()) + 60
    root = (await alice.intent(ceiling=CeilingSpec(tools=("records/two",), impact="low"), exp=soon))["step"]
    body = {**scene.question("alice", READ, {"type": "tool", "id": "records/two"}), "context": {"step": root}}
    assert await scene.decide(body) is True
    assert reason(await scene.ask({**body, "resource": RECORD_1})) == "ceiling"
    asked_stage.pass_time(61)
    assert reason(await scene.ask(body)) == "expired"


# --- amplification


def items(scene: Scene, count: int) -> dict[str, Any]:
    return {"evaluations": [scene.question("alice", READ, RECORD_1)] * count}


async def test_a_request_holds_so_many_questions_and_so_many_bytes(asked_stage: AskedStage) -> None:
    scene = await scene_of(asked_stage)
    assert await scene.decide_all(items(scene, EVALUATIONS_MAX)) == [True] * EVALUATIONS_MAX
    assert (await scene.ask(items(scene, EVALUATIONS_MAX + 1), path=MANY)).status == 400
    body = scene.question("alice", READ, RECORD_1)
    body["context"]["padding"] = "x" * (BODY_MAX_BYTES // 2)
    assert await scene.decide(body) is True
    body["context"]["padding"] = "x" * BODY_MAX_BYTES
    assert (await scene.ask(body)).status == 400
    body["context"]["padding"] = None
    body["subject"] = {"type": "workload", "id": spiffe("agent/" + "x" * 3000)}
    assert (await scene.ask(body)).status == 400


async def test_every_question_is_charged_to_the_asker_also_within_one_request(tight: AskedStage) -> None:
    scene = await scene_of(tight)
    tight.pass_time(60)
    over = await scene.ask(items(scene, 11), path=MANY)
    assert (over.status, over.code) == (429, "limit")
    assert "retry_after" not in over.refusal, "so many at once never pass"
    assert await scene.decide_all(items(scene, 10)) == [True] * 10, "a refused request spends nothing"
    spent = await scene.ask(scene.question("alice", READ, RECORD_1))
    assert (spent.status, spent.code) == (429, "limit")
    assert 0 < spent.refusal["retry_after"] <= 1.01
    assert int(spent.headers["retry-after"]) >= 1
    tight.pass_time(2)
    later = await scene.ask(items(scene, 5), path=MANY)
    assert 2.5 < later.refusal["retry_after"] <= 3.01
    assert await scene.decide_all(items(scene, 2)) == [True] * 2
    other = await tight.actor("gateway/narrow")
    assert decision(await ask(other, scene.question("alice", READ, RECORD_1))) is True, (
        "each asker has its own"
    )


async def test_ids_below_one_pattern_share_its_rate(tight: AskedStage) -> None:
    scene = await scene_of(tight)
    tight.pass_time(60)
    body = scene.question("alice", READ, RECORD_1)
    fleet = [await tight.actor(f"gateway/fleet/{number}") for number in range(20)]
    replies = [await ask(each, body) for each in fleet]  # each ID asks once; the rate is 10, and one a second
    assert decision(replies[0]) is True
    assert 429 in [each.status for each in replies]


async def test_short_cuts_are_charged_in_full(tight: AskedStage) -> None:
    scene = await scene_of(tight)
    tight.pass_time(60)
    body = {**items(scene, 10), "options": {"evaluations_semantic": "permit_on_first_permit"}}
    assert await scene.decide_all(body) == [True]
    assert (await scene.ask(scene.question("alice", READ, RECORD_1))).status == 429


async def test_without_a_limit_on_questions_none_is_answered() -> None:
    async with AskedStage(limits=LIMITS) as stage:
        scene = await scene_of(stage)
        reply = await scene.ask(scene.question("alice", READ, RECORD_1))
        assert (reply.status, reply.code) == (429, "limit")
        assert "questions" in reply.refusal["reason"]
        (await stage.apply("limits", TIGHT)).ok()
        assert await scene.decide(scene.question("alice", READ, RECORD_1)) is True


async def test_beyond_a_rate_answers_are_one_entry_that_counts_them(asked_stage: AskedStage) -> None:
    scene = await scene_of(asked_stage)
    fleet: Actor = await asked_stage.actor("gateway/fleet/counted")
    before = asked_stage.broker.ledger.head()["size"]
    for _ in range(3):
        assert decisions(await ask(fleet, items(scene, 50), path=MANY)) == [True] * 50
    assert asked_stage.broker.ledger.head()["size"] - before == 60
    assert await asked_stage.broker.housed.answers.flush(asked_stage.now()) == 1
    (last,) = asked_stage.broker.ledger.tail(
        asked_stage.broker.ledger.head()["size"] - 2, 10, ["question.counted"], None
    )
    assert last.facts is not None
    assert (last.facts["caller"], last.facts["counted"]) == (fleet.id, {"permit": 90})


async def test_an_answer_opens_nothing(asked_stage: AskedStage) -> None:
    """What a yes shows, its name included, is no step, no token and no credential."""
    scene = await scene_of(asked_stage)
    reply = await scene.ask(scene.question("alice", READ, RECORD_1))
    assert decision(reply) is True
    server = await asked_stage.actor("mcp-server/records")
    got = await server.credential(reply.body["context"]["evaluation_id"])
    assert got.status in (400, 401, 403)
    again = {**scene.question("alice", READ, {"type": "tool", "id": "records/danger"})}
    again["context"]["approval"] = {"id": reply.body["context"]["evaluation_id"], "state": "approved"}
    assert reason(await scene.ask(again, path=SINGLE)) == "approval_required"
