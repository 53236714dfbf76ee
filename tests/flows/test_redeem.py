"""Redeem: exactly once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import AGENT, AUDIENCE, BANK, FILES, MAIL, OPS, TD, Rig
from tests.flows.test_opening import revoke
from tests.flows.test_performing import close

from stepwrit.digest import body_digest
from stepwrit.dpop import make_proof, token_hash
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows.redeem import redeem


async def credential(rig: Rig) -> str:
    return (await rig.credential(await rig.accepted())).credential


async def refused(rig: Rig, code: str, token: str, **changes: Any) -> Problem:
    """And nothing was spent: the credential still redeems."""
    with pytest.raises(Problem) as no:
        await rig.spend(token, **changes)
    assert no.value.code == code, no.value.reason
    assert rig.entries("refused")[-1]["ref"] == no.value.ref
    assert rig.entries("grant.redeemed") == []
    assert await rig.spend(token)
    return no.value


async def test_a_go_ahead_says_what_for_whom_and_who_started_it(rig: Rig) -> None:
    spent = await rig.spend(await credential(rig))
    assert (spent.grant.state, spent.grant.redeemed_by) == ("redeemed", BANK)
    assert (spent.step.step.origin, spent.step.step.chain[0].initiator) == ("model", AGENT)
    assert rig.entries("grant.redeemed")[-1]["redeemer"] == BANK


async def test_a_second_redeem_is_a_replay(rig: Rig) -> None:
    token = await credential(rig)
    await rig.spend(token)
    with pytest.raises(Refused) as no:
        await rig.spend(token)
    assert (no.value.code, no.value.rule) == ("replay", "repeat_same_call")


async def test_of_many_at_once_one_gets_the_go_ahead(rig: Rig) -> None:
    token = await credential(rig)
    done = await asyncio.gather(*(rig.spend(token) for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in done) == 1
    assert {each.code for each in done if isinstance(each, Problem)} == {"replay"}


async def test_a_lost_reply_is_repeated_to_the_same_operation_for_a_while(rig: Rig) -> None:
    token = await credential(rig)
    caller, asked = rig.caller(BANK, key=False), rig.use(token)
    first = await redeem(rig.house, caller, asked, "operation-r", "d")
    again = await redeem(rig.house, caller, asked, "operation-r", "d")
    assert first.grant == again.grant
    assert len(rig.entries("grant.redeemed")) == 1
    rig.clock.advance(11)
    with pytest.raises(Refused) as no:
        await redeem(rig.house, caller, asked, "operation-r", "d")
    assert no.value.code == "replay"


@pytest.mark.parametrize("who", [MAIL, AGENT, FILES, OPS])
async def test_only_the_registered_redeemer_redeems(rig: Rig, who: SpiffeId) -> None:
    await refused(rig, "wrong_workload", await credential(rig), who=who)


async def test_a_resource_of_another_audience_redeems_nothing(rig: Rig) -> None:
    other = SpiffeId(f"{TD}/api/other")
    entry = Entry(id=other, name="x", role="resource", tenant="acme", audience="https://other.example")
    rig.settings.registry = replace(rig.settings.registry, entries=(*rig.settings.registry.entries, entry))
    await refused(rig, "wrong_workload", await credential(rig), who=other)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": body_digest(b"x")},
        {"url": f"{AUDIENCE}/v1/other"},
        {"url": f"{AUDIENCE}/v1/transfers?x=1"},
    ],
)
async def test_a_changed_request_spends_nothing(rig: Rig, changes: dict[str, str]) -> None:
    await refused(rig, "request_changed", await credential(rig), **changes)


async def test_a_changed_method_spends_nothing(rig: Rig) -> None:
    token = await credential(rig)
    url = f"{AUDIENCE}/v1/transfers"
    proof = make_proof(rig.keys[MAIL], "PUT", url, rig.clock.time, "j", ath=token_hash(token))
    await refused(rig, "request_changed", token, method="PUT", proof=proof)


async def test_a_method_that_is_none_is_malformed(rig: Rig) -> None:
    token = await credential(rig)
    method = "PO ST"
    proof = make_proof(
        rig.keys[MAIL], method, f"{AUDIENCE}/v1/transfers", rig.clock.time, "j", ath=token_hash(token)
    )
    await refused(rig, "invalid_request", token, method=method, proof=proof)


async def test_another_keys_proof_or_none_spends_nothing(rig: Rig) -> None:
    await refused(rig, "wrong_workload", await credential(rig), by=FILES)
    rig.clock.advance(1)
    token = await credential(rig)
    await rig.store.reap(rig.clock.time)
    with pytest.raises(Unproven):
        await rig.spend(token, proof="x")
    assert await rig.spend(token)


async def test_a_proof_is_good_for_one_redeem(rig: Rig) -> None:
    one = await credential(rig)
    asked = rig.use(one)
    assert await redeem(rig.house, rig.caller(BANK, key=False), asked, rig.op(), "d")
    with pytest.raises(Refused) as no:
        await redeem(rig.house, rig.caller(BANK, key=False), asked, rig.op(), "d")
    assert no.value.code == "replay"


async def test_what_is_not_ours_is_not_a_credential(rig: Rig) -> None:
    token = await credential(rig)
    for bad in ("x", token[:-6] + "AAAAAA", ""):
        with pytest.raises(Unproven) as no:
            await rig.spend(bad)
        assert no.value.code == "invalid_token"
    assert await rig.spend(token)


async def test_a_url_that_is_none_is_malformed(rig: Rig) -> None:
    token = await credential(rig)
    asked = replace(rig.use(token), url="not a url")
    with pytest.raises(Malformed):
        await redeem(rig.house, rig.caller(BANK, key=False), asked, rig.op(), "d")


# --- ends


async def test_a_minute_later_it_is_expired_without_leeway(rig: Rig) -> None:
    token = await credential(rig)
    rig.clock.advance(60)
    with pytest.raises(Unproven) as no:
        await rig.spend(token)
    assert no.value.code == "expired"


async def test_a_closed_step_takes_its_credential_with_it(rig: Rig) -> None:
    step = await rig.accepted()
    token = (await rig.credential(step)).credential
    await close(rig, step.step.id)
    with pytest.raises(Refused) as no:
        await rig.spend(token)
    assert no.value.code == "closed"


@pytest.mark.parametrize(
    "what", ["workload", "redeemer", "tool", "resource", "key", "step", "grant", "requester"]
)
async def test_a_mark_stops_a_credential_that_was_issued_before_it(rig: Rig, what: str) -> None:
    step = await rig.accepted()
    issued = await rig.credential(step)
    assert step.step.intent.requester is not None
    target = {
        "workload": f"workload:{MAIL}",
        "redeemer": f"workload:{BANK}",
        "tool": "tool:mail/pay",
        "resource": f"resource:{AUDIENCE}",
        "key": f"key:{rig.keys[MAIL].thumbprint}",
        "step": f"step:{step.step.parent}",
        "grant": f"grant:{issued.record.grant.id}",
        "requester": f"requester:{step.step.intent.requester.opaque}",
    }[what]
    await revoke(rig, target, "freeze")
    with pytest.raises(Refused) as no:
        await rig.spend(issued.credential)
    assert no.value.code == "frozen"


# --- findings


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        ("request_changed", "request_changed"),
        ("expired", "expired"),
        ("anything", "invalid_request"),
        ("", "invalid_request"),
    ],
)
async def test_what_a_guard_refused_is_recorded_under_a_ref_and_spends_nothing(
    rig: Rig, finding: str, code: str
) -> None:
    step = await rig.accepted()
    issued = await rig.credential(step)
    problem = await refused(rig, code, issued.credential, finding=finding)
    entry = next(each for each in rig.entries("refused") if each["ref"] == problem.ref)
    assert (entry["grant"], entry["step"], entry["txn"], entry["rule"]) == (
        issued.record.grant.id,
        step.step.id,
        step.step.txn,
        "guard",
    )


async def test_a_finding_on_a_dead_credential_is_recorded_too(rig: Rig) -> None:
    token = await credential(rig)
    rig.clock.advance(300)
    with pytest.raises(Refused) as no:
        await rig.spend(token, finding="expired")
    assert no.value.code == "expired"
    assert rig.entries("refused")[-1]["tool"] == "mail/pay"


async def test_a_finding_on_what_is_not_ours_names_nothing(rig: Rig) -> None:
    with pytest.raises(Unproven):
        await rig.spend("x.y.z", finding="expired")
    assert "txn" not in json.dumps(dict(rig.entries("refused")[-1]))
