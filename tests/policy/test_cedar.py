"""The Cedar adapter: facts, slices, what is handed over, and approval that could not help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.policy.world import AGENT, HOME, MAIL, NOW, SERVER, Scene, caller, issuing, opening, starting, step

from stepwrit.wire import Impact, Origin
from stepwrit_broker.core.document import credential_question
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit
from stepwrit_broker.policy import cedar, slices
from stepwrit_broker.policy.cedar import CedarEngine
from stepwrit_broker.policy.files import compile_policy, load, stance
from stepwrit_broker.policy.guards import guards, values
from stepwrit_broker.policy.reads import project, reads
from stepwrit_broker.policy.slices import Slices

ROOT = Path(__file__).parents[2]
YES = '@id("yes") permit (principal, action, resource);'
ACT = 'principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"], resource'
LOW = Scene(origin="model", impact="low")
AFTER = Scene(origin="model", impact="low", influence=(MAIL,))


def engine(*texts: str, facts: dict[str, str] | None = None) -> CedarEngine:
    files = {f"{number}.cedar": text for number, text in enumerate(texts)}
    return compile_policy(load({**files, "facts.json": json.dumps(facts or {})}).doc, 1)


BIG = f'@id("big") forbid ({ACT}) unless {{ context.facts has amount && context.facts.amount <= 1000 }};'


async def test_a_rule_reads_a_declared_fact() -> None:
    made = engine(YES, BIG, facts={"amount": "Long"})
    small, big = replace(LOW, facts=(("amount", 5),)), replace(LOW, facts=(("amount", 5000),))
    assert isinstance(await made.decide(opening(small)), Permit)
    assert isinstance(await made.decide(opening(big)), Deny)
    assert isinstance(await made.decide(opening(LOW)), Deny), "a missing fact is not a small one"


@pytest.mark.parametrize("value", ["5", True, 2**63, -(2**63) - 1])
async def test_a_fact_of_another_type_is_denied_before_any_rule(value: str | int | bool) -> None:
    made = engine(YES, facts={"amount": "Long"})
    assert isinstance(await made.decide(opening(replace(LOW, facts=(("amount", 5),)))), Permit)
    verdict = await made.decide(opening(replace(LOW, facts=(("amount", value),))))
    assert verdict == Deny(policies=(), reason="a fact of the arguments is not of its declared type")


async def test_an_undeclared_fact_is_not_shown_to_policy() -> None:
    made = engine(YES, facts={"amount": "Long"})
    assert isinstance(await made.decide(opening(replace(LOW, facts=(("other", "x"),)))), Permit)


async def test_an_approval_is_not_asked_for_where_it_could_not_help() -> None:
    ask = f'@id("ask") @verdict("needs_approval") @setting("x") forbid ({ACT});'
    start = '@id("start") permit (principal, action == Stepwrit::Action::"start_intent", resource);'
    assert isinstance(await engine(YES, ask).decide(opening(LOW)), NeedsApproval)
    assert await engine(start, ask).decide(opening(LOW)) == Deny(policies=(), reason="no policy permits this")


async def test_a_plain_forbid_beside_one_that_asks_for_approval_denies() -> None:
    ask = f'@id("ask") @verdict("needs_approval") @setting("x") forbid ({ACT});'
    no = f'@id("no") @reason("not on Sundays") forbid ({ACT});'
    assert isinstance(await engine(YES, ask).decide(opening(LOW)), NeedsApproval)
    assert await engine(YES, ask, no).decide(opening(LOW)) == Deny(policies=("no",), reason="not on Sundays")


async def test_a_refusal_keeps_out_what_any_permit_of_its_action_redacts() -> None:
    note = '@id("elsewhere") @obligation("redact=to")'
    tool = ACT.replace("resource", 'resource == Stepwrit::Tool::"a/b"')
    other = f"{note} permit ({tool});"
    made = engine(YES, other, f'@id("no") forbid ({ACT});', facts={"to": "String"})
    assert await made.decide(opening(LOW)) == Deny(
        policies=("no",), reason="a policy forbids this", redact=frozenset({"to"})
    )
    assert isinstance(await made.decide(starting(person=True, opener=AGENT)), Permit)


async def test_a_credential_for_an_initiator_that_is_no_longer_registered_is_refused() -> None:
    asked = {
        "caller": caller(SERVER),
        "step": step(LOW),
        "redeemer": None,
        "home": HOME,
        "now": NOW,
        "influence": (),
        "workflow": None,
    }
    assert isinstance(await engine(YES).decide(issuing(LOW)), Permit)
    with pytest.raises(Refused, match="not_registered"):
        credential_question(initiator=None, **asked)  # type: ignore[arg-type]


def test_every_document_fits_its_published_schema() -> None:
    schema = json.loads((ROOT / "docs/reference/schemas/decision.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for question in (opening(LOW), issuing(AFTER), starting(person=True, opener=AGENT)):
        validator.validate(question.document)
    assert not validator.is_valid({**opening(LOW).document, "more": 1})


def _est(condition: str) -> object:
    rules = compile_policy(load({"a.cedar": YES, "b.cedar": condition}).doc, 1)._rules
    return rules["x"].est["conditions"]


@pytest.mark.parametrize(
    ("condition", "paths"),
    [
        ('context.origin == "server"', {("origin",)}),
        (
            'context has requester && context.requester.issuer == "a"',
            {("requester", ""), ("requester", "issuer")},
        ),
        ("context has requester.issuer", {("requester", ""), ("requester", "issuer")}),
        ("context == context", {()}),
        ("principal == principal", set()),
    ],
)
def test_what_a_rule_reads_is_found(condition: str, paths: set[tuple[str, ...]]) -> None:
    assert reads(_est(f'@id("x") forbid ({ACT}) when {{ {condition} }};')) == paths


def test_presence_alone_hands_over_no_values() -> None:
    context = {"requester": {"issuer": "i", "subject": "s"}, "origin": "model", "tenant": "t"}
    assert project(context, frozenset({("requester", "")})) == {"requester": {}}
    assert project(context, frozenset({("requester", "issuer"), ("origin",)})) == {
        "requester": {"issuer": "i"},
        "origin": "model",
    }
    assert project(context, frozenset({()})) == context


@given(
    origin=st.sampled_from(["human", "model", "server"]),
    impact=st.sampled_from(["low", "medium", "high"]),
    jwt=st.booleans(),
    person=st.booleans(),
    name=st.sampled_from(["low-risk", "approval"]),
)
async def test_leaving_out_what_no_rule_reads_changes_no_answer(
    origin: Origin, impact: Impact, jwt: bool, person: bool, name: str
) -> None:
    scene = Scene(origin=origin, impact=impact, attested_by="jwt" if jwt else "x509", person=person)
    part = compile_policy(load(stance(name)).doc, 1)
    whole = compile_policy(
        load({**stance(name), "z.cedar": f'@id("z") forbid ({ACT}) when {{ context != context }};'}).doc, 1
    )
    for ask in (opening, issuing):
        assert await part.decide(ask(scene)) == await whole.decide(ask(scene))


def test_the_whole_context_fits_the_schema_that_rules_are_checked_against() -> None:
    import cedarpy

    from stepwrit_broker.policy.files import schema_text

    schema = cedarpy.Schema.from_str(schema_text({"amount": "Long"}))
    policies = cedarpy.PolicySet.from_str(YES)
    for question in (opening(LOW), issuing(LOW), starting(person=True, opener=AGENT)):
        kind = "Intent" if question.asking == "start_intent" else "Tool"
        context = cedar._context(question.document, {"amount": 5})
        request = {
            "principal": {"type": "Stepwrit::Workload", "id": question.principal},
            "action": {"type": "Stepwrit::Action", "id": question.asking},
            "resource": {"type": f"Stepwrit::{kind}", "id": question.resource},
        }
        good = cedarpy.is_authorized({**request, "context": json.dumps(context)}, policies, "[]", schema)
        assert good.decision.value == "Allow"
        bad = cedarpy.is_authorized(
            {**request, "context": json.dumps({**context, "x": 1})}, policies, "[]", schema
        )
        assert bad.decision.value == "NoDecision"


SCENES = st.builds(
    Scene,
    origin=st.sampled_from(["human", "model", "server"]),
    impact=st.sampled_from(["low", "medium", "high"]),
    facts=st.sampled_from([(), (("amount", 5),), (("amount", 5000),)]),
)


@given(st.lists(st.tuples(SCENES, st.booleans()), min_size=1, max_size=12))
async def test_an_engine_that_has_answered_before_answers_like_a_new_one(
    asked: list[tuple[Scene, bool]],
) -> None:
    texts = (YES, BIG, *stance("approval").values())
    old = engine(*texts, facts={"amount": "Long"})
    for scene, opens in [*asked, *asked]:
        question = opening(scene) if opens else issuing(scene)
        assert await old.decide(question) == await engine(*texts, facts={"amount": "Long"}).decide(question)


TERMS = [
    'context.origin == "model"',
    'context.origin != "server"',
    '"server" == context.origin',
    '"medium" != context.action.impact',
    'context.action.impact == "low"',
    'context.attested_by == "jwt"',
    '(context.attested_by == "x509" || context.origin == "model")',
    "context.depth > 0",
    "context.now * 9223372036854775807 == 0",  # errs wherever it is evaluated
]
SCOPES = st.tuples(
    st.sampled_from(["permit", "forbid"]),
    st.sampled_from(["", f' == Stepwrit::Workload::"{AGENT}"', ' == Stepwrit::Workload::"spiffe://x/y"']),
    st.sampled_from(
        ["", ' == Stepwrit::Tool::"ledger/transfer"', ' == Stepwrit::Tool::"a/b"', " is Stepwrit::Tool"]
    ),
    st.lists(st.sampled_from(TERMS), max_size=3),
    st.sampled_from(["", ' unless { context.origin == "server" }']),
)


def _when(terms: list[str]) -> str:
    return f" when {{ {' && '.join(terms)} }}" if terms else ""


class Whole:
    """Every rule of the action is asked, whomever it is about."""

    def __init__(self, own: Slices) -> None:
        self.own = own

    def of(self, action: str, principal: str, resource: str, values: Sequence[str | None]) -> slices.Slice:
        return self.own._whole[action]


@given(st.lists(SCOPES, min_size=1, max_size=8))
async def test_leaving_out_rules_about_others_changes_no_answer(
    scopes: list[tuple[str, str, str, list[str], str]],
) -> None:
    about = 'action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"]'
    texts = [
        f'@id("r{at}") {effect} (principal{who}, {about}, resource{what}){_when(terms)}{unless};'
        for at, (effect, who, what, terms, unless) in enumerate(scopes)
    ]
    sliced, whole = engine(YES, *texts), engine(YES, *texts)
    whole._slices = cast("Slices", Whole(whole._slices))
    scenes = (LOW, replace(LOW, origin="server"), replace(LOW, impact="medium", attested_by="jwt"))
    for question in [ask(scene) for ask in (opening, issuing) for scene in scenes]:
        assert await sliced.decide(question) == await whole.decide(question)


async def test_rules_about_other_tools_and_workloads_are_not_asked() -> None:
    rule = '@id("{}") forbid (principal{}, action, resource{}) when {{ context.now > 5 }};'
    made = engine(
        YES,
        rule.format("tool", "", ' == Stepwrit::Tool::"a/b"'),
        rule.format("who", ' == Stepwrit::Workload::"spiffe://x/y"', ""),
    )
    as_is = values(opening(LOW).document)
    part = made._slices.of("open_step", AGENT, "ledger/transfer", as_is)
    assert [each.id for each in part.rules] == ["yes"]
    assert part.reads == frozenset(), "so a verdict is kept whatever the time"
    assert [each.id for each in made._slices.of("open_step", AGENT, "a/b", as_is).rules] == ["yes", "tool"]
    assert [each.id for each in made._slices.of("open_step", "spiffe://x/y", "c/d", as_is).rules] == [
        "yes",
        "who",
    ]
    assert made._slices.of("open_step", "spiffe://x/z", "c/d", as_is) is part, (
        "names that no rule has share one"
    )


async def test_a_rule_that_begins_with_a_false_comparison_is_not_asked() -> None:
    made = engine(YES, f'@id("no") forbid ({ACT}) when {{ context.origin == "server" }};')
    for _ in range(2):
        assert isinstance(await made.decide(opening(LOW)), Permit)
        assert isinstance(await made.decide(opening(replace(LOW, origin="server"))), Deny)
    question = opening(LOW)
    part = made._slices.of("open_step", question.principal, question.resource, values(question.document))
    assert [each.id for each in part.rules] == ["yes"]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ('context.origin == "a"', [(0, "a", False)]),
        ('"a" != context.origin && context.action.impact == "low"', [(0, "a", True), (2, "low", False)]),
        (
            'context.origin == "a" && (context.attested_by == "b" && context.depth > 1)',
            [(0, "a", False), (1, "b", False)],
        ),
        ('context.depth > 1 && context.origin == "a"', []),
        ('context.origin == "a" || context.depth > 1', []),
        ('!(context.origin == "a")', []),
        ('context.tenant == "a"', []),
        ("context.origin == context.tenant", []),
    ],
)
def test_what_a_rule_tests_first_is_found(condition: str, found: list[tuple[int, str, bool]]) -> None:
    first = guards(_est(f'@id("x") forbid ({ACT}) when {{ {condition} }};'))  # type: ignore[arg-type]
    assert [(each.part, each.word, each.negated) for each in first] == found
    assert not guards(_est(f'@id("x") forbid ({ACT}) unless {{ {condition} }};'))  # type: ignore[arg-type]


async def test_slices_are_bounded_and_the_whole_answers_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    no = '@id("no") forbid (principal, action, resource == Stepwrit::Tool::"ledger/transfer");'
    monkeypatch.setattr(slices, "SLICES_MAX", 0)
    made = engine(YES, no)
    assert isinstance(await made.decide(opening(LOW)), Deny)
    assert not made._slices._made
    assert isinstance(await made.decide(starting(person=True, opener=AGENT)), Permit)


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "KEPT_MAX", 2)
    made = engine(YES, BIG, facts={"amount": "Long"})
    for amount in range(5):
        assert isinstance(await made.decide(opening(replace(LOW, facts=(("amount", amount),)))), Permit)
    assert len(made._kept) == 2


INFLUENCES = [
    ('context.influence.tools.contains("mail/read")', True),
    ('context.influence.servers.contains("mail")', True),
    ('context.influence.impacts.contains("low") && !context.influence.impacts.contains("high")', True),
    ('context.influence.origins.contains("model") && !context.influence.origins.contains("server")', True),
    ('context.influence.returns.contains("untrusted")', True),
    ('context.influence.untrusted.contains("mail/list")', False),
    ("!context.influence.untrusted.isEmpty()", True),
]


@pytest.mark.parametrize(("said", "holds"), INFLUENCES)
async def test_a_rule_reads_what_could_have_had_a_part_in_a_step(said: str, holds: bool) -> None:
    made = engine(YES, f'@id("no") forbid ({ACT}) when {{ {said} }};')
    listed = {**MAIL, "tool": "mail/list", "returns": "trusted"}
    scene = replace(LOW, influence=(MAIL, listed))
    for question in (opening(scene), issuing(scene)):
        assert isinstance(await made.decide(question), Deny if holds else Permit)
    assert isinstance(await made.decide(opening(LOW)), Permit)


async def test_a_document_of_an_earlier_release_is_not_read_as_free_of_influence() -> None:
    clean = f'@id("no") forbid ({ACT}) when {{ context.influence.returns.contains("untrusted") }};'
    made, asked = engine(YES, clean), opening(LOW)
    assert isinstance(await made.decide(asked), Permit)
    old = replace(asked, document={**asked.document, "influence": None})
    assert isinstance(await made.decide(old), Deny)
