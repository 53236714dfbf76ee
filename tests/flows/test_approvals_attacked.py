"""What an attacker, or a person no longer to be trusted, tries with approvals; each after what works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flows.rig import CRON, IDP, MAIL, Rig
from tests.flows.test_approvals import (
    ALICE,
    ALICE_TOO,
    BOB,
    LISTED,
    asked,
    bound,
    needs,
    poll,
    refused,
    sign,
)

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Permit
from stepwrit_broker.flows import approving, opening, performing, revoke
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_approval import DecideCommand, ProposeCommand

TEAM = Identity(IDP, "team-lead")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


async def mark(rig: Rig, verb: str, target: str) -> None:
    wanted = MarkRequest(verb="freeze" if verb == "freeze" else "unfreeze", target=target, reason="stolen")
    await revoke.mark(rig.house, revoke.Operator(name="uid:0"), wanted, rig.op(), "d")


async def key_of(rig: Rig, owner: Identity, name: str) -> Authenticator:
    """A key of that person, as an operator approved it."""
    made = Authenticator(id=name, owner=owner, kind="key", public_key=f'{{"x":"{name}"}}')
    who, now = rig.house.opaque(owner), rig.clock.time
    await rig.store.approvals.propose(
        ProposeCommand(authenticator=made, who=who, proofs=(), evidence=Evidence(), ref="AAAAAAAAAA", now=now)
    )
    await decide(rig, made, "approve")
    return made


async def decide(rig: Rig, made: Authenticator, verb: str) -> None:
    await rig.store.approvals.decide(
        DecideCommand(
            authenticator=made.id,
            verb="approve" if verb == "approve" else "retire",
            by="uid:0",
            reason="r",
            who=rig.house.opaque(made.owner),
            ref="AAAAAAAAAA",
            now=rig.clock.time,
        )
    )


async def running(rig: Rig, record: ApprovalRecord) -> StepRecord:
    return (await rig.take(await poll(rig, record))).record


# --- persons who are not to be trusted any more


@pytest.mark.parametrize("frozen", [BOB, Identity("https://two.example", "b")])
async def test_a_frozen_person_signs_for_nobody(rig: Rig, frozen: Identity) -> None:
    """Also where the mark names another identity of the same person."""
    known = {**LISTED.links, "bob": frozenset({BOB, Identity("https://two.example", "b")})}
    rig.settings.registry = replace(rig.settings.registry, persons=Persons(known, LISTED.tenants))
    terms = Terms(persons=frozenset({"bob"}), requester=False)
    root = await rig.start()
    one, other = await asked(rig, root, "mail/pay", terms), await asked(rig, root, "mail/pay", terms)
    assert (await sign(rig, one, BOB)).state == "given"
    await mark(rig, "freeze", f"requester:{rig.house.opaque(frozen)}")
    await refused(rig, sign(rig, other, BOB), "frozen")
    await approving.deny(rig.house, BOB, other.asked.id, "but a no is always welcome")


async def test_what_a_person_signed_does_not_count_while_they_are_frozen(rig: Rig) -> None:
    terms = Terms(persons=frozenset({"bob"}), requester=False)
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    await sign(rig, record, BOB)
    step, target = await running(rig, record), f"requester:{rig.house.opaque(BOB)}"
    await mark(rig, "freeze", target)
    await refused(rig, rig.credential(step), "approval_required")
    await mark(rig, "unfreeze", target)
    await rig.credential(step)


async def test_what_a_key_signed_does_not_count_once_it_is_retired(rig: Rig) -> None:
    root, key = await rig.start(), await key_of(rig, ALICE, "aut_lost")
    one, other = await asked(rig, root), await asked(rig, root)
    for each in (one, other):
        assert (await sign(rig, each, authenticator=key.id)).state == "given"
    first, second = await running(rig, one), await running(rig, other)
    await rig.credential(first)
    await decide(rig, key, "retire")
    await refused(rig, rig.credential(second), "approval_required")


async def test_a_retired_keys_signature_is_made_again_with_another(rig: Rig) -> None:
    terms = Terms(count=2, persons=frozenset({"bob"}))
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    lost, found = await key_of(rig, ALICE, "aut_lost"), await key_of(rig, ALICE, "aut_found")
    await sign(rig, record, authenticator=lost.id)
    assert (await approving.view(rig.house, ALICE, record.asked.id)).missing == 1
    await decide(rig, lost, "retire")
    seen = await approving.view(rig.house, ALICE, record.asked.id)
    assert (seen.missing, seen.has_signed) == (2, False)
    assert (await sign(rig, record, BOB)).state == "asked"
    assert (await sign(rig, record, authenticator=found.id)).state == "given"


# --- decided again at use


async def test_a_tool_without_a_plan_is_decided_again_where_it_is_accepted(rig: Rig) -> None:
    """It has no credential at which that could be done later."""
    root = await rig.start()
    one, other = await asked(rig, root, "mail/plain"), await asked(rig, root, "mail/plain")
    for each in (one, other):
        await sign(rig, each)
    await running(rig, one)
    rig.policy.says = needs(Terms(persons=frozenset({"bob"}), requester=False))
    ready = await poll(rig, other)
    await refused(rig, rig.take(ready), "approval_required")


async def test_a_policy_that_changes_while_an_accept_is_decided_is_asked_too(rig: Rig) -> None:
    """Between the decision and the write an operator may have made it stricter: a server to ask is slow."""
    root = await rig.start()
    record = await asked(rig, root, "mail/note")
    await sign(rig, record)
    ready, before = await poll(rig, record), len(rig.policy.asked)
    rig.settings.stale = 9
    await refused(rig, rig.take(ready), "stale_version")
    rig.settings.stale = 1
    await rig.take(ready)
    assert len(rig.policy.asked) - before == 2 * (3 + 2), (
        "afresh, three times, then once; each in two questions"
    )


# --- who is asked how often


async def test_owners_of_one_name_in_two_tenants_are_two(rig: Rig) -> None:
    """Otherwise the triggers of one tenant use up what the other's owner may be asked.

    Nobody of the first tenant is called so: there the step is refused, and no telephone rings.
    """
    persons = Persons({"team": frozenset({TEAM})}, {"team": "acme"})
    registry = rig.settings.registry
    there = [replace(each, tenant="evil") for each in registry.entries]
    bound(rig, per_requester=2, per_initiator=2)
    rig.settings.registry = replace(registry, persons=persons, entries=tuple(there))
    root = await rig.start(CRON)
    rig.policy.says = needs()
    for _ in range(3):
        await refused(rig, rig.open(root, who=CRON), "approval_required")
    rig.settings.registry = replace(registry, persons=persons)
    rig.policy.says = Permit(policies=("p",))
    record = await asked(rig, await rig.start(CRON), who=CRON)
    assert (await sign(rig, record, TEAM)).state == "given"


async def test_asking_and_ending_it_oneself_asks_no_more_persons(rig: Rig) -> None:
    """A server whose call opens, gives up and is called again: each time telephones would ring."""
    bound(rig, per_initiator=2, per_requester=9, cooldown_s=300.0)
    root = await rig.start()

    async def ask_and_give_up() -> None:
        rig.policy.says = Permit(policies=("p",))
        call = (await rig.take(await rig.open(root))).record
        rig.policy.says = needs()
        request = rig.call(call, "files/read")
        await refused(
            rig,
            opening.open_step(rig.house, rig.caller(MAIL), request, rig.op(), "d"),
            "authorization_pending",
        )
        me = rig.caller(MAIL, key=False)
        await performing.close(rig.house, me, call.step.id, "failed", rig.op(), "d")

    await ask_and_give_up()
    await ask_and_give_up()
    rig.policy.says = Permit(policies=("p",))
    call = (await rig.take(await rig.open(root))).record
    rig.policy.says = needs()

    def again() -> object:
        request = rig.call(call, "files/read")
        return opening.open_step(rig.house, rig.caller(MAIL), request, rig.op(), "d")

    assert (await refused(rig, again(), "limit")).rule == "limits v0 approvals.per_initiator"
    assert rig.told == ["asked", "asked"]
    rig.clock.time += 301
    call = (await _fresh_call(rig, root)).record
    await refused(rig, again(), "authorization_pending")


async def _fresh_call(rig: Rig, root: StepRecord) -> performing.Accepted:
    rig.policy.says = Permit(policies=("p",))
    ready = await rig.open(root)
    taken = await rig.take(ready)
    rig.policy.says = needs()
    return taken


async def test_others_who_ask_much_hide_nothing_from_a_person(rig: Rig) -> None:
    bound(rig, per_requester=999, per_initiator=999)
    rig.limit(steps=2000)
    bound(rig, per_requester=999, per_initiator=999)
    mine = await asked(rig, await rig.start())
    assert [each.asked.id for each in await approving.waiting(rig.house, ALICE)] == [mine.asked.id]
    rig.people.claims, rig.policy.says = {"subject": "mallory"}, Permit(policies=("p",))
    root = await rig.start()
    for _ in range(201):
        await asked(rig, root)
    for who in (ALICE, ALICE_TOO):
        assert [each.asked.id for each in await approving.waiting(rig.house, who)] == [mine.asked.id]


async def test_polls_held_for_one_approval_are_few(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    held = [asyncio.create_task(poll(rig, record, 20.0)) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in held)
    await refused(rig, poll(rig, record, 20.0), "slow_down")
    await sign(rig, record)
    await asyncio.wait_for(asyncio.gather(*held), 5)


async def test_who_signed_does_not_fill_the_ledger_by_signing_again(rig: Rig) -> None:
    terms = Terms(count=2, persons=frozenset({"bob"}))
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    await sign(rig, record)
    no = await refused(rig, sign(rig, record), "wrong_state")
    assert "signed" in no.reason
    assert len(rig.entries("approval.signed")) == 1
    assert (await sign(rig, record, BOB)).state == "given"


# --- what is shown and what is kept


async def test_what_a_person_says_in_a_denial_is_not_in_the_log_for_ever(rig: Rig) -> None:
    root = await rig.start()
    record = await asked(rig, root)
    said = "Carol from payroll rang me about this"
    after = await approving.deny(rig.house, ALICE, record.asked.id, said, freeze=True)
    assert after.reason == said, "shown, while its row is kept"
    told = rig.entries("approval.denied")[0]
    assert "Carol" not in json.dumps(rig.entries())
    assert len(told["decision"]) == 64, "kept beside the log, under a salted digest that can be erased"
    assert "Carol" not in rig.store.marks()[f"txn:{root.step.txn}"].reason


async def test_a_text_that_is_not_the_one_to_be_signed_is_not_shown(rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    assert (await approving.view(rig.house, ALICE, record.asked.id)).text
    other = rig.house.sealer.seal(b'["Allow nothing of importance."]', record.asked.id)

    class Swapped(type(rig.store.approvals)):  # type: ignore[misc]
        async def sealed_text(self, approval: str) -> bytes | None:
            return other

    store = rig.store.approvals
    store.__class__ = Swapped
    with pytest.raises(Unavailable):
        await approving.view(rig.house, ALICE, record.asked.id)


async def test_a_credential_id_that_looks_like_an_authenticators_name_is_not_taken_for_it(rig: Rig) -> None:
    mine = await key_of(rig, ALICE, "aut_AAAA")
    evil = Authenticator(
        id="aut_evil", owner=BOB, kind="passkey", public_key='{"x":"e"}', credential="aut_AAAA"
    )
    who = rig.house.opaque(BOB)
    await refused(
        rig,
        rig.store.approvals.propose(
            ProposeCommand(
                authenticator=evil,
                who=who,
                proofs=(),
                evidence=Evidence(),
                ref="AAAAAAAAAA",
                now=rig.clock.time,
            )
        ),
        "wrong_state",
    )
    found = await rig.store.approvals.authenticator("aut_AAAA")
    assert found is not None
    assert found.owner == mine.owner == ALICE
