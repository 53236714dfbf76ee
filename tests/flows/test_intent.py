"""Start a transaction."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import build
from tests.flows.rig import AGENT, BANK, CRON, FILES, IDP, ISSUER, MAIL, OTHER_AGENT, PURPOSE, Rig

from stepwrit.wire import Budget, CeilingSpec
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.limits import RateLimit
from stepwrit_broker.core.obligations import Obligation
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.flows.house import requester_of
from stepwrit_broker.flows.intent import IntentStarted, bound_nonce, start_intent
from stepwrit_broker.ledger.view import SqliteLedgerView


async def start(rig: Rig, *, token: str | None = "new", op: str = "", **changes: Any) -> IntentStarted:
    id_token = rig.op() if token == "new" else token
    return await start_intent(
        rig.house, rig.caller(AGENT), rig.wish(**changes), id_token, op or rig.op(), "d"
    )


async def refused(rig: Rig, code: str, **changes: Any) -> Problem:
    """After a positive control; and the refusal is an entry with its ref."""
    await start(rig)
    with pytest.raises(Problem) as no:
        await start(rig, **changes)
    assert no.value.code == code
    assert rig.entries("refused")[-1]["ref"] == no.value.ref
    assert PURPOSE not in json.dumps([dict(each) for each in rig.entries()])
    return no.value


async def test_a_persons_intent_is_a_root_of_human_origin_without_an_action(rig: Rig) -> None:
    started = await start(rig)
    step, life = started.record.step, started.record.life
    assert (step.origin, step.action, step.parent, step.ancestors, step.chain) == (
        "human",
        None,
        None,
        (),
        (),
    )
    assert (step.performer, step.initiator, life.state) == (AGENT, AGENT, "accepted")
    assert (step.intent.proof, step.intent.purpose, step.tenant) == ("presented", PURPOSE, "acme")
    assert step.intent.requester == requester_of(b"pepper", IDP, "alice")
    assert step.expires_at == int(rig.clock.time) + 1800
    assert step.ceiling.tools == {"mail/*", "files/*"}


async def test_the_token_names_the_root_and_never_the_person(rig: Rig) -> None:
    started = await start(rig)
    token = rig.steps.read(started.token, rig.clock.time)
    assert (token.issuer, token.step, token.txn) == (ISSUER, started.record.step.id, started.record.step.txn)
    assert (token.scope, token.tool, token.args, token.origin, token.intent_origin) == (
        "intent",
        None,
        None,
        "human",
        "human",
    )
    assert token.subject == started.record.step.intent.requester.opaque  # type: ignore[union-attr]
    assert started.expires_in == token.exp - token.iat == 60
    assert "alice" not in repr(token)


async def test_a_nonce_that_binds_agent_ceiling_purpose_and_end_makes_the_proof_bound(rig: Rig) -> None:
    rig.people.claims = {"nonce": bound_nonce(AGENT, rig.wish())}
    assert (await start(rig)).record.step.intent.proof == "bound"
    for change in (
        {"purpose": "another"},
        {"exp": rig.wish().exp - 1},
        {"ceiling": CeilingSpec(tools=("mail/*",))},
    ):
        assert (await start(rig, **change)).record.step.intent.proof == "presented"
    assert bound_nonce(OTHER_AGENT, rig.wish()) != bound_nonce(AGENT, rig.wish())


async def test_a_triggers_intent_has_an_owner_a_cause_and_its_registered_ceiling(rig: Rig) -> None:
    cause = (await rig.accepted()).step.id
    record = await rig.start(CRON, cause=cause, ceiling=CeilingSpec(tools=("*",)))
    intent = record.step.intent
    assert (record.step.origin, intent.requester, intent.owner, intent.cause, intent.proof) == (
        "server",
        None,
        "team",
        cause,
        None,
    )
    assert record.step.ceiling.tools == {"mail/pay"}
    started = await start_intent(rig.house, rig.caller(CRON), rig.wish(), None, rig.op(), "d")
    token = rig.steps.read(started.token, rig.clock.time)
    assert (token.subject, token.intent_origin) == (CRON, "server")


async def test_what_a_step_caused_is_told_at_both_ends(rig: Rig) -> None:
    cause = await rig.accepted()
    caused = await rig.start(CRON, cause=cause.step.id)
    view = SqliteLedgerView(rig.path)
    try:
        before, after = explain(view, cause.step.ref, None), explain(view, caused.step.ref, None)
    finally:
        view.close()
    assert after["root"]["cause"] == {"step": cause.step.id, "txn": cause.step.txn}  # type: ignore[index]
    (step,) = before["steps"][0]["children"]  # type: ignore[index]
    assert [(each["step"], each["txn"], each["by"]) for each in step["caused"]] == [
        (caused.step.id, caused.step.txn, CRON)
    ]
    assert step["state"] == "accepted"
    assert after["txn"] == caused.step.txn


async def test_a_persons_intent_has_no_cause(rig: Rig) -> None:
    cause = (await rig.accepted()).step.id
    await rig.start(CRON, cause=cause)
    await refused(rig, "invalid_request", cause=cause)


async def test_a_trigger_that_needs_a_cause_starts_nothing_without_one(rig: Rig) -> None:
    cause = (await rig.accepted()).step.id
    await rig.start(CRON)
    entries = tuple(replace(each, needs_cause=each.id == CRON) for each in rig.settings.registry.entries)
    rig.settings.registry = replace(rig.settings.registry, entries=entries)
    await rig.start(CRON, cause=cause)
    with pytest.raises(Refused) as no:
        await rig.start(CRON)
    assert (no.value.code, no.value.rule) == ("no_step", "registry needs_cause")


async def test_events_are_counted_by_trigger_and_by_who_made_them(rig: Rig) -> None:
    cause = (await rig.accepted()).step.id
    limits = build.limits()
    per_cause = RateLimit(
        name="events", on="intents", per=("workload", "cause"), match=(), count=2, period_s=60.0, burst=2
    )
    rig.settings.limits = replace(limits, rates=(*limits.rates, per_cause))
    rig.store.use(rig.settings.limits, lambda: 0)
    for _ in range(2):
        await rig.start(CRON, cause=cause)
    with pytest.raises(Refused) as no:
        await rig.start(CRON, cause=cause)
    assert (no.value.code, no.value.rule) == ("limit", "limits v0 events")
    for _ in range(3):
        await rig.start(CRON)  # what no step caused is not counted with it
    other = await rig.open(await rig.start(), "files/read")
    await rig.take(other, who=FILES)
    await rig.start(CRON, cause=other.record.step.id)  # nor are another workload's events


async def test_a_trigger_cannot_act_for_a_person(rig: Rig) -> None:
    await rig.start(CRON)
    with pytest.raises(Refused) as no:
        await start_intent(rig.house, rig.caller(CRON), rig.wish(), rig.op(), rig.op(), "d")
    assert no.value.code == "human_proof"


@pytest.mark.parametrize("who", [MAIL, FILES, BANK])
async def test_nobody_else_starts_an_intent(rig: Rig, who: Any) -> None:
    with pytest.raises(Refused) as no:
        await start_intent(rig.house, rig.caller(who), rig.wish(), rig.op(), rig.op(), "d")
    assert no.value.code == "origin_claimed"


# --- the person's proof


async def test_an_agent_needs_a_persons_proof(rig: Rig) -> None:
    await refused(rig, "human_proof", token=None)


async def test_a_bad_proof_is_refused(rig: Rig) -> None:
    await refused(rig, "human_proof", token="bad")


async def test_one_id_token_starts_one_intent(rig: Rig) -> None:
    await start(rig, token="id-1")
    await refused(rig, "replay", token="id-1")


async def test_an_id_token_stays_used_when_it_is_shown_again_after_its_end(rig: Rig) -> None:
    await start(rig, token="id-1")
    rig.clock.advance(3600)
    await rig.store.reap(rig.clock.time)
    await refused(rig, "replay", token="id-1")


async def test_a_refused_intent_leaves_the_id_token_usable(rig: Rig) -> None:
    rig.policy.says = Deny(policies=("d",), reason="no")
    with pytest.raises(Refused):
        await start(rig, token="id-1")
    rig.policy.says = Permit(policies=("p",))
    await start(rig, token="id-1")


@pytest.mark.parametrize(
    "claims",
    [
        {"clients": ("other",)},
        {"clients": ()},
        {"clients": ("chat", "other")},
        {"issuer": "https://evil.example"},
        {"auth_time": 0.0},
    ],
)
async def test_a_proof_for_another_client_or_of_an_old_sign_in_is_refused(
    rig: Rig, claims: dict[str, Any]
) -> None:
    await start(rig)
    rig.people.claims = claims
    with pytest.raises(Refused) as no:
        await start(rig)
    assert no.value.code == "human_proof"
    rig.people.claims = {"clients": ("chat2",)}
    await start(rig)


async def test_the_sign_in_may_be_as_old_as_the_registry_says_and_not_older(rig: Rig) -> None:
    rig.people.claims = {"auth_time": rig.clock.time - 3600.0}
    await start(rig)
    rig.people.claims = {"auth_time": rig.clock.time - 3600.1}
    with pytest.raises(Refused) as no:
        await start(rig)
    assert no.value.rule == "max_auth_age"


async def test_without_a_key_nothing_starts(rig: Rig) -> None:
    with pytest.raises(Unproven) as no:
        await start_intent(rig.house, rig.caller(AGENT, key=False), rig.wish(), rig.op(), rig.op(), "d")
    assert no.value.code == "invalid_proof"


# --- what is asked for


@pytest.mark.parametrize("purpose", ["", "  ", "x" * 501])
async def test_a_purpose_is_1_to_500_characters(rig: Rig, purpose: str) -> None:
    assert (await start(rig, purpose="x" * 500)).record
    with pytest.raises(Malformed):
        await start(rig, purpose=purpose)


async def test_the_ceiling_is_what_was_asked_for_within_what_is_registered(rig: Rig) -> None:
    wide = await start(rig, ceiling=CeilingSpec(tools=("*",), impact="medium"))
    assert (wide.record.step.ceiling.tools, wide.record.step.ceiling.impact) == (
        {"mail/*", "files/*"},
        "medium",
    )
    narrow = await start(rig, ceiling=CeilingSpec(tools=("mail/pay", "other/x")))
    assert narrow.record.step.ceiling.tools == {"mail/pay"}
    await refused(rig, "ceiling", ceiling=CeilingSpec(tools=("other/*",)))


async def test_an_agent_that_may_start_nothing_starts_nothing(rig: Rig) -> None:
    rig.people.claims = {"clients": ("chat",)}
    caller = rig.caller(OTHER_AGENT)
    caller = replace(caller, entry=replace(caller.entry, clients=rig.caller(AGENT).entry.clients))
    with pytest.raises(Refused) as no:
        await start_intent(rig.house, caller, rig.wish(), rig.op(), rig.op(), "d")
    assert no.value.code == "ceiling"


async def test_an_end_in_the_past_is_refused_and_one_too_far_away_is_cut(rig: Rig) -> None:
    far = await start(rig, exp=int(rig.clock.time) + 10**6)
    assert far.record.step.expires_at == rig.clock.time + rig.settings.limits.lives.intent_s
    await refused(rig, "invalid_request", exp=int(rig.clock.time))


@pytest.mark.parametrize(
    ("budget", "bounds"),
    [
        (Budget(), (1000, 1000, 8)),
        (Budget(steps=3, server_steps=0, depth=2), (3, 0, 2)),
        (Budget(steps=10**9), (1000, 1000, 8)),
        (Budget(steps=-5), (0, 1000, 8)),
    ],
)
async def test_a_budget_only_lowers_the_operators_bounds(
    rig: Rig, budget: Budget, bounds: tuple[int, ...]
) -> None:
    intent = (await start(rig, budget=budget)).record.step.intent
    assert (intent.steps_max, intent.server_steps_max, intent.depth_max) == bounds


# --- policy, limits, versions, marks


async def test_policy_is_asked_and_its_no_is_told_without_its_text(rig: Rig) -> None:
    started = await start(rig)
    asked = rig.policy.asked[-1]
    assert (asked.asking, asked.principal, asked.resource) == ("start_intent", AGENT, started.record.step.txn)
    rig.policy.says = Deny(policies=("deny-1",), reason="not at night")
    with pytest.raises(Refused) as no:
        await start(rig)
    assert (no.value.code, no.value.reason, no.value.rule) == ("policy", "not at night", "policy v0 deny-1")


async def test_an_approval_that_cannot_be_taken_and_an_unknown_obligation_are_refusals(rig: Rig) -> None:
    rig.policy.says = NeedsApproval(policies=("a",), setting="stance")
    with pytest.raises(Refused) as no:
        await start(rig)
    assert (no.value.code, no.value.who_can_change_it) == ("approval_required", "the operator (stance)")
    rig.policy.says = Permit(policies=(), obligations=(Obligation("log", "loud", "p"),))
    with pytest.raises(Refused) as no:
        await start(rig)
    assert (no.value.code, no.value.rule) == ("policy", "policy v0 p obligation log=loud")


async def test_the_decision_is_kept_with_the_person_and_the_entry_only_with_digests(rig: Rig) -> None:
    from stepwrit_broker.ledger.view import SqliteLedgerView

    await start(rig)
    entry = rig.entries("intent.opened")[-1]
    view = SqliteLedgerView(rig.path)
    kept = view.decision(entry["decision"])
    view.close()
    assert kept is not None
    assert kept["requester"] == {"issuer": IDP, "subject": "alice"}
    assert (kept["purpose"], kept["verdict"], kept["policies"]) == (PURPOSE, "permit", ["p1"])
    assert kept["versions"] == {"policy": 0, "registry": 0, "limits": 0, "bundles": 0}
    assert "alice" not in json.dumps(dict(entry))


async def test_the_limit_on_intents_refuses_with_when_to_come_back(rig: Rig) -> None:
    rig.limit(count=1, burst=1)
    await start(rig)
    with pytest.raises(Refused) as no:
        await start(rig)
    assert no.value.code == "limit"
    rig.clock.advance((no.value.retry_after or 0) + 0.01)
    await start(rig)


async def test_a_decision_on_versions_that_were_replaced_is_made_again_and_given_up_after_three(
    rig: Rig,
) -> None:
    rig.settings.stale = 2
    asked = len(rig.policy.asked)
    await start(rig)
    assert len(rig.policy.asked) - asked == 3
    rig.settings.stale = 3
    with pytest.raises(Conflict) as no:
        await start(rig)
    assert no.value.code == "stale_version"


async def test_the_same_operation_gets_the_same_root_and_other_content_is_a_conflict(rig: Rig) -> None:
    first = await start_intent(rig.house, rig.caller(AGENT), rig.wish(), "id-1", "operation-a", "d")
    again = await start_intent(rig.house, rig.caller(AGENT), rig.wish(), "id-1", "operation-a", "d")
    assert again.record.step == first.record.step
    with pytest.raises(Conflict) as no:
        await start_intent(rig.house, rig.caller(AGENT), rig.wish(), "id-2", "operation-a", "other")
    assert no.value.code == "operation_reused"
    assert len(rig.entries("intent.opened")) == 1


async def test_a_clock_in_doubt_grants_nothing_and_the_refusal_is_still_told(rig: Rig) -> None:
    rig.clock.doubt = True
    with pytest.raises(Unavailable) as no:
        await start(rig)
    assert no.value.rule == "clock"
    assert no.value.ref is not None
    assert rig.heard[-1][1] == "unavailable"


def test_a_person_has_one_opaque_name_that_needs_the_pepper() -> None:
    one = requester_of(b"p", IDP, "alice").opaque
    assert one == requester_of(b"p", IDP, "alice").opaque
    assert (
        len(
            {
                one,
                requester_of(b"q", IDP, "alice").opaque,
                requester_of(b"p", IDP, "bob").opaque,
                requester_of(b"p", IDP + "alice", "").opaque,
            }
        )
        == 4
    )
    assert "alice" not in one
