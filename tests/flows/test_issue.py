"""Issue one credential: the eight stages."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import build
from tests.flows.rig import AGENT, AUDIENCE, BODY, FILES, FOREIGN, ISSUER, MAIL, Rig, Stages
from tests.flows.test_opening import revoke
from tests.flows.test_performing import close

from stepwrit.digest import body_digest, request_digest_of
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.limits import ConcurrencyLimit
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.flows.issue import issue


async def refused(rig: Rig, code: str, step: StepRecord, **changes: Any) -> Problem:
    with pytest.raises(Problem) as no:
        await rig.credential(step, **changes)
    assert no.value.code == code, no.value.reason
    assert rig.entries("refused")[-1]["ref"] == no.value.ref
    return no.value


async def test_a_credential_says_one_request_of_one_step_for_one_audience(rig: Rig) -> None:
    step = await rig.accepted()
    issued = await rig.credential(step)
    claims = rig.credentials.read(issued.credential, rig.clock.time)
    assert step.step.action is not None
    assert step.step.intent.requester is not None
    assert (claims.issuer, claims.audience, claims.performer) == (ISSUER, AUDIENCE, MAIL)
    assert claims.chain == (MAIL, AGENT)
    assert (claims.step, claims.txn, claims.grant) == (step.step.id, step.step.txn, issued.record.grant.id)
    assert (claims.origin, claims.tool, claims.impact, claims.args) == (
        "model",
        "mail/pay",
        "low",
        step.step.action.args,
    )
    assert (claims.method, claims.url, claims.jkt) == (
        "POST",
        f"{AUDIENCE}/v1/transfers",
        rig.keys[MAIL].thumbprint,
    )
    assert claims.request == request_digest_of("POST", f"{AUDIENCE}/v1/transfers", BODY)
    assert claims.subject == step.step.intent.requester.opaque
    assert claims.exp - claims.iat == issued.expires_in == 60
    assert issued.record.state == "issued"


async def test_the_eight_stages_end_in_their_order(rig: Rig) -> None:
    step, stages = await rig.accepted(), Stages([])
    await issue(rig.house, rig.caller(MAIL), step.step.id, AUDIENCE, rig.details(), rig.op(), "d", stages)
    assert stages.marked == ["attest", "place", "decide", "reserve", "mint", "check"]


async def test_the_credential_is_in_no_repr_no_entry_and_no_row(rig: Rig) -> None:
    issued = await rig.credential(await rig.accepted())
    assert issued.credential not in repr(issued)
    assert issued.credential not in json.dumps([dict(each) for each in rig.entries()])
    assert issued.credential.rpartition(".")[2].encode() not in rig.path.read_bytes()


async def test_a_triggers_credential_names_the_trigger_as_subject(rig: Rig) -> None:
    from tests.flows.rig import CRON

    ready = await rig.open(await rig.start(CRON), who=CRON)
    taken = await rig.take(ready, by=CRON)
    claims = rig.credentials.read((await rig.credential(taken.record)).credential, rig.clock.time)
    assert (claims.subject, claims.origin) == (CRON, "server")


# --- 2 place


async def test_the_step_is_named_by_its_id_or_by_its_token(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    step = (await rig.take(ready)).record
    assert await rig.credential(step, subject=ready.token)
    await refused(rig, "invalid_token", step, subject="x.y.z")
    rig.clock.advance(70)
    await refused(rig, "expired", step, subject=ready.token)


async def test_only_the_steps_performer_and_only_after_its_accept(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    with pytest.raises(Conflict) as early:
        await rig.credential(ready.record)
    assert early.value.code == "wrong_state"
    step = (await rig.take(ready)).record
    assert await rig.credential(step)
    for who in (FILES, AGENT):
        with pytest.raises(Refused) as no:
            await rig.credential(step, who=who)
        assert no.value.code == "not_found"
    await refused(rig, "not_found", step, who=FOREIGN)
    await refused(rig, "not_found", step, subject="stp_100" + "0" * 26)


async def test_an_intent_never_yields_a_credential(rig: Rig) -> None:
    await refused(rig, "no_step", await rig.start(), who=AGENT)


@pytest.mark.parametrize("audience", ["", "https://other.example", AUDIENCE + "/", "https://theirs.example"])
async def test_an_audience_without_a_resource_in_the_tenant_is_an_invalid_target(
    rig: Rig, audience: str
) -> None:
    step = await rig.accepted()
    assert await rig.credential(step)
    await refused(rig, "invalid_target", step, audience=audience)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"url": f"{AUDIENCE}/v1/other"},
        {"url": f"{AUDIENCE}/v1/transfers?x=1"},
        {"url": "https://evil.example/v1/transfers"},
    ],
)
async def test_a_request_outside_the_plan_gets_nothing(rig: Rig, changes: dict[str, str]) -> None:
    step = await rig.accepted()
    await refused(rig, "plan", step, **changes)
    assert await rig.credential(step)


async def test_a_tool_without_a_plan_gets_nothing(rig: Rig) -> None:
    await refused(rig, "plan", await rig.accepted("mail/plain"))
    await refused(rig, "plan", await rig.accepted("mail/note"))


@pytest.mark.parametrize(
    "url", ["", "/v1/transfers", "ftp://bank.example/", "https://u:p@bank.example/", f"{AUDIENCE}/%zz"]
)
async def test_what_is_no_url_is_malformed(rig: Rig, url: str) -> None:
    step = await rig.accepted()
    with pytest.raises(Malformed) as no:
        await rig.credential(step, url=url)
    assert no.value.code == "invalid_authorization_details"


async def test_one_spelling_of_a_url_is_bound_and_recorded(rig: Rig) -> None:
    issued = await rig.credential(await rig.accepted(), url="HTTPS://BANK.example:443/v1/./transfers")
    assert issued.record.grant.url == f"{AUDIENCE}/v1/transfers"


async def test_a_line_of_the_plan_is_used_as_often_as_it_says_and_an_expired_use_comes_back(rig: Rig) -> None:
    step = await rig.accepted()
    look = {"method": "GET", "url": f"{AUDIENCE}/v1/7?page=1"}
    first = await rig.credential(step)
    await rig.credential(step, **look)
    await rig.credential(step, **look)
    await refused(rig, "plan", step, **look)
    problem = await refused(rig, "plan", step)
    assert problem.rule == "plan times"
    await rig.spend(first.credential)
    rig.clock.advance(59)
    from tests.flows.test_performing import beat

    await beat(rig, step.step.id)
    rig.clock.advance(2)
    await rig.credential(step, **look)
    await refused(rig, "plan", step)


# --- lives


async def test_a_credential_never_outlives_the_svid_or_the_accepted_step(rig: Rig) -> None:
    step = await rig.accepted()
    caller = rig.caller(MAIL)
    short = replace(caller, workload=replace(caller.workload, expires_at=rig.clock.time + 10.9))
    issued = await issue(rig.house, short, step.step.id, AUDIENCE, rig.details(), rig.op(), "d", Stages([]))
    assert issued.record.grant.expires_at == rig.clock.time + 10
    gone = replace(
        caller, workload=replace(caller.workload, expires_at=rig.clock.time + 0.5), proof_jti="other"
    )
    with pytest.raises(Refused) as no:
        await issue(
            rig.house,
            gone,
            step.step.id,
            AUDIENCE,
            rig.details(method="GET", url=f"{AUDIENCE}/v1/7"),
            rig.op(),
            "d",
            Stages([]),
        )
    assert no.value.code == "expired"


async def test_a_credential_ends_with_the_accepted_steps_clock(rig: Rig) -> None:
    rig.settings.limits = replace(build.limits(), lives=replace(build.limits().lives, accepted_s=30.0))
    rig.store.use(rig.settings.limits, lambda: 0)
    issued = await rig.credential(await rig.accepted())
    assert issued.expires_in == 30


# --- 3, 4, 5


async def test_policy_is_asked_on_the_servers_own_identity(rig: Rig) -> None:
    step = await rig.accepted()
    await rig.credential(step)
    asked = rig.policy.asked[-1]
    assert (asked.asking, asked.principal, asked.document["audience"]) == ("issue_credential", MAIL, AUDIENCE)
    rig.policy.says = Deny(policies=("d",), reason="no")
    await refused(rig, "policy", step, method="GET", url=f"{AUDIENCE}/v1/7")
    rig.policy.says = NeedsApproval(policies=("a",), setting="stance")
    await refused(rig, "approval_required", step, method="GET", url=f"{AUDIENCE}/v1/7")
    rig.policy.says = Permit(policies=("p",))
    assert len(rig.entries("grant.issued")) == 1


async def test_an_initiator_who_is_not_registered_any_more_gets_its_server_nothing(rig: Rig) -> None:
    step = await rig.accepted()
    kept = tuple(entry for entry in rig.settings.registry.entries if entry.id != AGENT)
    rig.settings.registry = replace(rig.settings.registry, entries=kept)
    await refused(rig, "not_registered", step)


async def test_limits_and_concurrency_hold_and_a_redeem_gives_room_again(rig: Rig) -> None:
    most = ConcurrencyLimit(name="c", per=("workload",), match=(), most=1)
    step, other = await rig.accepted(), await rig.accepted()
    rig.settings.limits = replace(rig.settings.limits, concurrency=(most,))
    rig.store.use(rig.settings.limits, lambda: 0)
    first = await rig.credential(step)
    problem = await refused(rig, "limit", other)
    assert problem.rule == "limits v0 c"
    await rig.spend(first.credential)
    assert await rig.credential(other)


async def test_stale_versions_are_decided_again_with_the_same_proof(rig: Rig) -> None:
    step = await rig.accepted()
    rig.settings.stale = 2
    assert await rig.credential(step)
    rig.settings.stale = 3
    with pytest.raises(Conflict) as no:
        await rig.credential(step, method="GET", url=f"{AUDIENCE}/v1/7")
    assert no.value.code == "stale_version"


@pytest.mark.parametrize("what", ["workload", "tool", "resource", "key", "step", "server"])
async def test_a_mark_stops_the_next_credential(rig: Rig, what: str) -> None:
    step = await rig.accepted()
    assert await rig.credential(step, method="GET", url=f"{AUDIENCE}/v1/7")
    name = {
        "workload": MAIL,
        "tool": "mail/pay",
        "resource": AUDIENCE,
        "key": rig.keys[MAIL].thumbprint,
        "step": step.step.id,
        "server": "mail",
    }[what]
    await revoke(rig, f"{what}:{name}", "freeze")
    await refused(rig, "frozen", step)


async def test_a_closed_step_yields_nothing(rig: Rig) -> None:
    step = await rig.accepted()
    await close(rig, step.step.id)
    await refused(rig, "already_done", step)


async def test_a_proof_of_key_is_required_and_used_once(rig: Rig) -> None:
    step, caller = await rig.accepted(), rig.caller(MAIL)
    look = rig.details(method="GET", url=f"{AUDIENCE}/v1/7")
    await issue(rig.house, caller, step.step.id, AUDIENCE, look, rig.op(), "d", Stages([]))
    with pytest.raises(Refused) as no:
        await issue(rig.house, caller, step.step.id, AUDIENCE, look, rig.op(), "d", Stages([]))
    assert no.value.code == "replay"
    with pytest.raises(Unproven):
        await issue(
            rig.house, rig.caller(MAIL, key=False), step.step.id, AUDIENCE, look, rig.op(), "d", Stages([])
        )


# --- repeats


async def test_the_same_operation_mints_the_same_claims_again(rig: Rig) -> None:
    step = await rig.accepted()

    async def again() -> Any:
        return await issue(
            rig.house, rig.caller(MAIL), step.step.id, AUDIENCE, rig.details(), "operation-i", "d", Stages([])
        )

    first = await again()
    rig.clock.advance(5)
    second = await again()
    assert second.record == first.record
    assert rig.credentials.read(second.credential, rig.clock.time) == rig.credentials.read(
        first.credential, rig.clock.time
    )
    assert second.expires_in == 55
    assert len(rig.entries("grant.issued")) == 1
    await rig.spend(second.credential)
    with pytest.raises(Refused) as no:
        await rig.spend(first.credential)
    assert no.value.code == "replay"


async def test_another_request_under_the_same_operation_is_a_conflict(rig: Rig) -> None:
    step = await rig.accepted()
    for digest, ok in (("d", True), ("other", False)):
        call = issue(
            rig.house,
            rig.caller(MAIL),
            step.step.id,
            AUDIENCE,
            rig.details(),
            "operation-i",
            digest,
            Stages([]),
        )
        if ok:
            await call
            continue
        with pytest.raises(Conflict) as no:
            await call
        assert no.value.code == "operation_reused"


async def test_a_body_is_bound_by_its_digest(rig: Rig) -> None:
    issued = await rig.credential(await rig.accepted(), body=body_digest(b"other"))
    with pytest.raises(Refused) as no:
        await rig.spend(issued.credential)
    assert no.value.code == "request_changed"


@pytest.mark.parametrize("told", [True, False])
async def test_the_person_is_named_only_to_an_audience_that_the_registry_lets_see_it(
    rig: Rig, told: bool
) -> None:
    entries = tuple(
        replace(entry, person_claims=told) if entry.role == "resource" else entry
        for entry in rig.settings.registry.entries
    )
    rig.settings.registry = replace(rig.settings.registry, entries=entries)
    claims = json.loads((await rig.credential(await rig.accepted())).record.grant.claims)
    assert ("sub_id" in claims) is told
