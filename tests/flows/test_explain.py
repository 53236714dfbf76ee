"""The whole story under one ref."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import AGENT, AUDIENCE, MAIL, Rig
from tests.flows.test_opening import revoke
from tests.flows.test_performing import close

from stepwrit_broker.core.errors import Refused, Unproven
from stepwrit_broker.core.verdict import Deny
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import LoggedEntry


@pytest.fixture
def view(rig: Rig) -> Iterator[SqliteLedgerView]:
    one = SqliteLedgerView(rig.path)
    yield one
    one.close()


async def told(rig: Rig, view: SqliteLedgerView) -> tuple[dict[str, Any], str]:
    step = await rig.accepted()
    with pytest.raises(Refused):
        await rig.credential(step, method="PUT")
    issued = await rig.credential(step)
    await rig.spend(issued.credential)
    child = await rig.open(step, "files/read", who=MAIL)
    with pytest.raises(Refused):
        await rig.open(step, "files/none", who=MAIL)
    await close(rig, step.step.id)
    return explain(view, issued.record.grant.ref, None), child.record.step.id


async def test_a_ref_tells_who_started_what_and_what_became_of_it(rig: Rig, view: SqliteLedgerView) -> None:
    story, child = await told(rig, view)
    root = story["root"]
    assert (root["initiator"], root["origin"], root["proof"], root["purpose"]) == (
        AGENT,
        "human",
        "presented",
        "pay bob",
    )
    assert root["requester"] == {"issuer": "https://idp.example", "subject": "alice"}
    (top,) = story["steps"]
    (step,) = top["children"]
    assert (step["tool"], step["origin"], step["state"]) == ("mail/pay", "model", "done")
    assert [(each["state"], each["audience"]) for each in step["credentials"]] == [("redeemed", AUDIENCE)]
    assert [(each["verb"], each["code"]) for each in step["refusals"]] == [
        ("credential", "plan"),
        ("open", "not_registered"),
    ]
    (server,) = step["children"]
    assert (server["step"], server["origin"], server["state"]) == (child, "server", "cancelled")


async def test_events_are_in_order_and_each_step_names_its_decision(rig: Rig, view: SqliteLedgerView) -> None:
    story, _ = await told(rig, view)
    seqs = [event["seq"] for event in story["events"]]
    assert seqs == sorted(seqs)
    assert [event["kind"] for event in story["asked"]] == ["grant.issued", "grant.redeemed"]
    decision = story["steps"][0]["children"][0]["decision"]
    assert story["decisions"][decision]["verdict"] == "permit"
    json.dumps(story)


async def test_a_transaction_is_told_by_its_id_too(rig: Rig, view: SqliteLedgerView) -> None:
    story, _ = await told(rig, view)
    assert explain(view, story["txn"], None)["events"] == story["events"]
    assert explain(view, story["txn"], "acme")["steps"] == story["steps"]


async def test_a_refusal_before_any_transaction_is_a_story_of_its_own(
    rig: Rig, view: SqliteLedgerView
) -> None:
    with pytest.raises(Unproven) as no:
        await rig.spend("x")
    story = explain(view, no.value.ref or "", None)
    assert (story["txn"], story["root"], story["steps"]) == (None, None, [])
    assert [event["kind"] for event in story["events"]] == ["refused"]


async def test_a_revocation_is_part_of_the_story(rig: Rig, view: SqliteLedgerView) -> None:
    step = await rig.accepted()
    await revoke(rig, f"step:{step.step.id}")
    await rig.store.reap(rig.clock.time)
    story = explain(view, step.step.ref, None)
    assert "mark.set" in [event["kind"] for event in story["events"]]
    assert story["steps"][0]["children"][0]["state"] == "revoked"


async def test_another_tenants_story_looks_like_none(rig: Rig, view: SqliteLedgerView) -> None:
    story, _ = await told(rig, view)
    refs = (story["asked"][0]["ref"], story["txn"])
    for name in refs:
        assert explain(view, name, "acme")
        with pytest.raises(Refused) as no:
            explain(view, name, "evil")
        with pytest.raises(Refused) as unknown:
            explain(view, "0" * 10, "evil")
        assert (no.value.code, no.value.reason) == (unknown.value.code, unknown.value.reason)


@pytest.mark.parametrize("name", ["", "x", "stp_100" + "0" * 26, "txn_100" + "0" * 26, "0" * 10])
async def test_what_names_nothing_is_not_found(view: SqliteLedgerView, name: str) -> None:
    with pytest.raises(Refused) as no:
        explain(view, name, None)
    assert no.value.code == "not_found"


async def test_an_entry_of_a_kind_that_is_not_known_yet_changes_no_state(
    rig: Rig, view: SqliteLedgerView
) -> None:
    story, _ = await told(rig, view)
    entries = list(view.of_txn(story["txn"]))
    newer = replace(entries[-1], kind="approval.asked", facts={"step": story["steps"][0]["step"]})

    class Newer(Erased):
        def of_txn(self, txn: str) -> list[LoggedEntry]:
            return [*entries, newer]

    ledger: Any = Newer(view, bodies=True)
    assert explain(ledger, story["txn"], None)["steps"][0]["state"] == story["steps"][0]["state"]


class Erased:
    """A ledger of which only the frame is left: bodies exported, decisions erased."""

    def __init__(self, real: SqliteLedgerView, *, bodies: bool) -> None:
        self.real, self.bodies = real, bodies

    def of_txn(self, txn: str) -> list[LoggedEntry]:
        found = self.real.of_txn(txn)
        return list(found) if self.bodies else [replace(each, facts=None) for each in found]

    def decision(self, digest: str) -> Mapping[str, object] | None:
        return None


async def test_what_was_erased_or_exported_is_told_as_far_as_it_is_known(
    rig: Rig, view: SqliteLedgerView
) -> None:
    story, _ = await told(rig, view)
    erased: Any = Erased(view, bodies=True)
    kept = explain(erased, story["txn"], None)
    assert set(kept["decisions"].values()) == {None}
    assert (kept["root"]["requester"], kept["root"]["purpose"], kept["root"]["origin"]) == (
        None,
        None,
        "human",
    )
    framed: Any = Erased(view, bodies=False)
    assert [event["kind"] for event in explain(framed, story["txn"], None)["events"]] == [
        event["kind"] for event in story["events"]
    ]


async def test_a_step_that_policy_refused_names_the_decision_that_refused_it(
    rig: Rig, view: SqliteLedgerView
) -> None:
    step = await rig.accepted()
    rig.policy.says = Deny(policies=("no-exports",), reason="no")
    with pytest.raises(Refused) as no:
        await rig.credential(step)
    told: Any = explain(view, no.value.ref or "", None)
    (refusal,) = told["steps"][0]["children"][0]["refusals"]
    decided = told["decisions"][refusal["decision"]]
    assert (decided["verdict"], decided["policies"]) == ("deny", ["no-exports"])
