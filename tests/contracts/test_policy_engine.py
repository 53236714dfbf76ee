"""One contract for every policy engine: the shipped stances' scenarios, and that doubt means no."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from tests.policy.opa_process import running_opa
from tests.policy.world import (
    AGENT,
    CRON,
    PARTNER_AGENT,
    PARTNER_BANK,
    PARTNER_SERVER,
    SERVER,
    Scene,
    issuing,
    opening,
    starting,
)

from stepwrit.digest import canonical
from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.obligations import EVERY_FACT, Obligation, shown
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.policy.cedar import CedarEngine
from stepwrit_broker.policy.files import compile_policy, load, stance
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.ports import PolicyEngine

LOW = Scene(origin="model", impact="low")
EXAMPLES = Path(__file__).parents[2] / "deploy" / "policies" / "examples"
FACTS = {"amount": "Long", "to": "String"}
Stated = tuple[str, Mapping[str, str]]
"""A permit's id, and what it demands: name and value."""
YES = "permit (principal, action, resource)"
ACTS = YES.removeprefix("permit ")


class Engines(Protocol):
    """How one adapter makes the engines that the contract needs."""

    def stance(self, name: str) -> PolicyEngine: ...
    def empty(self) -> PolicyEngine: ...
    def failing(self) -> PolicyEngine: ...
    def obliging(self, *stated: Stated, waits: bool = False) -> PolicyEngine: ...
    def with_example(self, name: str) -> PolicyEngine: ...
    def naming(self, name: str, domain: str) -> PolicyEngine: ...
    def sequence(self, name: str) -> PolicyEngine: ...
    def demanding(self) -> PolicyEngine: ...


class CedarEngines:
    def _made(self, *texts: str) -> PolicyEngine:
        return compile_policy(load({f"{number}.cedar": text for number, text in enumerate(texts)}).doc, 7)

    def stance(self, name: str) -> PolicyEngine:
        return compile_policy(load(stance(name)).doc, 7)

    def empty(self) -> PolicyEngine:
        return CedarEngine((), {}, 7)

    def failing(self) -> PolicyEngine:
        return self._made(
            f'@id("yes") {YES};',
            f'@id("no") {YES.replace("permit", "forbid")} when {{ context.now * 9223372036854775807 == 0 }};',
        )

    def obliging(self, *stated: Stated, waits: bool = False) -> PolicyEngine:
        """As a stored document: what a later release wrote is not refused at load."""
        texts = [f'@id("{one}"){self._note(said)} {YES};' for one, said in stated]
        texts += [f'@id("ask") @verdict("needs_approval") @setting("s") forbid {ACTS};'] if waits else []
        files = {f"{number}.cedar": text for number, text in enumerate(texts)}
        return compile_policy(canonical({"v": 1, "files": files, "facts": FACTS}).decode(), 7)

    def _note(self, said: Mapping[str, str]) -> str:
        notes = " ".join(f"{name}={value}" for name, value in said.items())
        return f' @obligation("{notes}")' if said else ""

    def with_example(self, name: str) -> PolicyEngine:
        files = {**stance(name), "70.cedar": (EXAMPLES / "70-obligations.cedar").read_text()}
        return compile_policy(load({**files, "facts.json": json.dumps(FACTS)}).doc, 7)

    def naming(self, name: str, domain: str) -> PolicyEngine:
        files = stance(name).items()
        texts = {
            file: text.replace("[context.home].", f'[context.home, "{domain}"].') for file, text in files
        }
        return compile_policy(load(texts).doc, 7)

    def sequence(self, name: str) -> PolicyEngine:
        example = (EXAMPLES / "60-sequence.cedar").read_text()
        return compile_policy(load({**stance(name), "60-sequence.cedar": example}).doc, 7)

    def demanding(self) -> PolicyEngine:
        ask = '@verdict("needs_approval") @setting("s")'
        two = '@approvers("carol bob") @signatures("2") @requester("not alone")'
        return self._made(
            f'@id("yes") {YES};',
            f'@id("two") {ask} {two} forbid {ACTS};',
            f'@id("own") {ask} forbid {ACTS};',
            f'@id("own-too") {ask} @requester("may sign") forbid {ACTS};',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaEngines:
    opa: Opa

    def _made(self, files: Mapping[str, str]) -> PolicyEngine:
        return compile_policy(load(files).doc, 7, self.opa)

    def stance(self, name: str) -> PolicyEngine:
        return self._made(stance(name, "opa"))

    def empty(self) -> PolicyEngine:
        return self._made({"a.rego": "package stepwrit\n"})

    def failing(self) -> PolicyEngine:
        no = 'forbid contains {"id": "no", "reason": "no"} if to_number(input.origin) > 1'
        return self._made({"a.rego": f'package stepwrit\npermit contains "yes"\n{no}\n'})

    def obliging(self, *stated: Stated, waits: bool = False) -> PolicyEngine:
        lines = ["package stepwrit", *(f'permit contains "{one}"' for one, _ in stated)]
        for one, said in stated:
            lines += [
                f"obligation contains {json.dumps({'id': one, 'name': name, 'value': value})}"
                for name, value in said.items()
            ]
        lines += ['needs_approval contains {"id": "ask", "setting": "s"}'] if waits else []
        return self._made({"a.rego": "\n".join(lines), "facts.json": json.dumps(FACTS)})

    def with_example(self, name: str) -> PolicyEngine:
        files = {**stance(name, "opa"), "70.rego": (EXAMPLES / "70-obligations.rego").read_text()}
        return self._made({**files, "facts.json": json.dumps(FACTS)})

    def naming(self, name: str, domain: str) -> PolicyEngine:
        files = stance(name, "opa").items()
        return self._made(
            {file: text.replace("{input.home}\n", f'{{input.home, "{domain}"}}\n') for file, text in files}
        )

    def sequence(self, name: str) -> PolicyEngine:
        example = (EXAMPLES / "60-sequence.rego").read_text()
        return self._made({**stance(name, "opa"), "60-sequence.rego": example})

    def demanding(self) -> PolicyEngine:
        two = '"approvers": {"carol", "bob"}, "signatures": 2, "requester": "not alone"'
        own = '"requester": "may sign"'
        lines = [f'needs_approval contains {{"id": "two", "setting": "s", {two}}}']
        lines += ['needs_approval contains {"id": "own", "setting": "s"}']
        lines += [f'needs_approval contains {{"id": "own-too", "setting": "s", {own}}}']
        return self._made({"a.rego": "\n".join(["package stepwrit", 'permit contains "yes"', *lines])})


@pytest.fixture(params=["cedar", pytest.param("opa", marks=pytest.mark.live)])
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    if request.param == "cedar":
        yield CedarEngines()
        return
    async with running_opa(tmp_path) as process:
        opa = Opa(OpaServer(url=process.url, timeout_s=5), elapsed_s)
        yield OpaEngines(opa=opa)
        await opa.aclose()


def kind(verdict: Verdict) -> str:
    return {Permit: "permit", NeedsApproval: "approval", Deny: "deny"}[type(verdict)]


# name of the scene, scene, answer of stance low-risk, answer of stance approval
SCENES = [
    ("a model's step of low impact", Scene(origin="model", impact="low"), "permit", "permit"),
    ("a model's step of medium impact", Scene(origin="model", impact="medium"), "permit", "permit"),
    ("a model's step of high impact", Scene(origin="model", impact="high"), "permit", "approval"),
    ("a person's own step of high impact", Scene(origin="human", impact="high"), "permit", "approval"),
    ("a server's step of low impact", Scene(origin="server", impact="low"), "permit", "permit"),
    ("a server's step of medium impact", Scene(origin="server", impact="medium"), "deny", "deny"),
    ("a server's step of high impact", Scene(origin="server", impact="high"), "deny", "deny"),
    ("a trigger's low step", Scene(origin="server", impact="low", person=False), "permit", "permit"),
    ("a trigger's high step", Scene(origin="server", impact="high", person=False), "deny", "deny"),
    (
        "a bearer's step of low impact",
        Scene(origin="model", impact="low", attested_by="jwt"),
        "permit",
        "permit",
    ),
    (
        "a bearer's step of high impact",
        Scene(origin="model", impact="high", attested_by="jwt"),
        "deny",
        "deny",
    ),
]


@pytest.mark.parametrize("ask", [opening, issuing], ids=["open_step", "issue_credential"])
@pytest.mark.parametrize(
    ("scene", "low_risk", "approval"), [s[1:] for s in SCENES], ids=[s[0] for s in SCENES]
)
async def test_the_stances_answer_every_scene(
    engines: Engines, scene: Scene, low_risk: str, approval: str, ask: Callable[[Scene], Question]
) -> None:
    assert kind(await engines.stance("low-risk").decide(ask(scene))) == low_risk
    assert kind(await engines.stance("approval").decide(ask(scene))) == approval


@pytest.mark.parametrize("name", ["low-risk", "approval"])
async def test_only_a_person_with_an_agent_or_a_trigger_starts_an_intent(engines: Engines, name: str) -> None:
    engine = engines.stance(name)
    assert kind(await engine.decide(starting(person=True, opener=AGENT))) == "permit"
    assert kind(await engine.decide(starting(person=False, opener=CRON))) == "permit"
    assert kind(await engine.decide(starting(person=False, opener=AGENT))) == "deny"
    assert kind(await engine.decide(starting(person=True, opener=SERVER))) == "deny"


async def test_a_permit_and_an_approval_name_what_determined_them(engines: Engines) -> None:
    low = await engines.stance("approval").decide(opening(Scene(origin="model", impact="low")))
    high = await engines.stance("approval").decide(opening(Scene(origin="model", impact="high")))
    assert isinstance(low, Permit)
    assert low.policies == ("registered-tools",)
    assert isinstance(high, NeedsApproval)
    assert high.policies == ("high-needs-approval",)
    assert "40-approval" in high.setting


async def test_the_terms_of_every_rule_that_asks_for_approval_are_told(engines: Engines) -> None:
    question = opening(Scene(origin="model", impact="high"))
    one = await engines.stance("approval").decide(question)
    several = await engines.demanding().decide(question)
    assert isinstance(one, NeedsApproval)
    assert one.terms == (Terms(),)
    assert isinstance(several, NeedsApproval)
    assert several.policies == ("own", "own-too", "two")
    assert several.terms == (Terms(), Terms(count=2, persons=frozenset({"bob", "carol"}), alone=False))


def approved(question: Question) -> Question:
    given = {"id": "apr_1", "approver": "1 signed"}
    return replace(question, document={**question.document, "approval": given})


async def test_a_rule_that_asks_for_approval_stops_nothing_that_has_it(engines: Engines) -> None:
    """Also where its author forgot to say so: the broker only tells of one where the terms are met."""
    question = opening(Scene(origin="model", impact="high"))
    for engine in (engines.demanding(), engines.stance("approval")):
        for _ in range(2):  # a verdict that is kept is kept for one of the two questions alone
            assert kind(await engine.decide(question)) == "approval"
            verdict = await engine.decide(approved(question))
            assert isinstance(verdict, Permit)
            assert verdict.policies


async def test_an_approval_lifts_no_other_rule(engines: Engines) -> None:
    hard = opening(Scene(origin="server", impact="high"))
    assert (
        kind(await engines.stance("approval").decide(approved(opening(Scene(origin="model", impact="high")))))
        == "permit"
    )
    assert kind(await engines.stance("approval").decide(approved(hard))) == "deny"
    low = opening(Scene(origin="model", impact="low"))
    unknown = engines.obliging(("yes", {"tell_the_owner": "now"}))
    for engine in (engines.empty(), engines.failing(), unknown):
        assert kind(await engine.decide(approved(low))) == "deny"


async def test_an_approval_lifts_no_obligation(engines: Engines) -> None:
    engine = engines.obliging(CARE, MORE, waits=True)
    assert isinstance(await engine.decide(opening(LOW)), NeedsApproval)
    assert await engine.decide(approved(opening(LOW))) == Permit(policies=("care", "more"), obligations=BOTH)


async def test_a_denial_says_a_fixed_sentence_and_no_policy_text(engines: Engines) -> None:
    verdict = await engines.stance("approval").decide(opening(Scene(origin="server", impact="high")))
    assert isinstance(verdict, Deny)
    assert verdict.policies == ("server-low-only",)
    assert verdict.reason == "what a server starts must be of low impact"


async def test_an_empty_set_an_error_and_an_unknown_obligation_deny(engines: Engines) -> None:
    question = opening(Scene(origin="model", impact="low"))
    assert kind(await engines.stance("low-risk").decide(question)) == "permit"
    unknown = engines.obliging(("yes", {"tell_the_owner": "now"}))
    for engine in (engines.empty(), engines.failing(), unknown):
        assert kind(await engine.decide(question)) == "deny"


CARE = ("care", {"max_life": "60", "redact": "to"})
MORE = ("more", {"max_life": "30", "require": "mtls,dpop"})
BOTH = (
    Obligation("max_life", "30", "more"),
    Obligation("redact", "to", "care"),
    Obligation("require", "dpop", "more"),
    Obligation("require", "mtls", "more"),
)


async def test_all_that_permits_demand_holds_and_of_one_kind_the_strictest(engines: Engines) -> None:
    engine = engines.obliging(("plain", {}), CARE, MORE)
    for _ in range(2):  # a verdict that is kept loses none
        verdict = await engine.decide(opening(LOW))
        assert verdict == Permit(policies=("care", "more", "plain"), obligations=BOTH)
        assert verdict.redact == {"to"}


async def test_what_waits_for_a_signature_says_what_will_be_demanded(engines: Engines) -> None:
    verdict = await engines.obliging(CARE, MORE, waits=True).decide(opening(LOW))
    assert isinstance(verdict, NeedsApproval)
    assert (verdict.policies, verdict.obligations, verdict.redact) == (("ask",), BOTH, {"to"})
    wrong = await engines.obliging(CARE, ("x", {"max_lyfe": "5"}), waits=True).decide(opening(LOW))
    assert kind(wrong) == "deny"


MISSTATED = [
    {"max_lyfe": "30"},
    {"Max_life": "30"},
    {"max_life": ""},
    {"max_life": "4"},
    {"max_life": "901"},
    {"max_life": "-30"},
    {"max_life": "030"},
    {"max_life": "30s"},
    {"max_life": "3e1"},
    {"max_life": "30.0"},
    {"max_life": "३०"},
    {"fan_out": "1001"},
    {"fan_out": "none"},
    {"require": "tls"},
    {"require": ""},
    {"require": "mtls,"},
    {"require": "mtls,mtls"},
    {"redact": "iban"},
    {"redact": "to,iban"},
    {"redact": "*"},
    {"redact": ""},
]


@pytest.mark.parametrize("stated", MISSTATED, ids=str)
async def test_an_obligation_that_is_misspelt_or_out_of_range_denies(
    engines: Engines, stated: Mapping[str, str]
) -> None:
    question = opening(replace(LOW, facts=(("amount", 5), ("to", "bob"))))
    good = engines.obliging(("plain", {}), ("care", {"max_life": "30", "fan_out": "0", "redact": "to"}))
    assert kind(await good.decide(question)) == "permit"
    verdict = await engines.obliging(("plain", {}), CARE, ("x", stated)).decide(question)
    assert verdict == Deny(
        policies=("x",),
        reason="a policy asks for something that is not known here",
        redact=frozenset({EVERY_FACT}),
    )


async def test_a_refusal_says_which_facts_are_not_to_be_kept_of_it(engines: Engines) -> None:
    engine = engines.obliging(CARE)
    assert kind(await engine.decide(opening(replace(LOW, facts=(("amount", 5),))))) == "permit"
    verdict = await engine.decide(opening(replace(LOW, facts=(("amount", "5"), ("to", "bob")))))
    assert isinstance(verdict, Deny)
    assert shown({"amount": "5", "to": "bob"}, verdict.redact).keys() <= {"amount"}


def test_the_engine_tells_its_version(engines: Engines) -> None:
    assert engines.stance("low-risk").version == 7


# name, scene, whether opening is refused, whether a credential is refused
FOREIGN = [
    ("an agent of another domain", replace(LOW, agent=PARTNER_AGENT), True, True),
    ("a server of another domain", replace(LOW, server=PARTNER_SERVER), True, True),
    ("a resource of another domain", replace(LOW, bank=PARTNER_BANK), False, True),
]


@pytest.mark.parametrize("name", ["low-risk", "approval"])
@pytest.mark.parametrize(("scene", "opens", "issues"), [f[1:] for f in FOREIGN], ids=[f[0] for f in FOREIGN])
async def test_other_trust_domains_are_refused_until_policy_names_them(
    engines: Engines, name: str, scene: Scene, opens: bool, issues: bool
) -> None:
    shipped, naming = engines.stance(name), engines.naming(name, "partner.example")
    elsewhere = engines.naming(name, "third.example")
    assert kind(await shipped.decide(opening(LOW))) == kind(await shipped.decide(issuing(LOW))) == "permit"
    for ask, refused in ((opening, opens), (issuing, issues)):
        assert kind(await naming.decide(ask(scene))) == "permit"
        for engine in (shipped, elsewhere):
            assert kind(await engine.decide(ask(scene))) == ("deny" if refused else "permit")


@pytest.mark.parametrize("name", ["low-risk", "approval"])
async def test_an_intent_of_another_domains_agent_is_refused_until_policy_names_it(
    engines: Engines, name: str
) -> None:
    mine, theirs = starting(person=True, opener=AGENT), starting(person=True, opener=PARTNER_AGENT)
    assert kind(await engines.stance(name).decide(mine)) == "permit"
    assert kind(await engines.naming(name, "partner.example").decide(theirs)) == "permit"
    verdict = await engines.stance(name).decide(theirs)
    assert isinstance(verdict, Deny)
    assert verdict.policies == ("foreign-workloads",)
