"""One contract for every policy engine: the shipped stances' scenarios, and that doubt means no."""

from __future__ import annotations

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

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.policy.cedar import CedarEngine
from stepwrit_broker.policy.files import compile_policy, load, stance
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.ports import PolicyEngine

YES = "permit (principal, action, resource)"
ACTS = YES.removeprefix("permit ")


class Engines(Protocol):
    """How one adapter makes the engines that the contract needs."""

    def stance(self, name: str) -> PolicyEngine: ...
    def empty(self) -> PolicyEngine: ...
    def failing(self) -> PolicyEngine: ...
    def obliging(self) -> PolicyEngine: ...
    def naming(self, name: str, domain: str) -> PolicyEngine: ...
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

    def obliging(self) -> PolicyEngine:
        return self._made(f'@id("yes") @obligation("tell_the_owner") {YES};')

    def naming(self, name: str, domain: str) -> PolicyEngine:
        files = stance(name).items()
        texts = {
            file: text.replace("[context.home].", f'[context.home, "{domain}"].') for file, text in files
        }
        return compile_policy(load(texts).doc, 7)

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

    def obliging(self) -> PolicyEngine:
        asks = 'obligation contains {"id": "yes", "name": "tell_the_owner", "value": ""}'
        return self._made({"a.rego": f'package stepwrit\npermit contains "yes"\n{asks}\n'})

    def naming(self, name: str, domain: str) -> PolicyEngine:
        files = stance(name, "opa").items()
        return self._made(
            {file: text.replace("{input.home}\n", f'{{input.home, "{domain}"}}\n') for file, text in files}
        )

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
    for make in (engines.empty, engines.failing, engines.obliging):
        assert kind(await make().decide(approved(low))) == "deny"


async def test_a_denial_says_a_fixed_sentence_and_no_policy_text(engines: Engines) -> None:
    verdict = await engines.stance("approval").decide(opening(Scene(origin="server", impact="high")))
    assert isinstance(verdict, Deny)
    assert verdict.policies == ("server-low-only",)
    assert verdict.reason == "what a server starts must be of low impact"


async def test_an_empty_set_an_error_and_an_unknown_obligation_deny(engines: Engines) -> None:
    question = opening(Scene(origin="model", impact="low"))
    assert kind(await engines.stance("low-risk").decide(question)) == "permit"
    for make in (engines.empty, engines.failing, engines.obliging):
        assert kind(await make().decide(question)) == "deny"


def test_the_engine_tells_its_version(engines: Engines) -> None:
    assert engines.stance("low-risk").version == 7


LOW = Scene(origin="model", impact="low")
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
