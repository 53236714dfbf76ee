"""Open a child step; renew its token."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.build import mark_of
from tests.flows.rig import AGENT, ARGS, AUDIENCE, CRON, FILES, FOREIGN, MAIL, OTHER_AGENT, TD, Rig

from stepwrit.digest import args_digest
from stepwrit.wire import Budget, CeilingSpec, WaitRequest
from stepwrit_broker.core.declared import Declared, Workflow
from stepwrit_broker.core.errors import Conflict, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.influence import EXACT_MAX
from stepwrit_broker.core.step import Label, StepRecord
from stepwrit_broker.core.verdict import Deny, Permit
from stepwrit_broker.flows.opening import open_step, renew_token
from stepwrit_broker.ports import Evidence, MarkCommand, Operation


async def refused(
    rig: Rig, code: str, root: StepRecord, tool: str = "mail/pay", /, **changes: Any
) -> Problem:
    with pytest.raises(Problem) as no:
        await rig.open(root, tool, **changes)
    assert no.value.code == code, no.value.reason
    return no.value


async def revoke(rig: Rig, target: str, verb: str = "revoke") -> None:
    op = Operation(caller="ops", key="", verb=verb, id=rig.op(), digest="d")
    wanted = mark_of(target, verb, at=rig.clock.time)
    await rig.store.mark(MarkCommand(op=op, mark=wanted, lift=False, evidence=Evidence(), now=rig.clock.time))


async def test_an_agents_child_is_a_model_step_for_the_registered_performer(rig: Rig) -> None:
    root = await rig.start()
    ready = await rig.open(root)
    step = ready.record.step
    assert step.action is not None
    assert (step.origin, step.initiator, step.performer, step.parent) == (
        "model",
        AGENT,
        f"{TD}/mcp/mail/*",
        root.step.id,
    )
    assert (step.action.tool, step.action.args, step.action.impact) == ("mail/pay", args_digest(ARGS), "low")
    assert step.action.facts == (("to", "bob"),)
    assert step.initiator_jkt == rig.keys[AGENT].thumbprint
    assert step.ceiling.tools == {"files/*"}
    assert [(hop.step, hop.initiator, hop.origin, hop.tool) for hop in step.chain] == [
        (step.id, AGENT, "model", "mail/pay")
    ]
    assert ready.record.life.state == "opened"


async def test_the_token_names_step_performer_arguments_and_the_initiators_key(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    token, step = rig.steps.read(ready.token, rig.clock.time), ready.record.step
    assert (token.step, token.performer, token.initiator_jkt) == (
        step.id,
        step.performer,
        rig.keys[AGENT].thumbprint,
    )
    assert (token.scope, token.args, token.purpose, token.intent_origin) == (
        "mail/pay",
        args_digest(ARGS),
        "pay bob",
        "human",
    )
    assert ready.expires_in == 60


@pytest.mark.parametrize(
    "named", ["mail", f"{TD}/mcp/mail/*", "https://mail.example/mcp", "https://mail.example/mcp/"]
)
async def test_a_server_is_named_by_name_id_or_url(rig: Rig, named: str) -> None:
    assert (await rig.open(await rig.start(), server=named)).record.step.action


async def test_the_arguments_are_never_kept_in_clear(rig: Rig) -> None:
    await rig.open(await rig.start(), args={"to": "secret-account", "amount": 5})
    assert "secret-account" not in json.dumps([dict(each) for each in rig.entries()])


@pytest.mark.parametrize(
    "tool", ["mail/none", "none/pay", "bank/pay", "chat/x", "client/other", "theirs/read"]
)
async def test_a_tool_that_is_not_registered_in_the_tenant_is_unknown(rig: Rig, tool: str) -> None:
    root = await rig.start()
    assert await rig.open(root)
    await refused(rig, "not_registered", root, tool)


@pytest.mark.parametrize("parent", ["", "stp_1", "txn_100" + "0" * 26, "x" * 100_000])
async def test_what_is_no_step_id_is_malformed_and_still_an_entry(rig: Rig, parent: str) -> None:
    root = await rig.start()
    problem = await refused(rig, "invalid_request", root, parent=parent)
    assert rig.entries("refused")[-1]["ref"] == problem.ref


async def test_an_unknown_parent_and_another_tenants_look_alike(rig: Rig) -> None:
    root = await rig.start()
    unknown = await refused(rig, "not_found", root, parent="stp_100" + "0" * 26)
    foreign = await refused(rig, "not_found", root, who=FOREIGN)
    assert unknown.reason == foreign.reason
    assert "txn" not in rig.entries("refused")[-1]


# --- who may open


async def test_only_the_parents_performer_opens(rig: Rig) -> None:
    root = await rig.start()
    await refused(rig, "not_found", root, who=OTHER_AGENT)
    await refused(rig, "origin_claimed", root, who=MAIL)
    assert rig.entries("refused")[-1]["txn"] == root.step.txn


async def test_a_sent_origin_is_a_claim(rig: Rig) -> None:
    await refused(rig, "origin_claimed", await rig.start(), origin="human")


async def test_a_servers_child_is_a_server_step_under_the_step_that_it_performs(rig: Rig) -> None:
    step = await rig.accepted()
    child = await rig.open(step, "files/read", who=MAIL)
    assert (child.record.step.origin, child.record.step.depth) == ("server", 2)
    assert [hop.origin for hop in child.record.step.chain] == ["model", "server"]
    assert not child.record.step.ceiling.tools
    other = await rig.accepted()
    await refused(rig, "origin_claimed", other, "files/read", who=FILES)


async def test_below_a_triggers_root_everything_is_the_servers(rig: Rig) -> None:
    child = await rig.open(await rig.start(CRON), who=CRON)
    assert child.record.step.origin == "server"
    token = rig.steps.read(child.token, rig.clock.time)
    assert (token.subject, token.intent_origin) == (CRON, "server")


# --- ceilings


async def test_the_action_lies_in_the_parents_ceiling(rig: Rig) -> None:
    narrow = await rig.start(ceiling=CeilingSpec(tools=("mail/pay",), impact="medium"))
    assert await rig.open(narrow)
    await refused(rig, "ceiling", narrow, "mail/note")
    low = await rig.start(ceiling=CeilingSpec(tools=("mail/*",), impact="medium"))
    await refused(rig, "ceiling", low, "mail/wipe")


async def test_a_server_starts_only_what_the_registry_lets_it(rig: Rig) -> None:
    entries = tuple(
        replace(e, may_start=None) if e.name == "mail" else e for e in rig.settings.registry.entries
    )
    step = await rig.accepted()
    assert await rig.open(step, "files/read", who=MAIL)
    rig.settings.registry = replace(rig.settings.registry, entries=entries)
    problem = await refused(rig, "ceiling", step, "files/read", who=MAIL)
    assert problem.rule is None or problem.rule == "registry may_start"


async def test_a_childs_ceiling_is_asked_for_within_its_parents(rig: Rig) -> None:
    root = await rig.start()
    narrow = await rig.open(root, ceiling=CeilingSpec(tools=("files/read",), impact="low"))
    assert narrow.record.step.ceiling.tools == {"files/read"}
    await refused(rig, "ceiling", root, ceiling=CeilingSpec(tools=("*",)))
    await refused(rig, "invalid_request", root, ceiling=CeilingSpec(tools=("mail/pay",) * 257))


async def test_an_elicitation_is_opened_for_the_initiators_own_client_without_a_registered_tool(
    rig: Rig,
) -> None:
    step = await rig.accepted()
    asked = await rig.open(step, "client/elicitation", who=MAIL)
    child = asked.record.step
    assert (child.performer, child.origin, child.ceiling.tools) == (AGENT, "server", frozenset())
    assert child.action is not None
    assert (child.action.tool, child.action.impact, child.action.plan) == ("client/elicitation", "low", ())
    taken = await rig.take(asked, who=AGENT, by=MAIL)
    await refused(rig, "ceiling", taken.record, who=AGENT)


# --- arguments


@pytest.mark.parametrize(
    "args", [{"to": ["x"]}, {"to": "x" * 300}, {"n": 2**60}, {"n": float("nan")}, {"s": "\ud800"}]
)
async def test_arguments_of_more_than_one_meaning_and_odd_facts_are_refused(
    rig: Rig, args: dict[str, object]
) -> None:
    root = await rig.start()
    await refused(rig, "invalid_arguments", root, args=args)
    assert len(rig.entries("step.opened")) == 0


# --- policy, limits, versions, states


async def test_policy_sees_the_step_and_its_no_opens_nothing(rig: Rig) -> None:
    root = await rig.start()
    await rig.open(root)
    asked = rig.policy.asked[-1]
    assert (asked.asking, asked.resource, asked.document["facts"]) == ("open_step", "mail/pay", {"to": "bob"})
    rig.policy.says = Deny(policies=("d",), reason="no")
    await refused(rig, "policy", root)
    rig.policy.says = Permit(policies=("p",))
    assert len(rig.entries("step.opened")) == 1


async def test_limits_are_charged_to_the_initiator(rig: Rig) -> None:
    root = await rig.start()
    rig.limit(count=1, burst=1)
    await rig.open(root)
    problem = await refused(rig, "limit", root)
    assert problem.retry_after is not None
    rig.clock.advance(problem.retry_after + 0.01)
    assert await rig.open(root)


async def test_the_persons_budget_counts_steps(rig: Rig) -> None:
    root = await rig.start(budget=Budget(steps=1))
    await rig.open(root)
    await refused(rig, "limit", root)


async def test_stale_versions_are_decided_again(rig: Rig) -> None:
    root = await rig.start()
    rig.settings.stale = 2
    assert await rig.open(root)
    rig.settings.stale = 3
    with pytest.raises(Conflict) as no:
        await rig.open(root)
    assert no.value.code == "stale_version"


async def test_another_conflict_is_not_tried_again(rig: Rig) -> None:
    root = await rig.start()
    await open_step(rig.house, rig.caller(AGENT), rig.call(root), "operation-a", "d")
    asked = len(rig.policy.asked)
    with pytest.raises(Conflict) as no:
        await open_step(rig.house, rig.caller(AGENT), rig.call(root), "operation-a", "other")
    assert no.value.code == "operation_reused"
    assert len(rig.policy.asked) == asked + 1


async def test_the_same_operation_gets_the_same_step(rig: Rig) -> None:
    root = await rig.start()
    first, again = [
        await open_step(rig.house, rig.caller(AGENT), rig.call(root), "operation-a", "d") for _ in range(2)
    ]
    assert first.record == again.record


async def test_a_proof_is_used_once_and_required(rig: Rig) -> None:
    root, caller = await rig.start(), rig.caller(AGENT)
    await open_step(rig.house, caller, rig.call(root), rig.op(), "d")
    with pytest.raises(Refused) as no:
        await open_step(rig.house, caller, rig.call(root), rig.op(), "d")
    assert no.value.code == "replay"
    with pytest.raises(Unproven):
        await open_step(rig.house, rig.caller(AGENT, key=False), rig.call(root), rig.op(), "d")


@pytest.mark.parametrize(
    "what", ["txn", "step", "workload", "tool", "requester", "tenant", "key", "everything"]
)
async def test_a_mark_on_anything_above_stops_it(rig: Rig, what: str) -> None:
    root = await rig.start()
    assert root.step.intent.requester is not None
    name = {
        "txn": root.step.txn,
        "step": root.step.id,
        "workload": AGENT,
        "tool": "mail/pay",
        "tenant": "acme",
        "requester": root.step.intent.requester.opaque,
        "key": rig.keys[AGENT].thumbprint,
        "everything": "all",
    }[what]
    assert await rig.open(root)
    await revoke(rig, f"{what}:{name}")
    await refused(rig, "revoked", root)


async def test_a_mark_on_the_pattern_that_admits_a_caller_stops_it(rig: Rig) -> None:
    step = await rig.accepted()
    assert await rig.open(step, "files/read", who=MAIL)
    await revoke(rig, f"workload:{TD}/mcp/mail/*", "freeze")
    await refused(rig, "frozen", step, "files/read", who=MAIL)


async def test_a_deferred_child_waits_for_a_day_but_not_beyond_its_intent(rig: Rig) -> None:
    root = await rig.start()
    plain, later = await rig.open(root), await rig.open(root, deferred=True)
    assert plain.record.step.expires_at == rig.clock.time + 300
    assert later.record.step.expires_at == root.step.expires_at
    step = (await rig.take(plain)).record
    deep = await rig.open(step, "files/read", who=MAIL, deferred=True)
    assert deep.record.step.expires_at == rig.clock.time + 86_400


async def test_a_token_never_outlives_its_step(rig: Rig) -> None:
    root = await rig.start(exp=int(rig.clock.time) + 20)
    assert (await rig.open(root)).expires_in == 20


async def test_a_refusal_is_told_also_when_the_store_is_in_doubt(rig: Rig) -> None:
    root = await rig.start()

    class Doubtful:
        def __getattr__(self, name: str) -> Any:
            async def doubt(*_: object) -> None:
                raise Unavailable("unavailable", "the store is in doubt", rule="store")

            return doubt

    house = replace(rig.house, store=Doubtful())  # type: ignore[arg-type]
    with pytest.raises(Refused) as no:
        await open_step(house, rig.caller(AGENT), rig.call(root, origin="human"), rig.op(), "d")
    assert no.value.code == "origin_claimed"
    assert no.value.ref is not None


# --- a fresh token per round


async def renew(rig: Rig, step: str, **changes: Any) -> Any:
    return await renew_token(rig.house, rig.caller(AGENT, **changes), step)


async def test_the_initiator_gets_a_fresh_token_of_an_opened_or_waiting_step(rig: Rig) -> None:
    from stepwrit_broker.flows import performing

    ready = await rig.open(await rig.start())
    rig.clock.advance(100)
    fresh = await renew(rig, ready.record.step.id)
    assert fresh.token != ready.token
    assert fresh.expires_in == 60
    step = (await rig.take(fresh)).record.step.id
    await performing.wait(rig.house, rig.caller(MAIL, key=False), step, WaitRequest(round=1), rig.op(), "d")
    again = await renew(rig, step)
    assert (await rig.take(again, round_=2)).record.life.round == 2


async def test_a_running_or_ended_step_has_no_fresh_token(rig: Rig) -> None:
    from stepwrit_broker.flows import performing

    ready = await rig.open(await rig.start())
    assert await renew(rig, ready.record.step.id)
    await rig.take(ready)
    with pytest.raises(Conflict) as no:
        await renew(rig, ready.record.step.id)
    assert no.value.code == "wrong_state"
    await performing.close(
        rig.house, rig.caller(MAIL, key=False), ready.record.step.id, "done", rig.op(), "d"
    )
    with pytest.raises(Refused) as ended:
        await renew(rig, ready.record.step.id)
    assert ended.value.code == "already_done"
    with pytest.raises(Refused) as root:
        await renew(rig, ready.record.step.parent or "")
    assert root.value.code == "not_found"


async def test_nobody_else_and_no_other_key_gets_one(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    step = ready.record.step.id
    assert await renew(rig, step)
    for changes in ({"jkt": "x" * 43}, {"jkt": None}):
        with pytest.raises(Unproven) as wrong_key:
            await renew(rig, step, **changes)
        assert wrong_key.value.code == "invalid_proof"
    for who in (OTHER_AGENT, FOREIGN, MAIL):
        with pytest.raises(Refused) as foreign:
            await renew_token(rig.house, rig.caller(who), step)
        assert foreign.value.code == "not_found"
    for unknown in ("x", "stp_100" + "0" * 26):
        with pytest.raises(Refused) as no:
            await renew(rig, unknown)
        assert no.value.code == "not_found"


async def test_a_step_that_waited_for_too_long_or_is_revoked_has_none(rig: Rig) -> None:
    ready = await rig.open(await rig.start())
    assert await renew(rig, ready.record.step.id)
    await revoke(rig, f"step:{ready.record.step.id}")
    with pytest.raises(Refused) as no:
        await renew(rig, ready.record.step.id)
    assert no.value.code == "revoked"
    other = await rig.open(await rig.start())
    rig.clock.advance(300)
    with pytest.raises(Refused) as no:
        await renew(rig, other.record.step.id)
    assert no.value.code == "expired"


def influences(rig: Rig) -> list[Any]:
    """What policy was last told: tool, origin, how often."""
    told: Any = rig.policy.asked[-1].document["influence"]
    return [(each["tool"], each["origin"], each["times"]) for each in told]


async def test_a_decision_is_told_what_the_initiator_could_have_seen(rig: Rig) -> None:
    root = await rig.start()
    assert rig.policy.asked[-1].document["influence"] is None
    first = await rig.open(root, "files/read")
    assert (influences(rig), first.record.step.influence) == ([], "")
    second = await rig.open(root)
    assert (influences(rig), second.record.step.influence) == ([("files/read", "model", 1)], "1")
    await rig.open(root, "files/read")
    third = await rig.open(root)
    assert influences(rig) == [("files/read", "model", 2), ("mail/pay", "model", 1)]
    assert third.record.step.influence == "1-3"
    assert [entry["influence"] for entry in rig.entries("step.opened")] == ["", "1", "1-2", "1-3"]


async def test_a_server_is_told_what_was_in_its_arguments_and_what_it_asked_for_itself(rig: Rig) -> None:
    root = await rig.start()
    await rig.open(root, "files/read")
    taken = (await rig.take(await rig.open(root))).record
    await rig.open(root, "mail/note")
    await rig.open(taken, "files/read", who=MAIL)
    assert influences(rig) == [
        ("files/read", "model", 1),
        ("mail/pay", "model", 1),
        ("mail/note", "model", 1),  # the same server performs it: what it was given there it knows
    ]
    await rig.credential(taken)
    assert influences(rig)[0] == ("files/read", "model", 1)
    assert ("files/read", "server", 1) in influences(rig)


async def test_another_transaction_is_another_past(rig: Rig) -> None:
    await rig.open(await rig.start(), "files/read")
    await rig.open(await rig.start())
    assert influences(rig) == []


async def test_a_refused_step_has_no_results_and_influences_nothing(rig: Rig) -> None:
    root = await rig.start()
    rig.policy.says = Deny(policies=("no",), reason="no")
    await refused(rig, "policy", root, "files/read")
    rig.policy.says = Permit(policies=("p1",))
    await rig.open(root)
    assert influences(rig) == []


async def test_a_narrowing_is_taken_only_from_whom_the_registry_believes(rig: Rig) -> None:
    root = await rig.start()
    files = (await rig.open(root, "files/read")).record.step
    note = (await rig.open(root, "mail/note")).record.step
    problem = await refused(rig, "influence_claimed", root, influence=(note.id,))
    assert problem.who_can_change_it == "the operator (registry.yaml)"
    rig.believe(AGENT)
    narrowed = await rig.open(root, influence=(files.id,))
    assert influences(rig) == [("files/read", "model", 1)]
    assert narrowed.record.step.influence == "1"
    await rig.open(root, influence=())
    assert influences(rig) == []
    await rig.open(root)
    assert [tool for tool, _, _ in influences(rig)] == ["files/read", "mail/note", "mail/pay"]


async def test_a_narrowing_can_only_leave_out(rig: Rig) -> None:
    rig.believe(AGENT)
    root, elsewhere = await rig.start(), await rig.start()
    other = (await rig.open(elsewhere, "files/read")).record.step
    own = (await rig.open(root, "files/read")).record.step
    await rig.open(root, influence=(own.id,))
    for name in (other.id, root.step.id, "stp_none"):
        await refused(rig, "influence_claimed", root, influence=(name,))


async def test_a_server_cannot_narrow_what_it_knows(rig: Rig) -> None:
    rig.believe(AGENT)
    taken = await rig.accepted()
    await rig.open(taken, "files/read", who=MAIL)
    await refused(rig, "influence_claimed", taken, "files/read", who=MAIL, influence=())


FLOW = Workflow(
    name="books",
    tenant="acme",
    steps=(
        Declared(name="pay", by="chat", tool="mail/pay", times=5),
        Declared(name="read", by="mail", tool="files/read", under="pay", times=2),
    ),
)


def declared(rig: Rig) -> Any:
    """What policy was last told of a workflow."""
    return rig.policy.asked[-1].document["workflow"]


async def test_a_decision_is_told_which_declared_step_it_is_about(rig: Rig) -> None:
    root = await rig.start()
    await rig.open(root)
    assert declared(rig) is None
    rig.register(FLOW)
    ready = await rig.open(root)
    assert declared(rig) == {"name": "books", "step": "pay", "nth": 1, "times": 5}
    assert ready.record.step.label == ("books", "pay")
    taken = (await rig.take(ready)).record
    await rig.open(taken, "files/read", who=MAIL)
    assert declared(rig) == {"name": "books", "step": "read", "nth": 1, "times": 2}
    await rig.credential(taken)
    assert declared(rig) == {"name": "books", "step": "pay", "nth": 1, "times": 5}
    rig.register()
    await rig.credential(taken, method="GET", url=f"{AUDIENCE}/v1/acc?page=1")
    assert declared(rig) is None


async def test_of_many_at_once_no_more_than_declared_are_told_so(rig: Rig) -> None:
    """The policy here permits everything: what counts is that nobody was told wrongly."""
    rig.register(FLOW)
    taken = (await rig.take(await rig.open(await rig.start()))).record
    rig.policy.asked.clear()
    ready = await asyncio.gather(*(rig.open(taken, "files/read", who=MAIL) for _ in range(10)))
    labels = [each.record.step.label for each in ready]
    assert labels.count(Label("books", "read")) == 2
    assert labels.count(None) == 8


async def test_beyond_the_cap_all_that_was_before_counts_and_nothing_is_left_out(rig: Rig) -> None:
    rig.believe(AGENT)
    root = await rig.start(budget=Budget(steps=1000))
    first = (await rig.open(root, "files/read")).record.step
    for _ in range(EXACT_MAX - 2):
        await rig.open(root, "mail/note", influence=())
    await rig.open(root, "mail/note", influence=(first.id,))
    taken = await rig.open(root)
    assert (taken.record.step.influence, influences(rig)) == (
        "*",
        [("files/read", "model", 1), ("mail/note", "model", EXACT_MAX - 1)],
    )
    await refused(rig, "influence_claimed", root, influence=(first.id,))
    record = (await rig.take(taken)).record
    await rig.credential(record)
    assert ("files/read", "model", 1) in influences(rig)
