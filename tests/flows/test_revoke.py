"""The brake: revoke, freeze, unfreeze; and a workload's own step."""

from __future__ import annotations

from typing import Any

import pytest
from tests.flows.rig import AGENT, AUDIENCE, FILES, FOREIGN, MAIL, OPS, TD, Rig

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.errors import Conflict, Malformed, Refused, Unavailable
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows.revoke import Operator, mark, revoke_own, sees_all

LOCAL = Operator(name="uid 0")


async def pull(
    rig: Rig, verb: Any, target: str, *, by: Operator = LOCAL, op: str = "", reason: str = "why"
) -> Mark:
    return await mark(
        rig.house, by, MarkRequest(verb=verb, target=target, reason=reason), op or rig.op(), verb + target
    )


async def test_a_freeze_stops_at_once_is_recorded_and_can_be_lifted(rig: Rig) -> None:
    root = await rig.start()
    assert await rig.open(root)
    made = await pull(rig, "freeze", "tool:mail/pay")
    assert (made.by, made.reason, made.at) == ("uid 0", "why", rig.clock.time)
    with pytest.raises(Refused) as no:
        await rig.open(root)
    assert no.value.code == "frozen"
    assert rig.entries("mark.set")[-1]["ref"] == made.ref
    await pull(rig, "unfreeze", "tool:mail/pay")
    assert await rig.open(root)
    assert len(rig.entries("mark.lifted")) == 1


async def test_a_revocation_stands_for_good(rig: Rig) -> None:
    root = await rig.start()
    await pull(rig, "revoke", f"txn:{root.step.txn}")
    with pytest.raises(Refused) as no:
        await pull(rig, "unfreeze", f"txn:{root.step.txn}")
    assert no.value.code == "not_found"
    await pull(rig, "freeze", f"txn:{root.step.txn}")
    with pytest.raises(Refused) as no:
        await rig.open(root)
    assert no.value.code == "revoked"


@pytest.mark.parametrize("target", ["", "x", "planet:earth", "everything:now", "step:1", "workload:agent"])
async def test_a_mark_that_would_stop_nothing_is_refused(rig: Rig, target: str) -> None:
    assert await pull(rig, "freeze", "everything:all")
    with pytest.raises(Malformed):
        await pull(rig, "freeze", target)


@pytest.mark.parametrize("reason", ["", " ", "x" * 501])
async def test_a_reason_is_given(rig: Rig, reason: str) -> None:
    assert await pull(rig, "freeze", "everything:all", reason="x" * 500)
    with pytest.raises(Malformed):
        await pull(rig, "freeze", "everything:all", reason=reason)


async def test_everything_can_be_frozen_and_the_brake_still_works(rig: Rig) -> None:
    root = await rig.start()
    await pull(rig, "freeze", "everything:all")
    with pytest.raises(Refused):
        await rig.start()
    with pytest.raises(Refused):
        await rig.open(root)
    await pull(rig, "revoke", f"step:{root.step.id}")
    await pull(rig, "unfreeze", "everything:all")
    assert await rig.start()
    with pytest.raises(Refused):
        await rig.open(root)


async def test_the_same_operation_gets_the_same_mark(rig: Rig) -> None:
    first = await pull(rig, "freeze", "tool:mail/pay", op="operation-m")
    assert await pull(rig, "freeze", "tool:mail/pay", op="operation-m") == first
    assert len(rig.entries("mark.set")) == 1
    with pytest.raises(Conflict):
        await pull(rig, "freeze", "tool:mail/note", op="operation-m")


async def test_a_clock_in_doubt_is_told_to_the_operator(rig: Rig) -> None:
    rig.clock.doubt = True
    with pytest.raises(Unavailable):
        await pull(rig, "freeze", "tool:mail/pay")


# --- an operator of one tenant

TENANT = Operator(name=OPS, tenant="acme")


@pytest.mark.parametrize(
    "target",
    [
        "tenant:acme",
        f"workload:{AGENT}",
        "tool:mail/pay",
        "server:mail",
        f"resource:{AUDIENCE}",
        "step",
        "grant",
    ],
)
async def test_a_tenants_operator_marks_what_is_the_tenants(rig: Rig, target: str) -> None:
    step = await rig.accepted()
    grant = (await rig.credential(step)).record.grant.id
    target = {"step": f"step:{step.step.id}", "grant": f"grant:{grant}"}.get(target, target)
    assert (await pull(rig, "freeze", target, by=TENANT)).target == target


@pytest.mark.parametrize(
    "target",
    [
        "tenant:evil",
        f"workload:{FOREIGN}",
        "workload:spiffe://unknown.test/a",
        "tool:theirs/read",
        "server:theirs",
        "resource:https://theirs.example",
        "everything:all",
        "trust_domain:example.test",
    ],
)
async def test_what_is_not_the_tenants_looks_unknown(rig: Rig, target: str) -> None:
    assert await pull(rig, "freeze", target)
    await pull(rig, "unfreeze", target)
    with pytest.raises(Refused) as no:
        await pull(rig, "freeze", target, by=TENANT)
    assert no.value.code == "not_found"
    assert target not in rig.store.marks()


@pytest.mark.parametrize("kind", ["txn", "step", "grant"])
async def test_a_mistyped_id_is_told_and_marks_nothing(rig: Rig, kind: str) -> None:
    step = await rig.accepted()
    grant = (await rig.credential(step)).record.grant.id
    good = {"txn": f"txn:{step.step.txn}", "step": f"step:{step.step.id}", "grant": f"grant:{grant}"}[kind]
    assert (await pull(rig, "freeze", good)).target == good
    wrong = good[:-4] + "0000"
    for operator in (LOCAL, TENANT):
        with pytest.raises(Refused) as no:
            await (
                pull(rig, "freeze", wrong) if operator is None else pull(rig, "freeze", wrong, by=operator)
            )
        assert no.value.code == "not_found"
    assert wrong not in rig.store.marks()


async def test_where_there_is_one_tenant_its_operator_marks_everything(rig: Rig) -> None:
    from dataclasses import replace

    kept = tuple(entry for entry in rig.settings.registry.entries if entry.tenant == "acme")
    rig.settings.registry = replace(rig.settings.registry, entries=kept)
    assert not sees_all(rig.house, replace(TENANT, tenant="evil"))
    assert sees_all(rig.house, LOCAL)
    assert await pull(rig, "freeze", "everything:all", by=TENANT)


# --- a workload's own


async def own(rig: Rig, who: SpiffeId, target: str, *, verb: Any = "revoke", reason: str = "done") -> Mark:
    request = MarkRequest(verb=verb, target=target, reason=reason)
    return await revoke_own(rig.house, rig.caller(who, key=False), request, rig.op(), "d")


@pytest.mark.parametrize("who", [AGENT, MAIL])
async def test_initiator_and_performer_may_revoke_their_step(rig: Rig, who: SpiffeId) -> None:
    step = await rig.accepted()
    made = await own(rig, who, f"step:{step.step.id}")
    assert (made.verb, made.by) == ("revoke", who)
    with pytest.raises(Refused) as no:
        await rig.credential(step)
    assert no.value.code == "revoked"


async def test_revoking_ones_root_ends_the_transaction(rig: Rig) -> None:
    step = await rig.accepted()
    await own(rig, AGENT, f"step:{step.step.parent}")
    with pytest.raises(Refused):
        await rig.credential(step)


@pytest.mark.parametrize(
    ("who", "verb", "target", "code"),
    [
        (FILES, "revoke", "own", "not_found"),
        (FOREIGN, "revoke", "own", "not_found"),
        (AGENT, "revoke", "step:stp_100" + "0" * 26, "not_found"),
        (AGENT, "freeze", "own", "wrong_workload"),
        (AGENT, "unfreeze", "own", "wrong_workload"),
        (AGENT, "revoke", f"workload:{TD}/mcp/files", "wrong_workload"),
        (AGENT, "revoke", "everything:all", "wrong_workload"),
        (AGENT, "revoke", "step:x", "invalid_request"),
        (AGENT, "revoke", "x" * 5000, "invalid_request"),
    ],
)
async def test_nothing_else_is_a_workloads_to_revoke(
    rig: Rig, who: SpiffeId, verb: str, target: str, code: str
) -> None:
    from stepwrit_broker.core.errors import Problem

    step = await rig.accepted()
    with pytest.raises(Problem) as no:
        await own(rig, who, f"step:{step.step.id}" if target == "own" else target, verb=verb)
    assert no.value.code == code
    assert not rig.store.marks()
    assert rig.entries("refused")[-1]["ref"] == no.value.ref


async def test_a_workload_gives_a_reason_too(rig: Rig) -> None:
    step = await rig.accepted()
    with pytest.raises(Malformed):
        await own(rig, AGENT, f"step:{step.step.id}", reason="")
    with pytest.raises(Malformed):
        await own(rig, AGENT, f"step:{step.step.id}", reason="x" * 70_000)
