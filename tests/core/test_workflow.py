"""Which step of which workflow a step is: by whom, under what, after what, with which facts, how often."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.build import AGENT, Maker, action
from tests.fakes.clock import START

from stepwrit_broker.core.declared import Condition, Declared, Earlier, Workflow
from stepwrit_broker.core.influence import EXACT_MAX, Past
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.step import Label, Step
from stepwrit_broker.core.workflow import Match, match, still
from stepwrit_broker.core.workload import SpiffeId

ROOT = Maker(now=START).root_step()
LEDGER, MAIL, EVIL = (SpiffeId(f"spiffe://example.test/mcp/{name}") for name in ("ledger", "mail", "evil"))
WHO = {
    AGENT: Entry(id=AGENT, name="chat", role="agent", tenant="acme"),
    LEDGER: Entry(id=LEDGER, name="ledger", role="mcp-server", tenant="acme"),
    MAIL: Entry(id=MAIL, name="mail", role="mcp-server", tenant="acme"),
    EVIL: Entry(id=EVIL, name="evil", role="mcp-server", tenant="acme"),
}
CLOSE = Declared(name="close", by="chat", tool="ledger/close", times=2)
CHECK = Declared(name="check", by="ledger", tool="audit/check", under="close")
SEND = Declared(
    name="send",
    by="ledger",
    tool="mail/send",
    under="close",
    after=("check",),
    times=2,
    conditions=(
        Condition(fact="to", among=("board", "cfo")),
        Condition(fact="month", same_as=Earlier("close", "month")),
    ),
)
LOG = Declared(
    name="log", by="mail", tool="audit/log", under="send", conditions=(Condition(fact="n", at_most=9),)
)


def registry(*steps: Declared, tenant: str = "acme") -> Registry:
    flow = Workflow(name="books", tenant=tenant, steps=steps or (CLOSE, CHECK, SEND, LOG))
    return Registry(version=1, entries=tuple(WHO.values()), workflows=(flow,))


class Story:
    """A transaction under way. `do` opens a step as the broker does: matched first, then told to the past."""

    def __init__(self, known: Registry) -> None:
        self.registry, self.past, self.count = known, Past(), 0

    def ask(
        self, by: SpiffeId, tool: str, under: Step = ROOT, /, **facts: str | int | bool
    ) -> tuple[Step, Match | None]:
        self.count += 1
        step = replace(
            ROOT,
            id=f"stp_{self.count}",
            parent=under.id,
            ancestors=(*under.ancestors, under.id),
            initiator=by,
            performer=LEDGER,
            action=action(tool=tool, facts=tuple(facts.items())),
        )
        found = match(self.registry, self.past, step, WHO[by])
        return replace(step, label=None if found is None else found.label), found

    def do(
        self, by: SpiffeId, tool: str, under: Step = ROOT, /, *, done: bool = True, **facts: str | int | bool
    ) -> Step:
        step, _ = self.ask(by, tool, under, **facts)
        self.past = self.past.plus(step)
        if done:
            self.past = self.past.done(step.id)
        return step

    def is_declared(self, by: SpiffeId, tool: str, under: Step = ROOT, /, **facts: str | int | bool) -> bool:
        return self.ask(by, tool, under, **facts)[1] is not None


@pytest.fixture
def story() -> Story:
    return Story(registry())


def test_a_step_without_a_declaration_is_none(story: Story) -> None:
    assert story.is_declared(AGENT, "ledger/close")
    assert not story.is_declared(AGENT, "ledger/other")
    assert match(story.registry, story.past, ROOT, WHO[AGENT]) is None


def test_what_is_declared_is_told_with_its_count(story: Story) -> None:
    close = story.do(AGENT, "ledger/close", month=3)
    assert close.label == Label("books", "close")
    story.do(LEDGER, "audit/check", close)
    story.do(LEDGER, "mail/send", close, to="cfo", month=3)
    _, found = story.ask(LEDGER, "mail/send", close, to="board", month=3)
    assert found is not None
    assert found.told() == {"name": "books", "step": "send", "nth": 2, "times": 2}


def test_no_more_often_than_it_says_under_one_parent(story: Story) -> None:
    first, second = story.do(AGENT, "ledger/close"), story.do(AGENT, "ledger/close")
    story.do(LEDGER, "audit/check", first)
    assert not story.is_declared(LEDGER, "audit/check", first)
    assert story.is_declared(LEDGER, "audit/check", second)
    assert not story.is_declared(AGENT, "ledger/close")


def test_under_no_other_step_than_it_says(story: Story) -> None:
    close, other = story.do(AGENT, "ledger/close"), story.do(AGENT, "ledger/other")
    check = story.do(LEDGER, "audit/check", close)
    assert not story.is_declared(LEDGER, "audit/check", other)
    assert not story.is_declared(LEDGER, "audit/check", ROOT)
    assert not story.is_declared(LEDGER, "audit/check", check)


def test_what_begins_a_workflow_begins_it_under_the_root_alone(story: Story) -> None:
    """A model that a server made pick the first step is below that server's step, and begins nothing."""
    close = story.do(AGENT, "ledger/close")
    check = story.do(LEDGER, "audit/check", close)
    assert story.is_declared(AGENT, "ledger/close")
    assert not story.is_declared(AGENT, "ledger/close", check)


def test_not_before_the_steps_it_follows_are_done(story: Story) -> None:
    close = story.do(AGENT, "ledger/close", month=3)
    assert not story.is_declared(LEDGER, "mail/send", close, to="cfo", month=3)
    check = story.do(LEDGER, "audit/check", close, done=False)
    assert not story.is_declared(LEDGER, "mail/send", close, to="cfo", month=3)
    story.past = story.past.done(check.id)
    assert story.is_declared(LEDGER, "mail/send", close, to="cfo", month=3)
    elsewhere = story.do(AGENT, "ledger/close", month=3)
    assert not story.is_declared(LEDGER, "mail/send", elsewhere, to="cfo", month=3)


def test_by_nobody_else_than_it_says(story: Story) -> None:
    close = story.do(AGENT, "ledger/close")
    assert story.is_declared(LEDGER, "audit/check", close)
    assert not story.is_declared(EVIL, "audit/check", close)
    assert not story.is_declared(LEDGER, "ledger/close")


@pytest.mark.parametrize(
    "facts",
    [
        {"to": "mallory", "month": 3},
        {"to": "cfo", "month": 4},
        {"to": "cfo", "month": "3"},
        {"to": "cfo", "month": True},
        {"to": "cfo"},
        {"month": 3},
        {},
    ],
)
def test_with_no_other_arguments_than_it_says(story: Story, facts: dict[str, str | int | bool]) -> None:
    close = story.do(AGENT, "ledger/close", month=3)
    story.do(LEDGER, "audit/check", close)
    assert story.is_declared(LEDGER, "mail/send", close, to="cfo", month=3)
    assert not story.is_declared(LEDGER, "mail/send", close, **facts)


TESTS = [
    (Condition(fact="n", at_least=2), [2, 3], [1, True, "2"]),
    (Condition(fact="n", at_most=2), [2, -9], [3, False, "1"]),
    (Condition(fact="n", at_least=2, at_most=3), [2, 3], [1, 4]),
    (Condition(fact="n", among=(1, "a", True)), [1, "a", True], [0, "b", False]),
    (Condition(fact="n", among=(1,)), [1], [True]),
    (Condition(fact="n", among=(1, 5), at_most=3), [1], [5]),
]


@pytest.mark.parametrize(("test", "good", "bad"), TESTS)
def test_a_fact_against_constants(
    test: Condition, good: list[str | int | bool], bad: list[str | int | bool]
) -> None:
    story = Story(registry(replace(CLOSE, conditions=(test,))))
    assert all(story.is_declared(AGENT, "ledger/close", n=value) for value in good)
    assert not any(story.is_declared(AGENT, "ledger/close", n=value) for value in bad)
    assert not story.is_declared(AGENT, "ledger/close")


def test_a_fact_of_a_step_further_up_and_of_one_beside() -> None:
    from_far = replace(LOG, conditions=(Condition(fact="month", same_as=Earlier("close", "month")),))
    beside = replace(SEND, conditions=(Condition(fact="id", same_as=Earlier("check", "id")),))
    story = Story(registry(CLOSE, CHECK, beside, from_far))
    close = story.do(AGENT, "ledger/close", month=3)
    story.do(LEDGER, "audit/check", close, id="x")
    assert not story.is_declared(LEDGER, "mail/send", close, id="y")
    send = story.do(LEDGER, "mail/send", close, id="x")
    assert send.label == Label("books", "send")
    assert story.is_declared(MAIL, "audit/log", send, month=3)
    assert not story.is_declared(MAIL, "audit/log", send, month=4)
    assert story.do(AGENT, "ledger/close").label == Label("books", "close")


def test_a_fact_that_the_other_step_did_not_have_is_the_same_as_nothing() -> None:
    story = Story(
        registry(CLOSE, replace(CHECK, conditions=(Condition(fact="m", same_as=Earlier("close", "m")),)))
    )
    close = story.do(AGENT, "ledger/close")
    assert close.label == Label("books", "close")
    assert not story.is_declared(LEDGER, "audit/check", close, m=1)
    assert story.is_declared(LEDGER, "audit/check", story.do(AGENT, "ledger/close", m=1), m=1)


def test_another_tenants_workflow_declares_nothing() -> None:
    assert Story(registry()).is_declared(AGENT, "ledger/close")
    assert not Story(registry(tenant="evil")).is_declared(AGENT, "ledger/close")


def test_the_first_declaration_with_room_counts() -> None:
    story = Story(registry(replace(CLOSE, times=1), replace(CLOSE, name="again", times=1)))
    found = [story.do(AGENT, "ledger/close").label for _ in range(3)]
    assert found == [Label("books", "close"), Label("books", "again"), None]


def test_beyond_the_steps_that_are_told_apart_nothing_is_declared() -> None:
    story = Story(registry(replace(CLOSE, times=1000)))
    for _ in range(EXACT_MAX - 1):
        story.do(AGENT, "ledger/other")
    assert story.is_declared(AGENT, "ledger/close")
    story.do(AGENT, "ledger/other")
    assert not story.is_declared(AGENT, "ledger/close")


def test_a_declaration_is_looked_at_again_for_each_credential() -> None:
    story = Story(registry())
    close = story.do(AGENT, "ledger/close", month=3)
    first, second = story.do(AGENT, "ledger/close"), story.do(AGENT, "ledger/close")
    found = still(story.registry, story.past, first, WHO[AGENT])
    assert found is not None
    assert found.told() == {"name": "books", "step": "close", "nth": 2, "times": 2}
    assert second.label is None
    assert still(story.registry, story.past, second, WHO[AGENT]) is None
    assert still(story.registry, story.past, first, WHO[LEDGER]) is None
    assert still(registry(replace(CLOSE, name="other")), story.past, close, WHO[AGENT]) is None
    assert still(registry(replace(CLOSE, tool="x/y")), story.past, close, WHO[AGENT]) is None
    assert still(story.registry, Past(), close, WHO[AGENT]) is None
    assert still(story.registry, story.past, ROOT, WHO[AGENT]) is None
    strict = registry(replace(CLOSE, conditions=(Condition(fact="month", at_most=2),)))
    assert still(strict, story.past, close, WHO[AGENT]) is None


def test_a_step_that_no_workflow_declares_can_be_done_and_says_nothing() -> None:
    past = Past().plus(replace(ROOT, id="stp_x", parent=ROOT.id, action=action()))
    assert past.done("stp_x").steps[0].is_done
    assert past.done("stp_none") == past
