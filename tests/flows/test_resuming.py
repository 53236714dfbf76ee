"""Resume: a job's worker, hours later, with nothing but an id; and all that may have changed by then."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import AGENT, ARGS, CRON, FILES, FOREIGN, IDP, MAIL, TD, Rig
from tests.flows.test_performing import close, wait

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unproven
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows import approving, keeping, opening, performing, resuming
from stepwrit_broker.flows.explain import explain
from stepwrit_broker.flows.revoke import Operator, mark
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports_approval import Given

HOUR = 3600.0
ALICE = Identity(IDP, "alice")
SECOND = SpiffeId(f"{TD}/mcp/mail/2")


@pytest.fixture(autouse=True)
def long_intents(rig: Rig) -> None:
    limits = rig.settings.limits
    rig.settings.limits = replace(limits, lives=replace(limits.lives, intent_s=12 * HOUR))
    rig.store.use(rig.settings.limits, lambda: 0)
    rig.keys[SECOND] = rig.keys[MAIL]


async def started(rig: Rig, who: SpiffeId = AGENT) -> StepRecord:
    return await rig.start(who, exp=int(rig.clock.time + 10 * HOUR))


async def deferred(rig: Rig, tool: str = "mail/pay", **changes: Any) -> StepRecord:
    ready = await rig.open(await started(rig), tool, deferred=True, **changes)
    return ready.record


async def resume(rig: Rig, record: StepRecord | str, who: SpiffeId = MAIL, **more: Any) -> resuming.Resumed:
    name = record if isinstance(record, str) else record.step.id
    caller = rig.caller(who, **more)
    return await resuming.resume(rig.house, caller, name, rig.op(), "d")


async def refused(rig: Rig, record: StepRecord | str, code: str, who: SpiffeId = MAIL) -> Problem:
    """The same would have been resumed but for what the test changed; the no is in the ledger."""
    before = await rig.store.step(record if isinstance(record, str) else record.step.id)
    with pytest.raises(Problem) as no:
        await resume(rig, record, who)
    assert no.value.code == code, no.value.reason
    after = await rig.store.step(record if isinstance(record, str) else record.step.id)
    assert before == after
    told = rig.entries("refused")[-1]
    assert (told["verb"], told["code"], told["caller"]) == ("resume", code, who)
    return no.value


def change(rig: Rig, name: str, **changes: Any) -> None:
    """Another registry in force: the entry of this name is otherwise, or gone with `id=None`."""
    entries: list[Entry] = []
    for entry in rig.settings.registry.entries:
        if entry.name != name:
            entries.append(entry)
        elif changes.get("id", "") is not None:
            entries.append(replace(entry, **changes))
    rig.settings.registry = Registry(version=0, entries=tuple(entries), persons=rig.settings.registry.persons)


def tool_changed(rig: Rig, name: str, **changes: Any) -> None:
    entry = next(each for each in rig.settings.registry.entries if each.name == "mail")
    tools = {**entry.tools, name: replace(entry.tools[name], **changes)}
    change(rig, "mail", tools=tools)


# --- what works


async def test_hours_later_the_worker_has_the_arguments_the_clocks_and_a_credential(rig: Rig) -> None:
    record = await deferred(rig)
    rig.clock.advance(5 * HOUR)
    got = await resume(rig, record)
    assert got.args == ARGS
    assert (got.record.life.state, got.record.life.round) == ("accepted", 1)
    assert (got.record.life.performer, got.self_grant) == (MAIL, None)
    assert got.ends_at == rig.clock.time + got.lives.run_s
    issued = await rig.credential(got.record)
    assert (await rig.spend(issued.credential)).step.step.id == record.step.id
    told = rig.entries("step.resumed")[-1]
    assert (told["round"], told["performer"], told["svid"]) == (1, MAIL, "5e")
    assert rig.policy.asked[-2].document["deferred"] is True
    assert rig.policy.asked[-2].asking == "issue_credential"
    assert rig.policy.asked[-2].document["redeemer"] is None


async def test_the_arguments_are_not_readable_in_the_file_and_gone_at_the_end(rig: Rig) -> None:
    record = await deferred(rig, args={"note": "somebody-special"})
    with closing(sqlite3.connect(rig.path)) as conn:
        (kept,) = conn.execute("SELECT sealed FROM sealed_args").fetchone()
        dump = "\n".join(conn.iterdump())
    assert len(kept) > 28
    assert b"somebody-special" not in kept
    assert record.step.id in dump
    assert "somebody-special" not in dump
    got = await resume(rig, record)
    assert got.args == {"note": "somebody-special"}
    assert "somebody-special" not in repr(got)
    await close(rig, record.step.id)
    assert await rig.store.sealed_args(record.step.id) is None


async def test_a_step_that_is_not_deferred_has_nothing_kept(rig: Rig) -> None:
    ready = await rig.open(await started(rig))
    assert await rig.store.sealed_args(ready.record.step.id) is None
    assert (await refused(rig, ready.record, "wrong_state")).status == 409
    await rig.take(ready)


async def test_its_life_is_the_operators_and_within_the_intents(rig: Rig) -> None:
    limits = rig.settings.limits
    rig.settings.limits = replace(limits, lives=replace(limits.lives, deferred_s=2 * HOUR))
    record = await deferred(rig)
    assert record.step.expires_at == rig.clock.time + 2 * HOUR
    rig.settings.limits = replace(limits, lives=replace(limits.lives, deferred_s=20 * HOUR))
    longer = await deferred(rig)
    assert longer.step.expires_at == rig.clock.time + 10 * HOUR
    rig.clock.advance(2 * HOUR)
    await refused(rig, record, "expired")
    await resume(rig, longer)


async def test_a_run_that_sends_signs_of_life_is_over_at_its_own_end(rig: Rig) -> None:
    limits = rig.settings.limits
    rig.settings.limits = replace(limits, lives=replace(limits.lives, run_s=100.0))
    rig.store.use(rig.settings.limits, lambda: 0)
    got = await resume(rig, await deferred(rig))
    assert got.ends_at == rig.clock.time + 100
    rig.clock.advance(50)
    await beat(rig, got.record.step.id)
    issued = await rig.credential(got.record)
    assert issued.record.grant.expires_at == got.ends_at
    rig.clock.advance(50)
    with pytest.raises(Problem) as no:
        await beat(rig, got.record.step.id)
    assert no.value.code == "expired"


async def beat(rig: Rig, step: str, who: SpiffeId = MAIL) -> None:
    await performing.heartbeat(rig.house, rig.caller(who, key=False), step, rig.op(), "d")


async def test_it_waits_and_another_worker_of_the_pattern_goes_on(rig: Rig) -> None:
    record = await deferred(rig)
    await resume(rig, record)
    await wait(rig, record.step.id)
    rig.clock.advance(3 * HOUR)
    got = await resume(rig, record, SECOND)
    assert (got.record.life.round, got.record.life.performer) == (2, SECOND)
    with pytest.raises(Problem):
        await beat(rig, record.step.id)
    await beat(rig, record.step.id, SECOND)


async def test_a_call_that_was_taken_and_parked_is_resumed(rig: Rig) -> None:
    ready = await rig.open(await started(rig), deferred=True)
    await rig.take(ready)
    await wait(rig, ready.record.step.id)
    rig.clock.advance(2 * HOUR)
    got = await resume(rig, ready.record)
    assert (got.record.life.round, got.args) == (2, ARGS)


async def test_a_tool_that_is_its_own_resource_is_used_by_the_resume(rig: Rig) -> None:
    record = await deferred(rig, "mail/note")
    got = await resume(rig, record)
    assert got.self_grant is not None
    assert rig.entries("grant.self")[-1]["step"] == record.step.id


async def test_a_servers_and_a_triggers_deferred_steps_are_theirs(rig: Rig) -> None:
    under = await rig.accepted()
    rig.keys[FILES] = rig.keys[MAIL]
    below = await rig.open(under, "files/read", who=MAIL, deferred=True)
    await close(rig, under.step.id)
    rig.clock.advance(1000)
    got = await resume(rig, below.record, FILES)
    assert got.record.step.origin == "server"
    root = await started(rig, CRON)
    nightly = await rig.open(root, who=CRON, deferred=True)
    await close(rig, root.step.id, who=CRON)
    rig.clock.advance(5 * HOUR)
    assert (await resume(rig, nightly.record)).record.step.origin == "server"


async def test_a_lost_reply_is_repeated_with_the_arguments(rig: Rig) -> None:
    record, op, caller = await deferred(rig), rig.op(), rig.caller(MAIL)
    first = await resuming.resume(rig.house, caller, record.step.id, op, "d")
    again = await resuming.resume(rig.house, caller, record.step.id, op, "d")
    assert (again.record, again.args) == (first.record, first.args)
    await close(rig, record.step.id)
    with pytest.raises(Problem) as no:
        await resuming.resume(rig.house, caller, record.step.id, op, "d")
    assert no.value.code == "already_done"


async def test_versions_that_change_meanwhile_are_decided_on_afresh(rig: Rig) -> None:
    record = await deferred(rig)
    rig.settings.stale = 1
    await resume(rig, record)


# --- redelivery


async def test_redelivery_is_a_replay_while_it_runs_and_already_done_afterwards(rig: Rig) -> None:
    record = await deferred(rig)
    await resume(rig, record)
    no = await refused(rig, record, "replay")
    assert no.retry_after == 60
    await refused(rig, record, "replay", SECOND)
    await close(rig, record.step.id)
    await refused(rig, record, "already_done")
    failed = await deferred(rig)
    await resume(rig, failed)
    await close(rig, failed.step.id, "failed")
    await refused(rig, failed, "already_done")


async def test_a_lost_worker_ends_the_step(rig: Rig) -> None:
    record = await deferred(rig)
    await resume(rig, record)
    rig.clock.advance(60)
    assert (await refused(rig, record, "expired")).retry_after is None
    await rig.store.reap(rig.clock.time)
    await refused(rig, record, "expired")
    assert rig.entries("step.expired")[-1]["step"] == record.step.id


# --- who may not


@pytest.mark.parametrize("who", [FILES, AGENT, FOREIGN])
async def test_a_stolen_id_opens_nothing_for_another(rig: Rig, who: SpiffeId) -> None:
    record = await deferred(rig)
    await refused(rig, record, "not_found", who)
    assert (await resume(rig, record)).args == ARGS


@pytest.mark.parametrize("name", ["x", "stp_100" + "0" * 26])
async def test_no_id_opens_nothing(rig: Rig, name: str) -> None:
    await resume(rig, await deferred(rig))
    with pytest.raises(Problem) as no:
        await resume(rig, name)
    assert no.value.code == "not_found"


async def test_an_intent_is_not_resumed(rig: Rig) -> None:
    root = await started(rig)
    await refused(rig, root, "not_found", AGENT)
    await resume(rig, await deferred(rig))


async def test_it_needs_a_proof_of_a_key(rig: Rig) -> None:
    record = await deferred(rig)
    with pytest.raises(Unproven) as no:
        await resume(rig, record, key=False)
    assert no.value.code == "invalid_proof"
    await resume(rig, record)


async def test_what_a_client_does_is_not_deferred(rig: Rig) -> None:
    under = await rig.accepted()
    await rig.open(under, "client/elicitation", who=MAIL)
    with pytest.raises(Malformed):
        await rig.open(under, "client/elicitation", who=MAIL, deferred=True)


# --- what changed in between


async def test_policy_of_now_decides(rig: Rig) -> None:
    record = await deferred(rig)
    rig.policy.says = Deny(policies=("night",), reason="not at night")
    no = await refused(rig, record, "policy")
    assert no.decision is not None
    rig.policy.says = Permit(policies=("p1",))
    await resume(rig, record)


async def test_a_requester_who_is_not_active_any_more(rig: Rig) -> None:
    record = await deferred(rig)
    listed = Persons({"alice": frozenset({ALICE})}, {}, frozenset({"alice"}))
    rig.settings.registry = replace(rig.settings.registry, persons=listed)
    no = await refused(rig, record, "frozen")
    assert (no.rule, no.who_can_change_it) == ("registry persons", "the operator (registry.yaml)")
    rig.settings.registry = replace(rig.settings.registry, persons=replace(listed, inactive=frozenset()))
    await resume(rig, record)


async def test_a_triggers_owner_who_is_not_active_any_more(rig: Rig) -> None:
    root = await started(rig, CRON)
    ready = await rig.open(root, who=CRON, deferred=True)
    listed = Persons({"team": frozenset({ALICE})}, {}, frozenset({"team"}))
    rig.settings.registry = replace(rig.settings.registry, persons=listed)
    await refused(rig, ready.record, "frozen")
    rig.settings.registry = replace(rig.settings.registry, persons=Persons({}))
    await resume(rig, ready.record)


@pytest.mark.parametrize("tool", ["mail/pay", "mail/note"])
async def test_a_token_in_place_of_the_id_is_no_way_round_what_is_true_now(rig: Rig, tool: str) -> None:
    """The initiator can have a fresh token for as long as the step lives; what it is worth is asked again."""
    ready = await rig.open(await started(rig), tool, deferred=True)
    rig.clock.advance(5 * HOUR)
    name, registry = ready.record.step.id, rig.settings.registry

    async def fresh(code: str) -> None:
        again = await opening.renew_token(rig.house, rig.caller(AGENT), name)
        with pytest.raises(Refused) as no:
            await rig.take(again)
        assert no.value.code == code, no.value.reason

    change(rig, "chat", may_start=Ceiling(tools=frozenset({"files/read"}), impact="low"))
    await fresh("ceiling")
    rig.settings.registry = registry
    tool_changed(rig, tool.partition("/")[2], impact="high")
    await fresh("not_registered")
    listed = Persons({"alice": frozenset({ALICE})}, {}, frozenset({"alice"}))
    rig.settings.registry = replace(registry, persons=listed)
    await fresh("frozen")
    rig.settings.registry = registry
    rig.policy.says = Deny(policies=("night",), reason="not at night")
    await fresh("policy")
    rig.policy.says = Permit(policies=("p1",))
    await rig.take(await opening.renew_token(rig.house, rig.caller(AGENT), name))


@pytest.mark.parametrize("target", ["requester", "server:mail", "tool:mail/pay", f"workload:{AGENT}"])
async def test_marks(rig: Rig, target: str) -> None:
    record = await deferred(rig)
    who = record.step.intent.requester
    assert who is not None
    name = f"requester:{who.opaque}" if target == "requester" else target
    ops = Operator(name="uid 0")

    async def say(verb: Any, of: str) -> None:
        await mark(rig.house, ops, MarkRequest(verb=verb, target=of, reason="test"), rig.op(), verb)

    await say("freeze", name)
    await refused(rig, record, "frozen")
    await say("unfreeze", name)
    other = await deferred(rig)
    await resume(rig, record)
    await say("revoke", name)
    await refused(rig, other, "revoked")


async def test_the_intent_was_given_up(rig: Rig) -> None:
    root = await started(rig)
    one, two = [await rig.open(root, deferred=True) for _ in range(2)]
    await resume(rig, one.record)
    await close(rig, root.step.id, "cancelled", who=AGENT)
    await refused(rig, two.record, "closed")
    done = await started(rig)
    three = await rig.open(done, deferred=True)
    await close(rig, done.step.id, who=AGENT)
    await resume(rig, three.record)


@pytest.mark.parametrize("name", ["chat", "mail"])
async def test_initiator_and_performer_are_still_registered(rig: Rig, name: str) -> None:
    record = await deferred(rig)
    before, caller = rig.settings.registry, rig.caller(MAIL)
    change(rig, name, id=None)
    with pytest.raises(Problem) as no:
        await resuming.resume(rig.house, caller, record.step.id, rig.op(), "d")
    assert no.value.code == "not_registered"
    rig.settings.registry = before
    await resume(rig, record)


async def test_an_initiator_of_another_tenant_now(rig: Rig) -> None:
    record = await deferred(rig)
    change(rig, "chat", tenant="evil")
    await refused(rig, record, "not_registered")
    change(rig, "chat", tenant="acme")
    change(rig, "chat", may_start=None)
    await refused(rig, record, "not_registered")


@pytest.mark.parametrize(
    "narrower",
    [Ceiling(tools=frozenset({"files/*"}), impact="high"), Ceiling(tools=frozenset(), impact="low")],
)
async def test_the_initiator_may_still_start_it(rig: Rig, narrower: Ceiling) -> None:
    record, before = await deferred(rig), rig.settings.registry
    change(rig, "chat", may_start=narrower)
    assert (await refused(rig, record, "ceiling")).rule == "registry may_start"
    rig.settings.registry = before
    await resume(rig, record)


async def test_whoever_is_further_up_may_still_start_it_too(rig: Rig) -> None:
    under = await rig.accepted()
    below = (await rig.open(under, "files/read", who=MAIL, deferred=True)).record
    before = rig.settings.registry
    change(rig, "chat", may_start=Ceiling(tools=frozenset({"mail/*"}), impact="high"))
    await refused(rig, below, "ceiling", FILES)
    rig.settings.registry = before
    await resume(rig, below, FILES)


@pytest.mark.parametrize(
    "changes",
    [
        {"impact": "high"},
        {"schema": "sha256-other"},
        {"plan": ()},
        {"is_self": True, "plan": ()},
        {"facts": (("amount", "/amount"), ("to", "/to"))},
    ],
)
async def test_a_tool_that_is_registered_otherwise_now(rig: Rig, changes: dict[str, Any]) -> None:
    record, before = await deferred(rig), rig.settings.registry
    tool_changed(rig, "pay", **changes)
    assert "open the step again" in (await refused(rig, record, "not_registered")).reason
    rig.settings.registry = before
    await resume(rig, record)


async def test_a_tool_that_is_gone_or_another_workloads(rig: Rig) -> None:
    record, before = await deferred(rig), rig.settings.registry
    mail = next(each for each in before.entries if each.name == "mail")
    change(rig, "mail", tools={name: tool for name, tool in mail.tools.items() if name != "pay"})
    await refused(rig, record, "not_registered")
    own = Entry(id=MAIL, name="own", role="mcp-server", tenant="acme")
    rig.settings.registry = Registry(version=0, entries=(*before.entries, own))
    await refused(rig, record, "not_registered")
    rig.settings.registry = before
    await resume(rig, record)


async def test_limits_of_now(rig: Rig) -> None:
    one, two = await deferred(rig), await deferred(rig)
    rig.limit(count=1, burst=1)
    rig.clock.advance(1)
    await resume(rig, one)
    no = await refused(rig, two, "limit")
    assert no.retry_after is not None
    rig.clock.advance(no.retry_after)
    await resume(rig, two)


async def put(rig: Rig, sql: str, *values: object) -> None:
    """Whoever can write into the store's file."""
    await rig.store.within(lambda conn: conn.execute(sql, values))


async def test_what_was_kept_must_be_what_was_decided_on(rig: Rig) -> None:
    one, two = await deferred(rig), await deferred(rig, args={"to": "eve"})
    theirs = await rig.store.sealed_args(two.step.id)
    await put(rig, "UPDATE sealed_args SET sealed = ? WHERE step = ?", theirs, one.step.id)
    assert (await refused(rig, one, "unavailable")).rule == "store"
    assert (await resume(rig, two)).args == {"to": "eve"}


async def test_other_arguments_under_the_right_seal(rig: Rig) -> None:
    record = await deferred(rig)
    before = await rig.store.sealed_args(record.step.id)
    forged = rig.house.sealer.seal(b'{"to":"eve"}', record.step.id)
    await put(rig, "UPDATE sealed_args SET sealed = ?", forged)
    await refused(rig, record, "unavailable")
    await put(rig, "UPDATE sealed_args SET sealed = ?", before)
    await resume(rig, record)


async def test_arguments_that_are_gone(rig: Rig) -> None:
    record = await deferred(rig)
    await resume(rig, await deferred(rig))
    await put(rig, "DELETE FROM sealed_args")
    await refused(rig, record, "unavailable")


# --- approvals


async def test_what_ended_between_two_looks_says_how_it_ended(rig: Rig) -> None:
    """Its arguments are erased in the same write: whoever saw it alive a moment ago is told of its end."""
    record = await deferred(rig)
    action = record.step.action
    assert action is not None
    assert await keeping.opened(rig.house, record.step, action) == ARGS
    await resume(rig, record)
    await close(rig, record.step.id)
    with pytest.raises(Refused) as no:
        await keeping.opened(rig.house, record.step, action)
    assert no.value.code == "already_done"
    gone = replace(record.step, id=record.step.id[:-1] + ("0" if record.step.id[-1] != "0" else "1"))
    with pytest.raises(Refused) as no:
        await keeping.opened(rig.house, gone, action)
    assert no.value.code == "expired"


def needs(count: int = 1) -> NeedsApproval:
    return NeedsApproval(policies=("high",), setting="stance", terms=(Terms(count=count),))


async def signed(rig: Rig, step: str) -> None:
    record = await rig.store.approvals.approval_of(step)
    assert record is not None
    given = Given(by=ALICE, method="passkey", digest=record.asked.digest, authenticator=None)
    await approving.sign(rig.house, record.asked.id, given)


async def asked(rig: Rig) -> str:
    rig.policy.says = Permit(policies=("p1",))
    root = await started(rig)
    rig.policy.says = needs()
    with pytest.raises(Problem) as no:
        await rig.open(root, deferred=True)
    assert no.value.code == "authorization_pending"
    assert no.value.approval is not None
    return no.value.approval.step


async def test_it_waits_for_its_approval_and_uses_it_once(rig: Rig) -> None:
    step = await asked(rig)
    with pytest.raises(Problem) as no:
        await resume(rig, step)
    assert no.value.code == "authorization_pending"
    assert not rig.entries("refused"), "not yet is no refusal"
    await signed(rig, step)
    rig.clock.advance(5 * HOUR)
    got = await resume(rig, step)
    assert got.args == ARGS
    assert rig.entries("approval.used")[-1]["step"] == step
    await wait(rig, step)
    await resume(rig, step)
    assert len(rig.entries("approval.used")) == 1


async def test_an_approval_that_is_not_enough_any_more(rig: Rig) -> None:
    step = await asked(rig)
    await signed(rig, step)
    rig.policy.says = needs(2)
    await refused(rig, step, "approval_required")
    rig.policy.says = needs()
    await resume(rig, step)


async def test_an_approval_that_would_be_needed_only_now(rig: Rig) -> None:
    record = await deferred(rig)
    rig.policy.says = needs()
    await refused(rig, record, "approval_required")
    rig.policy.says = Permit(policies=("p1",))
    await resume(rig, record)


# --- told


async def test_the_story_has_the_deferred_step_its_runs_and_why_not(rig: Rig) -> None:
    record = await deferred(rig)
    rig.policy.says = Deny(policies=("night",), reason="not at night")
    await refused(rig, record, "policy")
    rig.policy.says = Permit(policies=("p1",))
    await resume(rig, record)
    view = SqliteLedgerView(rig.path)
    try:
        story: Any = explain(view, record.step.ref, None)
    finally:
        view.close()
    node = story["steps"][0]["children"][0]
    assert (node["deferred"], node["state"], node["runs"]) == (True, "resumed", 1)
    assert [(each["verb"], each["code"]) for each in node["refusals"]] == [("resume", "policy")]
