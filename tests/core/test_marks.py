from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.build import AGENT, KEY, SERVER, Maker, mark_of

from stepwrit_broker.core import marks
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.step import Life, StepRecord
from stepwrit_broker.core.workload import Workload

MAKE = Maker(0.0)
ROOT = MAKE.root_step()
LIFE = Life(
    state="accepted", round=1, performer=AGENT, accepted_at=0, beat_at=0, waiting_at=0, children=0, ended_at=0
)
CHILD = MAKE.child_step(StepRecord(step=ROOT, life=LIFE))
GRANDCHILD = MAKE.child_step(
    StepRecord(step=CHILD, life=replace(LIFE, performer=SERVER)),
    performer="spiffe://other.test/mcp/files",
    action=None,
)


@pytest.mark.parametrize(
    "target",
    [
        f"step:{ROOT.id}",
        f"txn:{ROOT.txn}",
        f"grant:{MAKE.id('grt')}",
        f"workload:{AGENT}",
        "workload:spiffe://example.test/agent/*",
        "workload:spiffe://example.test/*",
        "tool:mail/send",
        "server:mail",
        "resource:https://bank.example",
        "requester:per_1",
        f"key:{KEY}",
        "tenant:acme",
        "trust_domain:example.test",
        "everything:all",
    ],
)
def test_every_kind_of_target_can_be_named(target: str) -> None:
    assert marks.parse_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "step",
        "step:",
        "planet:earth",
        "everything:now",
        "step:abc",
        f"txn:{ROOT.id}",
        f"step:{ROOT.txn}",
        "grant:x",
        "workload:agent",
        "workload:spiffe://example.test",
        "workload:http://x/*",
        "workload:spiffe://Example.test/*",
        "workload:spiffe://example.test/a/../*",
        "trust_domain:Example.test",
        "tool:" + "x" * 2100,
        "Step:" + ROOT.id,
    ],
)
def test_a_target_that_could_stop_nothing_is_refused(target: str) -> None:
    with pytest.raises(Malformed):
        marks.parse_target(target)


@pytest.mark.parametrize(
    "target",
    [
        f"step:{ROOT.id}",
        f"step:{CHILD.id}",
        f"step:{GRANDCHILD.id}",
        f"txn:{ROOT.txn}",
        "tenant:acme",
        f"key:{KEY}",
        f"workload:{AGENT}",
        f"workload:{SERVER}",
        "workload:spiffe://other.test/mcp/files",
        "trust_domain:example.test",
        "trust_domain:other.test",
        "requester:per_1",
        "tool:mail/send",
        "server:mail",
        "everything:all",
    ],
)
def test_a_step_is_stopped_by_a_mark_on_itself_or_on_anything_above_it(target: str) -> None:
    stops = marks.subjects_of_step(GRANDCHILD)
    marks.test({}, stops)
    marks.test({"step:another": mark_of("step:another")}, stops)
    with pytest.raises(Refused) as refused:
        marks.test({target: mark_of(target)}, stops)
    assert refused.value.code == "revoked"


def test_a_step_is_not_stopped_by_a_mark_below_it() -> None:
    assert f"step:{CHILD.id}" not in marks.subjects_of_step(ROOT)
    assert "requester:per_1" not in marks.subjects_of_step(
        replace(ROOT, intent=replace(ROOT.intent, requester=None))
    )


def test_an_actions_server_is_named_by_its_registered_id_too() -> None:
    assert CHILD.action is not None
    own = replace(CHILD, action=replace(CHILD.action, server=SERVER))
    assert {f"server:{SERVER}", "server:mail"} <= set(marks.subjects_of_step(own))


@pytest.mark.parametrize(
    ("target", "stops"),
    [
        (f"workload:{AGENT}", True),
        ("workload:spiffe://example.test/agent/*", True),
        ("trust_domain:example.test", True),
        ("everything:all", True),
        ("workload:spiffe://example.test/*", True),
        ("workload:spiffe://example.test/a/*", False),
        ("workload:spiffe://other.test/*", False),
        (f"workload:{AGENT}/*", False),
        ("trust_domain:other.test", False),
    ],
)
def test_a_caller_is_stopped_by_its_id_by_every_pattern_that_covers_it_and_by_its_domain(
    target: str, stops: bool
) -> None:
    workload = Workload(id=AGENT, attested_by="x509", expires_at=1.0, serial="1")
    entry = Entry(id="spiffe://example.test/agent/*", name="chat", role="agent", tenant="acme")
    assert (target in marks.subjects_of_caller(Caller(workload=workload, entry=entry))) is stops


def test_a_freeze_says_who_can_lift_it_and_a_revocation_that_nobody_can() -> None:
    target = f"workload:{AGENT}"
    for verb, code, who in (("freeze", "frozen", "ops (stepwrit unfreeze)"), ("revoke", "revoked", None)):
        with pytest.raises(Refused) as refused:
            marks.test({target: mark_of(target, verb)}, (target,))
        assert (refused.value.code, refused.value.who_can_change_it) == (code, who)
        assert refused.value.rule == "mark REF0000000"


def test_what_is_stopped_is_named_as_a_sentence_says_it() -> None:
    for target, said in (
        (f"workload:{AGENT}", "the workload is frozen"),
        ("everything:all", "everything is frozen"),
    ):
        with pytest.raises(Refused) as refused:
            marks.test({target: mark_of(target, "freeze")}, (target,))
        assert refused.value.reason == said
