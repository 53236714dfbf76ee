"""The bound of what could have had a part in a step: who hears of what, what narrows it, what it ends at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.fakes.build import AGENT, Maker, action
from tests.fakes.clock import START

from stepwrit.wire import Origin
from stepwrit_broker.core import influence
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.influence import ALL, EXACT_MAX, KINDS_MAX, Past, bits, spelled, told
from stepwrit_broker.core.registry import Entry, Registry, Tool
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.workload import SpiffeId

MAKE = Maker(now=START)
ROOT = MAKE.root_step()
MAIL, FILES, NOTES = (SpiffeId(f"spiffe://example.test/mcp/{name}") for name in ("mail", "files", "notes"))
REGISTRY = Registry(
    version=1,
    entries=(
        Entry(
            id=MAIL,
            name="mail",
            role="mcp-server",
            tenant="acme",
            tools={
                "read": Tool(name="mail/read", impact="low"),
                "list": Tool(name="mail/list", impact="low", returns="trusted"),
            },
        ),
    ),
)


class Story:
    """A transaction under way: `do` opens a step and says its number."""

    def __init__(self) -> None:
        self.past, self.steps = Past(), list[Step]()

    def do(
        self,
        by: SpiffeId,
        to: str,
        tool: str = "x/y",
        *,
        under: Step | None = None,
        origin: Origin = "model",
        known: str | None = None,
    ) -> Step:
        step = replace(
            ROOT,
            id=f"stp_{len(self.steps) + 1}",
            parent=(under or ROOT).id,
            initiator=by,
            performer=to,
            origin=origin,
            action=action(tool=tool),
            influence=known,
        )
        self.past = self.past.plus(step)
        self.steps.append(step)
        return step

    def heard(self, who: str) -> str:
        return spelled(self.past.heard(who))

    def within(self, step: Step) -> str:
        return spelled(self.past.within(step.id))


def test_nothing_has_influenced_the_first_step() -> None:
    story = Story()
    assert story.heard(AGENT) == ""
    assert story.within(story.do(AGENT, MAIL)) == ""


def test_what_an_agent_opened_influences_what_it_opens_next() -> None:
    story = Story()
    story.do(AGENT, MAIL)
    story.do(AGENT, FILES)
    assert story.heard(AGENT) == "1-2"


def test_a_step_counts_before_anybody_accepts_it() -> None:
    """A performer may answer a call without a word to the broker; only what is opened is certain."""
    story = Story()
    story.do(AGENT, MAIL)
    assert story.heard(AGENT) == "1"


def test_a_server_knows_its_arguments_and_all_that_was_in_them() -> None:
    story = Story()
    story.do(AGENT, MAIL)
    below = story.do(AGENT, FILES)
    assert story.heard(FILES) == "1-2"
    assert story.within(below) == "1"


def test_what_comes_later_is_not_in_arguments_that_were_sent() -> None:
    story = Story()
    story.do(AGENT, FILES)
    story.do(AGENT, MAIL)
    assert story.heard(FILES) == "1"
    assert story.heard(MAIL) == "1-2"


def test_what_a_performer_learns_below_comes_back_to_whoever_asked_it() -> None:
    story = Story()
    first = story.do(AGENT, MAIL)
    story.do(MAIL, FILES, under=first, origin="server")
    story.do(AGENT, NOTES)
    assert story.heard(AGENT) == "1-3"
    assert story.heard(MAIL) == "1-2"
    assert story.within(first) == "2"


def test_results_that_come_back_over_two_servers() -> None:
    story = Story()
    first = story.do(AGENT, MAIL)
    second = story.do(MAIL, FILES, under=first, origin="server")
    story.do(FILES, NOTES, under=second, origin="server")
    assert (story.within(first), story.within(second)) == ("2-3", "1,3")
    assert story.heard(AGENT) == "1-3"


def test_an_answer_of_the_client_brings_all_that_the_agent_knows() -> None:
    """An elicitation is performed by the agent: a server that asks it learns what the agent had seen."""
    story = Story()
    story.do(AGENT, FILES)
    asks = story.do(AGENT, MAIL)
    assert story.heard(MAIL) == "1-2"
    story.do(AGENT, NOTES)
    assert story.heard(MAIL) == "1-2"
    story.do(MAIL, AGENT, "client/elicitation", under=asks, origin="server")
    assert story.heard(MAIL) == "1-4"
    assert story.within(asks) == "1,3-4"


def test_replicas_and_the_pattern_that_covers_them_are_one() -> None:
    story, one, two = Story(), SpiffeId(f"{MAIL}/1"), SpiffeId(f"{MAIL}/2")
    story.do(AGENT, f"{MAIL}/*")
    assert (story.heard(one), story.heard(two), story.heard(f"{MAIL}x")) == ("1", "1", "")
    story.do(one, FILES, under=story.steps[0], origin="server")
    assert story.heard(two) == "1-2"
    assert story.heard(AGENT) == "1-2"


def test_two_that_never_met_know_nothing_of_each_other() -> None:
    story = Story()
    story.do(AGENT, MAIL)
    assert story.heard(NOTES) == ""
    assert story.heard(FILES) == ""


def test_narrowing_keeps_what_is_named_and_what_came_back_with_it() -> None:
    story = Story()
    mail = story.do(AGENT, MAIL)
    story.do(AGENT, NOTES, known="")
    files = story.do(AGENT, FILES, known="1")
    story.do(FILES, NOTES, under=files, origin="server")
    bound = story.past.heard(AGENT)
    assert spelled(bound) == "1-4"
    assert spelled(story.past.narrowed(bound, ["stp_2"])) == "2"
    assert spelled(story.past.narrowed(bound, [files.id])) == "1-4"  # NOTES performs both, and may mix them
    assert spelled(story.past.narrowed(bound, [mail.id, "stp_2"])) == "1-2"
    assert story.past.narrowed(bound, []) == 0


def test_a_narrowing_names_only_what_is_in_the_bound() -> None:
    story = Story()
    story.do(AGENT, MAIL)
    story.do(MAIL, FILES, under=story.steps[0], origin="server")
    bound = story.past.heard(FILES) & 1
    assert story.past.narrowed(bound, ["stp_1"]) == 1
    for name in ("stp_2", "stp_9", ROOT.id, ""):
        with pytest.raises(Refused, match="influence_claimed"):
            story.past.narrowed(bound, [name])


def test_a_narrowed_step_takes_along_only_what_is_left() -> None:
    story = Story()
    story.do(AGENT, MAIL)
    story.do(AGENT, FILES, known="")
    assert story.heard(FILES) == "2"
    assert story.within(story.steps[1]) == ""
    assert story.heard(AGENT) == "1-2"


def test_a_root_is_no_step_of_its_own_past() -> None:
    assert Past().plus(ROOT) == Past()


def test_beyond_the_cap_everything_counts_for_everyone() -> None:
    story = Story()
    first = story.do(AGENT, MAIL, "mail/read")
    for _ in range(EXACT_MAX - 2):
        story.do(AGENT, FILES, "files/read")
    assert story.heard(NOTES) == ""
    assert story.heard(AGENT) == f"1-{EXACT_MAX - 1}"
    story.do(AGENT, FILES, "files/read")
    assert (story.past.heard(NOTES), story.past.heard(AGENT)) == (ALL, ALL)
    with pytest.raises(Refused, match="influence_claimed"):
        story.past.narrowed(ALL, [first.id])
    story.do(AGENT, NOTES, "notes/read", origin="server")
    story.do(AGENT, FILES, "files/read")
    assert story.past.within(first.id) == ALL
    assert story.past.within(story.steps[-1].id) == ALL
    assert {kind[0]: each.times for kind, each in story.past.kinds(ALL)} == {
        "mail/read": 1,
        "files/read": EXACT_MAX,
        "notes/read": 1,
    }


def test_a_document_has_one_record_for_each_kind_and_leaves_none_out() -> None:
    story = Story()
    story.do(AGENT, MAIL, "mail/read")
    story.do(AGENT, MAIL, "mail/list")
    story.do(AGENT, MAIL, "mail/read")
    story.do(AGENT, MAIL, "mail/read", origin="server")
    story.do(AGENT, MAIL, "mail/gone")
    story.do(MAIL, AGENT, "client/elicitation", under=story.steps[0], origin="server")
    said = told(story.past, story.past.heard(AGENT), REGISTRY)
    assert [(each["tool"], each["origin"], each["returns"], each["times"]) for each in said] == [
        ("mail/read", "model", "untrusted", 2),
        ("mail/list", "model", "trusted", 1),
        ("mail/read", "server", "untrusted", 1),
        ("mail/gone", "model", "untrusted", 1),
        ("client/elicitation", "server", "trusted", 1),
    ]
    assert said[0] == {
        "step": "stp_1",
        "server": "mail",
        "tool": "mail/read",
        "impact": "low",
        "origin": "model",
        "returns": "untrusted",
        "times": 2,
    }


def test_more_kinds_than_a_document_holds_are_refused_not_left_out() -> None:
    story = Story()
    for number in range(KINDS_MAX):
        story.do(AGENT, MAIL, f"mail/t{number}")
    assert len(told(story.past, ALL, REGISTRY)) == KINDS_MAX
    story.do(AGENT, MAIL, "mail/more")
    with pytest.raises(Refused, match="different tools") as refused:
        told(story.past, ALL, REGISTRY)
    assert (refused.value.code, refused.value.rule) == ("limit", "influence")


@pytest.mark.parametrize(
    ("known", "text"),
    [(0, ""), (1, "1"), (0b111, "1-3"), (0b1000111, "1-3,7"), (0b11010, "2,4-5"), (ALL, "*")],
)
def test_sets_of_steps_are_written_by_their_numbers(known: int, text: str) -> None:
    assert (spelled(known), bits(text)) == (text, known)


@given(some.integers(min_value=0, max_value=2**EXACT_MAX - 1))
def test_what_is_written_is_read_back(known: int) -> None:
    assert bits(spelled(known)) == known


ONES = some.tuples(
    some.sampled_from([AGENT, MAIL, FILES, NOTES]), some.sampled_from([AGENT, MAIL, FILES, NOTES])
)


@given(some.lists(ONES, max_size=12))
def test_knowledge_only_grows_and_within_a_step_is_no_more_than_its_performer_knows(
    moves: list[tuple[SpiffeId, SpiffeId]],
) -> None:
    story = Story()
    for by, to in moves:
        before = {who: story.past.heard(who) for who in (AGENT, MAIL, FILES, NOTES)}
        made = story.do(by, to)
        for who, known in before.items():
            assert known & ~story.past.heard(who) == 0
        assert bits(spelled(before[by])) & ~story.past.heard(to) == 0
        assert story.past.within(made.id) & ~story.past.heard(to) == 0


def test_the_operators_word_on_what_a_tool_returns() -> None:
    assert influence.returns("mail/list", REGISTRY) == "trusted"
    assert influence.returns("mail/read", REGISTRY) == "untrusted"
    assert influence.returns("mail/none", REGISTRY) == "untrusted"
    assert influence.returns("other/list", REGISTRY) == "untrusted"
