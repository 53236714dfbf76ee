"""What operators see and do of approvals: on the admin socket, and over mTLS within their tenant."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from tests.attacks.test_approvals import ask
from tests.fakes.stage import ENTRIES, Actor, Reply, Stage, spiffe

AUDITOR = {"id": "auditor/eve", "role": "auditor", "name": "eve"}
SECRET = "a-word-that-only-persons-read"
ARGS: dict[str, Any] = {"all": True, "note": SECRET}


@pytest_asyncio.fixture(loop_scope="module")
async def stage() -> AsyncGenerator[Stage]:
    async with Stage(policy="approval", entries=[*ENTRIES, AUDITOR]) as made:
        yield made


async def listed(stage: Stage, query: str = "") -> list[dict[str, Any]]:
    reply = await stage.admin("GET", f"/v1/admin/approvals{query}")
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.body[""]
    return found


async def get(who: Actor, path: str) -> Reply:
    return await who.send("GET", f"/v1/admin/approvals{path}", b"", {})


async def post(who: Actor, path: str, members: dict[str, Any]) -> Reply:
    return await who.json(f"/v1/admin/approvals{path}", members)


async def test_the_list_says_what_waits_for_whom_and_names_no_argument(stage: Stage) -> None:
    asked = await ask(stage, ARGS)
    [shown] = await listed(stage)
    record = await asked.record()
    assert (shown["id"], shown["state"], shown["tool"]) == (asked.news["id"], "asked", "ledger/wipe")
    assert (shown["missing"], shown["may_still_sign"]) == (1, ["the requester"])
    assert (shown["origin"], shown["impact"]) == ("model", "high")
    assert shown["initiator"] == spiffe("agent/chat")
    assert shown["digest"] == record.asked.digest
    assert shown["policies"] == list(record.asked.policies)
    whole = await stage.admin("GET", f"/v1/admin/approvals/{asked.news['id']}")
    assert whole.body["signs"] == json.loads(json.dumps(record.asked.signed))
    assert SECRET.encode() not in whole.raw
    assert asked.alice.subject not in json.dumps(shown)


async def test_filters_choose_and_what_is_over_is_not_in_the_way(stage: Stage) -> None:
    one, two = await ask(stage), await ask(stage)
    await two.sign()
    names = {one.news["id"]: "asked", two.news["id"]: "given"}
    txn = (await one.record()).asked.step.txn
    for query, expected in {
        "": ["asked"],
        "?state=given": ["given"],
        "?state=all": ["given", "asked"],
        f"?state=all&txn={txn}": ["asked"],
        "?state=all&tool=ledger/wipe": ["given", "asked"],
        "?state=all&tool=ledger/note": [],
        f"?state=all&initiator={spiffe('agent/chat')}&limit=1": ["given"],
        f"?state=all&initiator={spiffe('agent/other')}": [],
    }.items():
        assert [names[each["id"]] for each in await listed(stage, query)] == expected, query


async def test_a_cancelled_approval_takes_its_step_with_it_and_is_told(stage: Stage) -> None:
    asked = await ask(stage)
    path = f"/v1/admin/approvals/{asked.news['id']}/cancel"
    assert (await stage.admin("POST", path, {"reason": ""})).status == 400
    cancelled = (await stage.admin("POST", path, {"reason": "a broken job"})).ok()
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "a broken job")
    assert cancelled["by"].startswith("uid ")
    assert (await asked.poll()).code == "access_denied"
    txn = (await asked.record()).asked.step.txn
    [told] = stage.happened(txn, "approval.cancelled")
    assert (told.facts or {})["reason"] == "a broken job"
    again = await stage.admin("POST", path, {"reason": "again"})
    assert (again.status, again.code) == (403, "access_denied")


async def test_a_reminder_is_told_again_until_it_is_over(stage: Stage) -> None:
    asked = await ask(stage)
    path = f"/v1/admin/approvals/{asked.news['id']}/remind"
    assert (await stage.admin("POST", path, {})).ok()["state"] == "asked"
    assert 'stepwrit_approvals_total{event="reminded"} 1.0' in stage.broker.metrics.text().decode()
    await asked.sign()
    assert (await stage.admin("POST", path, {})).code == "wrong_state"


async def test_an_operator_by_svid_does_the_same_and_an_auditor_only_reads(stage: Stage) -> None:
    asked, ops, eve = await ask(stage), await stage.actor("operator/ops"), await stage.actor("auditor/eve")
    name = asked.news["id"]
    for who in (ops, eve):
        assert (await get(who, f"/{name}")).ok()["id"] == name
    for verb, members in {"remind": {}, "cancel": {"reason": "no"}}.items():
        assert (await post(eve, f"/{name}/{verb}", members)).code == "wrong_workload"
    (await post(ops, f"/{name}/remind", {})).ok()
    assert (await post(ops, f"/{name}/cancel", {"reason": "no"})).ok()["by"] == spiffe("operator/ops")


async def test_another_tenants_operator_finds_nothing(stage: Stage) -> None:
    asked, blue = await ask(stage), await stage.actor("operator/blue")
    name = asked.news["id"]
    assert json.loads((await get(blue, "")).raw) == []
    theirs = await get(blue, f"/{name}")
    unknown = await get(blue, f"/apr_100{'A' * 26}")
    assert (theirs.status, theirs.code, theirs.refusal["reason"]) == (
        unknown.status,
        unknown.code,
        unknown.refusal["reason"],
    )
    for verb, members in {"remind": {}, "cancel": {"reason": "no"}}.items():
        assert (await post(blue, f"/{name}/{verb}", members)).code == "not_found"
    assert (await asked.record()).state == "asked"


@pytest.mark.parametrize("path", ["agent/chat", "mcp-server/ledger", "resource/bank/1"])
async def test_no_workload_is_an_operator_of_approvals(stage: Stage, path: str) -> None:
    asked, who = await ask(stage), await stage.actor(path)
    assert (await get(who, "")).code == "wrong_workload"
    assert (await post(who, f"/{asked.news['id']}/cancel", {"reason": "no"})).code == "wrong_workload"


async def test_gauges_and_times_tell_how_long_persons_take(stage: Stage) -> None:
    first = await ask(stage)
    stage.pass_time(40)
    second = await ask(stage)
    await second.sign()
    await stage.broker.chores.gauge()
    text = stage.broker.metrics.text().decode()
    assert "stepwrit_approvals_waiting 1.0" in text
    assert 40 <= value(text, "stepwrit_approvals_oldest_seconds") < 100
    assert 'stepwrit_approval_decision_seconds_count{outcome="given"} 1.0' in text
    stage.pass_time(3600)
    await stage.broker.chores.reap()
    await stage.broker.chores.gauge()
    text = stage.broker.metrics.text().decode()
    assert (await first.record()).state == "expired"
    assert "stepwrit_approvals_waiting 0.0" in text
    assert value(text, "stepwrit_approvals_oldest_seconds") == 0
    assert 'stepwrit_approvals_total{event="expired"} 1.0' in text
    assert value(text, 'stepwrit_approval_decision_seconds_sum{outcome="expired"}') > 600


async def test_what_ran_out_is_told_also_when_it_was_asked_for_before_a_restart(stage: Stage) -> None:
    asked = await ask(stage)
    await stage.restart()
    stage.pass_time(3600)
    await stage.broker.chores.reap()
    assert (await asked.record()).state == "expired"
    assert 'stepwrit_approvals_total{event="expired"} 1.0' in stage.broker.metrics.text().decode()


def value(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])
