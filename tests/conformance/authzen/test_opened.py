"""Questions about a step that is open: would it be accepted, would its performer get a credential."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.authzen.scene import Scene, decision, reason
from tests.fakes.stage import ARGS, BANK, URL, Opened, spiffe

LEDGER = {"type": "workload", "id": spiffe("mcp-server/ledger")}
TRANSFER = {"type": "tool", "id": "ledger/transfer"}
REQUEST = {"resource": BANK, "method": "POST", "url": URL}
Body = dict[str, Any]


def accepting(opened: Opened, **properties: Any) -> Body:
    return {
        "subject": LEDGER, "action": {"name": "accept_step", "properties": properties}, "resource": TRANSFER,
        "context": {"step": opened.step},
    }  # fmt: skip


def issuing(step: str, **properties: Any) -> Body:
    return {
        "subject": LEDGER, "action": {"name": "issue_credential", "properties": {**REQUEST, **properties}},
        "resource": TRANSFER, "context": {"step": step},
    }  # fmt: skip


# --- accept


async def test_a_call_is_let_begin_until_it_has_begun(scene: Scene) -> None:
    opened = await scene.stage.opened()
    assert decision(await scene.ask(accepting(opened))) is True
    assert decision(await scene.ask(accepting(opened, args=ARGS))) is True
    ledger = await scene.stage.actor("mcp-server/ledger")
    (await ledger.accept(opened)).ok()
    assert reason(await scene.ask(accepting(opened))) == "replay"
    (await ledger.json(f"/v1/steps/{opened.step}/wait", {"v": 1, "round": 1})).ok()
    assert decision(await scene.ask(accepting(opened))) is True, "the next round"
    (await ledger.close(opened.step, "cancelled")).ok()
    assert reason(await scene.ask(accepting(opened))) == "closed"


async def test_arguments_are_held_against_those_of_the_step(scene: Scene) -> None:
    opened = await scene.stage.opened()
    assert decision(await scene.ask(accepting(opened, args={"cents": 500, "to": "bob"}))) is True
    for args in ({**ARGS, "cents": 501}, {}, {**ARGS, "more": None}):
        assert reason(await scene.ask(accepting(opened, args=args))) == "arguments_changed"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": {"type": "workload", "id": spiffe("mcp-server/audit")}},
        {"subject": {"type": "workload", "id": spiffe("agent/chat")}},
        {"resource": {"type": "tool", "id": "ledger/lookup"}},
        {"resource": {"type": "tool", "id": "audit/record"}},
    ],
    ids=["another server", "its initiator", "another tool", "another server's tool"],
)
async def test_a_step_is_of_one_performer_and_one_tool(scene: Scene, change: Body) -> None:
    opened = await scene.stage.opened()
    for body in (accepting(opened), issuing((await scene.stage.accepted()).step)):
        assert decision(await scene.ask(body)) is True
        assert reason(await scene.ask({**body, **change})) == "not_found"


async def test_a_root_is_neither_accepted_nor_yields_anything(scene: Scene) -> None:
    opened = await scene.stage.opened()
    root = await scene.stage.root()
    assert decision(await scene.ask(accepting(opened))) is True
    for name in ("accept_step", "issue_credential"):
        body = {**accepting(opened), "action": {"name": name}, "context": {"step": root["step"]}}
        assert reason(await scene.ask(body)) == "not_found"
        assert reason(await scene.ask({**body, "context": {}})) == "no_step"


async def test_a_step_that_waits_for_a_person_is_not_begun(scene: Scene) -> None:
    alice, root = await scene.stage.actor("agent/alice"), await scene.root("alice")
    asked = await alice.open_reply(root["step"], "records/danger", {})
    assert asked.code == "authorization_pending"
    body = {
        "subject": {"type": "workload", "id": spiffe("mcp-server/records")},
        "action": {"name": "accept_step"},
        "resource": {"type": "tool", "id": "records/danger"},
        "context": {"step": asked.refusal["approval"]["step"]},
    }
    waiting = await scene.ask(body)
    assert reason(waiting) == "authorization_pending"
    assert "access_request" not in waiting.body["context"]


@pytest.mark.parametrize("target", ["step:{step}", "workload:{ledger}", "tool:ledger/transfer", "txn:{txn}"])
async def test_a_mark_stops_it_here_too(scene: Scene, target: str) -> None:
    opened, accepted = await scene.stage.opened(), await scene.stage.accepted()
    for body, of in ((accepting(opened), opened), (issuing(accepted.step), accepted)):
        assert decision(await scene.ask(body)) is True
        mark = target.format(step=of.step, txn=of.txn, ledger=LEDGER["id"])
        (await scene.stage.mark("freeze", mark)).ok()
        try:
            assert reason(await scene.ask(body)) == "frozen"
        finally:
            (await scene.stage.mark("unfreeze", mark)).ok()
        assert decision(await scene.ask(body)) is True


# --- credentials


async def test_a_credential_is_advised_as_it_would_be_issued(scene: Scene) -> None:
    accepted = await scene.stage.accepted()
    reply = await scene.ask(issuing(accepted.step))
    assert decision(reply) is True
    assert reply.body["context"]["policies"] == ["registered-tools"]
    assert reason(await scene.ask(issuing(accepted.step, method="DELETE"))) == "plan"
    assert reason(await scene.ask(issuing(accepted.step, url=URL + "/1"))) == "plan"
    assert (
        reason(await scene.ask(issuing(accepted.step, resource="https://nowhere.example")))
        == "invalid_target"
    )
    assert reason(await scene.ask(issuing(accepted.step, url="x"))) == "invalid_authorization_details"
    assert reason(await scene.ask(issuing(accepted.step, args={}))) == "arguments_changed"
    (await scene.stage.mark("freeze", f"resource:{BANK}")).ok()
    try:
        assert reason(await scene.ask(issuing(accepted.step))) == "frozen"
    finally:
        (await scene.stage.mark("unfreeze", f"resource:{BANK}")).ok()
    assert scene.stage.happened(accepted.txn, "grant.issued") == [], "nothing was issued"
    ledger = await scene.stage.actor("mcp-server/ledger")
    (await ledger.credential(accepted.step)).ok()


async def test_a_credential_needs_an_accepted_step_and_the_whole_request(scene: Scene) -> None:
    opened, accepted = await scene.stage.opened(), await scene.stage.accepted()
    assert decision(await scene.ask(issuing(accepted.step))) is True
    assert reason(await scene.ask(issuing(opened.step))) == "wrong_state"
    for missing in REQUEST:
        body = issuing(accepted.step)
        del body["action"]["properties"][missing]
        reply = await scene.ask(body)
        assert reason(reply) == "invalid_request"
        assert reply.body["context"]["error"]["status"] == 400
    assert (await scene.ask(issuing(accepted.step, method=7))).status == 400
    ledger = await scene.stage.actor("mcp-server/ledger")
    (await ledger.close(accepted.step)).ok()
    assert reason(await scene.ask(issuing(accepted.step))) == "already_done"


async def test_another_tenants_open_steps_look_like_none(scene: Scene) -> None:
    opened = await scene.stage.opened()
    assert decision(await scene.ask(accepting(opened))) is True
    blue = await scene.stage.actor("gateway/blue")
    vault = {"subject": LEDGER, "resource": {"type": "tool", "id": "vault/read"}}
    for name in ("accept_step", "issue_credential"):
        body = {**accepting(opened), **vault, "action": {"name": name, "properties": REQUEST}}
        assert reason(await scene.ask(body, by=blue)) == "not_found"
