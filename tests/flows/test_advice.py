"""Advice in doubt, and what it leaves behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from tests.flows.rig import AGENT, ARGS, BANK, MAIL, Rig

from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.limits import RateLimit
from stepwrit_broker.core.verdict import Deny, Permit, Question
from stepwrit_broker.flows.advice import Adviser, AnswerRecorder
from stepwrit_broker.ports import Happening

RATE = RateLimit(name="q", on="questions", per=("workload",), match=(), count=60, period_s=60.0, burst=5)


class Desk:
    """A rig, and an adviser at it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        limits = rig.settings.limits
        rig.settings.limits = replace(limits, rates=(*limits.rates, RATE))
        self.recorder = AnswerRecorder(store=rig.store, clock=rig.clock, entropy=rig.entropy)
        self.adviser = Adviser(house=rig.house, recorder=self.recorder)
        entry = rig.caller(BANK, key=False).entry
        self.asker = rig.caller(BANK, key=False, entry=replace(entry, may_ask=frozenset({"mail/*"})))

    def question(self, step: str) -> Asked:
        return Asked(
            subject_type="workload",
            subject=AGENT,
            action="open_step",
            resource_type="tool",
            resource="mail/pay",
            args=ARGS,
            step=step,
        )


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    rig = Rig(tmp_path / "stepwrit.db")
    yield Desk(rig)
    await rig.close()


async def test_policy_in_doubt_is_no_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = desk.question((await desk.rig.start()).step.id)
    (yes,) = await desk.adviser.answer(desk.asker, [asked])
    assert (yes.decision, yes.policies) == (True, ("p1",))

    async def doubt(_: Question) -> NoReturn:
        raise Unavailable("unavailable", "policy in doubt", rule="policy", retry_after=1.0)

    monkeypatch.setattr(desk.rig.policy, "decide", doubt)
    with pytest.raises(Unavailable):
        await desk.adviser.answer(desk.asker, [asked])


async def test_an_answer_that_cannot_be_recorded_is_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = desk.question((await desk.rig.start()).step.id)
    (yes,) = await desk.adviser.answer(desk.asker, [asked])
    assert yes.decision

    async def full(_: Happening) -> NoReturn:
        raise Unavailable("unavailable", "the queue is long", rule="store")

    monkeypatch.setattr(desk.rig.store, "record", full)
    with pytest.raises(Unavailable):
        await desk.adviser.answer(desk.asker, [asked])


async def test_policy_is_asked_what_a_real_open_asks(desk: Desk) -> None:
    root = await desk.rig.start()
    (yes,) = await desk.adviser.answer(desk.asker, [desk.question(root.step.id)])
    await desk.rig.open(root)
    assert yes.decision
    advised, real = desk.rig.policy.asked[-2:]
    assert replace(advised, ref=real.ref) == real


async def test_a_no_by_policy_keeps_its_sentence(desk: Desk) -> None:
    asked = desk.question((await desk.rig.start()).step.id)
    assert desk.rig.policy.says == Permit(policies=("p1",))
    desk.rig.policy.says = Deny(policies=("p2",), reason="not on Sundays")
    (no,) = await desk.adviser.answer(desk.asker, [asked])
    assert no.problem is not None
    assert (no.decision, no.problem.reason, no.problem.ref) == (False, "not on Sundays", no.ref)
    (entry,) = desk.rig.entries("question.answered")
    assert (entry["rule"], entry["answer"]) == ("policy v0 p2", "deny")


async def test_no_answer_without_a_rate_or_beyond_it(desk: Desk) -> None:
    asked = desk.question((await desk.rig.start()).step.id)
    assert len(await desk.adviser.answer(desk.asker, [asked] * 5)) == 5
    with pytest.raises(Refused, match="60/min of questions per workload, 5 at once") as over:
        await desk.adviser.answer(desk.asker, [asked])
    assert over.value.retry_after == pytest.approx(1.0, abs=0.002)
    desk.rig.settings.limits = replace(desk.rig.settings.limits, rates=(replace(RATE, per=()),))
    assert len(await desk.adviser.answer(desk.asker, [asked] * 5)) == 5, "another limit, another counter"
    with pytest.raises(Refused, match="per broker"):
        await desk.adviser.answer(desk.asker, [asked])
    desk.rig.settings.limits = replace(desk.rig.settings.limits, rates=())
    with pytest.raises(Refused, match="no limit on questions is set"):
        await desk.adviser.answer(desk.asker, [asked])


async def test_arguments_without_a_digest_are_no_question(desk: Desk) -> None:
    ready = await desk.rig.open(await desk.rig.start())
    asked = replace(desk.question(ready.record.step.id), action="accept_step", subject=MAIL)
    (yes,) = await desk.adviser.answer(desk.asker, [asked])
    assert yes.decision
    under = replace(asked, action="open_step", subject=AGENT, step=ready.record.step.parent)
    for question in (asked, under):
        (no,) = await desk.adviser.answer(desk.asker, [replace(question, args={"n": float("nan")})])
        assert no.problem is not None
        assert no.problem.code == "invalid_arguments"
