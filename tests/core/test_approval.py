"""What an approval signs, and whose signatures make it one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import build

from stepwrit.wire import HopSpec, PlanItem
from stepwrit_broker.core.approval import Asked, Signed, may_sign, missing
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.step import Requester
from stepwrit_broker.core.terms import Terms, together

IDP = "https://idp.example"
ALICE, BOB, CAROL = Identity(IDP, "alice"), Identity(IDP, "bob"), Identity(IDP, "carol")
ALICE_TOO, STRANGER = Identity("https://two.example", "a"), Identity("https://two.example", "s")
PERSONS = Persons(
    {"alice": frozenset({ALICE, ALICE_TOO}), "bob": frozenset({BOB}), "carol": frozenset({CAROL})}
)


def asked(*terms: Terms, **changes: Any) -> Asked:
    step = build.Maker(now=1_000.0).root_step()
    who = Requester(opaque="prs_1", issuer=IDP, subject="alice")
    action = build.action(
        facts=(("amount", 500),), plan=(PlanItem(at="https://b.example", method="POST", path="/t"),)
    )
    hop = HopSpec(
        step="stp_0", initiator=step.initiator, performer="spiffe://a.test/first", origin="model", tool="a/b"
    )
    step = replace(step, intent=replace(step.intent, requester=who), action=action, chain=(hop, hop))
    given: dict[str, Any] = {
        "id": "apr_1",
        "nonce": "n" * 43,
        "step": step,
        "action": action,
        "performer": "spiffe://a.test/ledger",
        "kind": "action_token",
        "policies": ("high-needs-approval",),
        "versions": {"policy": 3, "registry": 2},
        "terms": terms or (Terms(),),
        "asked_at": 1_000,
        "expires_at": 2_000,
        "text": "t" * 43,
    }
    return Asked(**{**given, **changes})


def with_step(**changes: Any) -> Callable[[Asked], Asked]:
    return lambda a: replace(a, step=replace(a.step, **changes))


def with_intent(**changes: Any) -> Callable[[Asked], Asked]:
    return lambda a: replace(a, step=replace(a.step, intent=replace(a.step.intent, **changes)))


def with_action(**changes: Any) -> Callable[[Asked], Asked]:
    return lambda a: replace(a, action=replace(a.action, **changes))


def with_hop(**changes: Any) -> Callable[[Asked], Asked]:
    return lambda a: replace(
        a, step=replace(a.step, chain=(replace(a.step.chain[0], **changes), a.step.chain[1]))
    )


OTHERS: dict[str, Callable[[Asked], Asked]] = {
    "id": lambda a: replace(a, id="apr_2"),
    "nonce": lambda a: replace(a, nonce="m" * 43),
    "step": with_step(id="stp_2"),
    "transaction": with_step(txn="txn_2"),
    "tenant": with_step(tenant="blue"),
    "initiator": with_step(initiator="spiffe://a.test/other"),
    "origin": with_step(origin="server"),
    "deferred": with_step(deferred=True),
    "until": with_step(expires_at=99_999.0),
    "influence": with_step(influence="1-3"),
    "requester": with_intent(requester=Requester(opaque="prs_2", issuer=IDP, subject="bob")),
    "owner": with_intent(owner="ops"),
    "purpose": with_intent(purpose="something else"),
    "performer": lambda a: replace(a, performer="spiffe://a.test/mallory"),
    "chain: performer": with_hop(performer="spiffe://a.test/second"),
    "chain: origin": with_hop(origin="server"),
    "chain: tool": with_hop(tool="a/c"),
    "tool": with_action(tool="ledger/wipe"),
    "impact": with_action(impact="high"),
    "arguments": with_action(args="B" * 43),
    "schema": with_action(schema="s2"),
    "plan: path": with_action(plan=(PlanItem(at="https://b.example", method="POST", path="/u"),)),
    "plan: times": with_action(plan=(PlanItem(at="https://b.example", method="POST", path="/t", times=2),)),
    "facts": with_action(facts=(("amount", 501),)),
    "kind": lambda a: replace(a, kind="postgres_role"),
    "policies": lambda a: replace(a, policies=("other",)),
    "versions": lambda a: replace(a, versions={"policy": 4, "registry": 2}),
    "terms": lambda a: replace(a, terms=(Terms(count=2),)),
    "one more of the terms": lambda a: replace(a, terms=(Terms(), Terms(count=2))),
    "expiry": lambda a: replace(a, expires_at=2_001),
    "text": lambda a: replace(a, text="u" * 43),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_else_would_run_has_another_digest(what: str) -> None:
    one = asked()
    assert one.digest == asked().digest
    assert OTHERS[what](one).digest != one.digest


def test_a_signature_over_one_counts_for_no_other() -> None:
    one = asked()
    other = OTHERS["arguments"](one)
    signed = [Signed(by=ALICE, digest=one.digest, at=1_001)]
    assert missing(one, signed, PERSONS) == 0
    assert missing(other, signed, PERSONS) == 1


def test_a_challenge_is_of_one_attempt() -> None:
    one = asked()
    assert one.challenge(b"a" * 32) == one.challenge(b"a" * 32)
    assert (
        len({one.challenge(b"a" * 32), one.challenge(b"b" * 32), OTHERS["id"](one).challenge(b"a" * 32)}) == 3
    )
    assert one.nonce not in repr(one)


def by(*who: Identity, of: Asked) -> list[Signed]:
    return [Signed(by=each, digest=of.digest, at=1_001) for each in who]


TWO = frozenset({"bob", "carol"})


@pytest.mark.parametrize(
    ("terms", "who", "left"),
    [
        (Terms(), (), 1),
        (Terms(), (ALICE,), 0),
        (Terms(), (ALICE_TOO,), 0),
        (Terms(), (BOB,), 1),
        (Terms(), (STRANGER,), 1),
        (Terms(persons=TWO, requester=False), (ALICE,), 1),
        (Terms(persons=TWO, requester=False), (BOB,), 0),
        (Terms(count=2, persons=TWO), (ALICE, BOB), 0),
        (Terms(count=2, persons=TWO), (ALICE, ALICE_TOO), 1),
        (Terms(count=2, persons=TWO), (BOB, BOB), 1),
        (Terms(count=2, persons=TWO, requester=False), (ALICE, BOB), 1),
        (Terms(count=2, persons=TWO, requester=False), (BOB, CAROL), 0),
        (Terms(persons=TWO, alone=False), (ALICE,), 1),
        (Terms(persons=TWO, alone=False), (ALICE, BOB), 0),
        (Terms(persons=TWO, alone=False), (BOB,), 0),
        (Terms(persons=frozenset({"alice"}), requester=False), (ALICE_TOO,), 1),
    ],
)
def test_who_is_missing(terms: Terms, who: tuple[Identity, ...], left: int) -> None:
    one = asked(terms)
    assert missing(one, by(*who, of=one), PERSONS) == left


BOTH = (Terms(), Terms(persons=frozenset({"bob"}), requester=False))


@pytest.mark.parametrize(
    ("terms", "who", "left"),
    [
        (BOTH, (), 1),
        (BOTH, (ALICE,), 1),
        (BOTH, (BOB,), 1),
        (BOTH, (ALICE, BOB), 0),
        ((Terms(), Terms(persons=TWO)), (ALICE,), 0),
        ((Terms(persons=TWO), Terms(count=3, persons=TWO)), (ALICE,), 2),
    ],
)
def test_each_of_several_terms_must_be_satisfied(
    terms: tuple[Terms, ...], who: tuple[Identity, ...], left: int
) -> None:
    one = asked(*terms)
    assert missing(one, by(*who, of=one), PERSONS) == left


def test_who_may_sign_for_any_of_the_terms_may_sign() -> None:
    one = asked(*BOTH)
    assert may_sign(one, ALICE, PERSONS)
    assert may_sign(one, BOB, PERSONS)
    assert not may_sign(one, CAROL, PERSONS)
    assert not may_sign(one, ALICE, PERSONS, BOTH[1:])


def test_no_terms_is_not_an_approval_that_needs_nobody() -> None:
    one = asked(Terms())
    assert missing(one, by(ALICE, of=one), PERSONS, (Terms(),)) == 0
    for ask in (lambda: replace(one, terms=()), lambda: missing(one, by(ALICE, of=one), PERSONS, ())):
        with pytest.raises(ValueError, match="nobody need sign"):
            ask()
    with pytest.raises(ValueError, match="nobody need sign"):
        may_sign(one, ALICE, PERSONS, ())


def test_the_order_of_the_rules_changes_no_digest() -> None:
    three = [Terms(), Terms(persons=TWO), Terms(count=2, persons=TWO)]
    assert asked(*together(three)).digest == asked(*together([*reversed(three), Terms()])).digest


def test_what_was_signed_must_satisfy_what_is_demanded_at_use() -> None:
    one = asked(Terms(persons=TWO))
    signed = by(ALICE, of=one)
    assert missing(one, signed, PERSONS, (Terms(persons=TWO),)) == 0
    assert missing(one, signed, PERSONS, (Terms(persons=frozenset({"bob", "carol", "dan"})),)) == 0
    assert missing(one, signed, PERSONS, (Terms(persons=TWO, requester=False),)) == 1
    assert missing(one, signed, PERSONS, (Terms(persons=TWO, count=2),)) == 1
    assert missing(one, signed, PERSONS, (Terms(persons=TWO, alone=False),)) == 1
    assert missing(one, signed, PERSONS, (Terms(persons=TWO), Terms(persons=TWO, requester=False))) == 1


def test_a_triggers_step_has_no_requester_who_could_sign() -> None:
    one = with_intent(requester=None, owner="ops")(asked())
    assert not may_sign(one, ALICE, PERSONS)
    assert may_sign(replace(one, terms=(Terms(persons=TWO),)), BOB, PERSONS)


def test_a_triggers_owner_of_record_signs_for_it_where_the_list_names_them() -> None:
    one = with_intent(requester=None, owner="bob")(asked())
    assert may_sign(one, BOB, PERSONS)
    assert not may_sign(one, CAROL, PERSONS)


def test_a_person_of_another_tenant_signs_nothing() -> None:
    one = asked(Terms(persons=TWO))
    tenant = one.step.tenant
    assert may_sign(one, BOB, Persons(PERSONS.links, {"bob": tenant, "carol": tenant}))
    assert not may_sign(one, BOB, Persons(PERSONS.links, {"bob": "blue", "carol": tenant}))
    owned = with_intent(requester=None, owner="bob")(asked())
    assert not may_sign(owned, BOB, Persons(PERSONS.links, {"bob": "blue"}))
