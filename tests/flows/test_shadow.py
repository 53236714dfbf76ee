"""A candidate beside the live policy: it sees everything, and changes nothing, whatever it does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from tests.flows.rig import FakePolicy
from tests.policy.world import Scene, opening

from stepwrit_broker.core.answer import Answer
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.flows import shadow as module
from stepwrit_broker.flows.shadow import BATCH_MAX, QUEUE_MAX, Shadow, Watched

YES, NO = Permit(policies=("p1",)), Deny(policies=("p2",), reason="no")
SAYS_YES = Answer(verdict="permit", policies=("p1",))
SAYS_NO = Answer(verdict="deny", policies=("c9",), reason="never")


class FakeCandidate:
    """The Candidate port: `says` one thing, unless `fails`; while `gate` is shut it says nothing at all."""

    def __init__(self, digest: str = "sha256-c") -> None:
        self.digest, self.doc, self.closed = digest, '{"the":"doc"}', False
        self.says: Answer | None = SAYS_YES
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.report: Mapping[str, Any] = {}
        self.replayed: list[Mapping[str, object]] = []

    async def answers(self, questions: Sequence[Question]) -> Sequence[Answer | None]:
        self.batches.append(len(questions))
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return [self.says for _ in questions]

    async def replay(self, **asked: object) -> Mapping[str, Any]:
        self.replayed.append(asked)
        await self.gate.wait()
        return self.report

    async def aclose(self) -> None:
        self.closed = True


class Ears:
    """The Heard port."""

    def __init__(self) -> None:
        self.compared: Counter[tuple[str, str]] = Counter()
        self.disagreed: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[str] = Counter()
        self.dropped = 0
        self.runs = False

    def shadowed(self, live: str, shadow: str) -> None:
        self.compared[live, shadow] += 1

    def shadow_disagreed(self, effect: str, tool: str) -> None:
        self.disagreed[effect, tool] += 1

    def shadow_failed(self, why: str, count: int) -> None:
        self.failed[why] += count

    def shadow_dropped(self) -> None:
        self.dropped += 1

    def shadow_runs(self, *, runs: bool) -> None:
        self.runs = runs


class Bench:
    def __init__(self) -> None:
        self.candidate, self.ears = FakeCandidate(), Ears()
        self.shadow = Shadow(self.candidate, self.ears)
        self.live = FakePolicy()
        self.watched = Watched(self.live, self.shadow)
        self.work = asyncio.create_task(self.shadow.run())

    async def ask(self, says: Verdict = YES, times: int = 1, **scene: Any) -> None:
        self.live.says = says
        question = opening(Scene(**{"origin": "model", "impact": "low", **scene}))
        for _ in range(times):
            assert await self.watched.decide(question) is says


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "GATHER_S", 0.0)
    one = Bench()
    yield one
    one.work.cancel()


async def test_what_the_live_one_decides_the_shadow_is_asked_too(bench: Bench) -> None:
    await bench.ask(YES, 3)
    await until(lambda: bench.shadow.tally.compared == 3)
    told = bench.shadow.tally.as_json
    assert (told["same"], told["changes"], told["dropped"], told["errors"]) == (3, [], 0, {})
    assert told["verdicts"] == [{"live": "permit", "shadow": "permit", "count": 3}]
    assert told["decided_under"] == {"v0": 3}
    assert bench.ears.compared == {("permit", "permit"): 3}
    assert bench.watched.version == bench.live.version


async def test_it_tells_where_it_disagrees_and_keeps_the_first_refs(bench: Bench) -> None:
    bench.candidate.says = SAYS_NO
    await bench.ask(YES, 2)
    await bench.ask(NeedsApproval(policies=("p3",), setting="s"))
    await bench.ask(NO)
    await until(lambda: bench.shadow.tally.compared == 4)
    told = bench.shadow.tally.as_json
    assert told["effects"] == {"newly refused": 3}
    assert told["policies"] == {"c9": {"newly refused": 3}}
    tool = told["changes"][0]["tool"]
    assert told["tools"] == {tool: {"newly refused": 3}}
    assert [(each["was"], each["count"]) for each in told["changes"]] == [("permit", 2), ("approval", 1)]
    ref = opening(Scene(origin="model", impact="low")).ref
    assert ref
    assert told["changes"][0]["refs"] == [ref, ref]
    assert bench.ears.disagreed == {("newly refused", tool): 3}
    assert bench.ears.compared[("deny", "deny")] == 1


async def test_no_verdict_waits_for_a_shadow_that_says_nothing_and_a_full_queue_drops_and_counts(
    bench: Bench,
) -> None:
    bench.candidate.gate.clear()
    await bench.ask(YES)
    await until(lambda: bench.candidate.batches == [1])
    await bench.ask(YES, QUEUE_MAX + 17)
    assert (bench.shadow.waiting, bench.shadow.tally.dropped) == (QUEUE_MAX, 17)
    assert bench.ears.dropped == 17
    bench.candidate.gate.set()
    await until(lambda: bench.shadow.tally.compared == QUEUE_MAX + 1)
    assert max(bench.candidate.batches) == BATCH_MAX
    await bench.ask(YES)
    await until(lambda: bench.shadow.tally.compared == QUEUE_MAX + 2)
    assert bench.shadow.tally.dropped == 17


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        (Unavailable("unavailable", "gone", rule="timeout"), "timeout"),
        (Unavailable("unavailable", "gone"), "doubt"),
        (RuntimeError("a bug"), "internal"),
    ],
)
async def test_a_shadow_that_fails_is_counted_and_goes_on(bench: Bench, fails: Exception, why: str) -> None:
    bench.candidate.fails = fails
    await bench.ask(YES, 2)
    await until(lambda: bench.shadow.tally.errors[why] == 2)
    bench.candidate.fails = None
    await bench.ask(NO)
    await until(lambda: bench.shadow.tally.compared == 1)
    assert bench.ears.failed == {why: 2}
    assert bench.ears.compared == {("permit", "error"): 2, ("deny", "permit"): 1}
    assert bench.shadow.tally.as_json["errors"] == {why: 2}


async def test_a_shadow_that_is_always_in_doubt_changes_no_verdict(bench: Bench) -> None:
    bench.candidate.says = None
    await bench.ask(YES, 2)
    await bench.ask(NO)
    await until(lambda: bench.shadow.tally.errors["doubt"] == 3)
    assert bench.shadow.tally.compared == 0


async def test_doubt_of_the_live_one_is_its_own(bench: Bench) -> None:
    class Doubts(FakePolicy):
        async def decide(self, question: Question) -> Verdict:
            raise Unavailable("unavailable", "doubt", rule="policy")

    question = opening(Scene(origin="model", impact="low"))
    with pytest.raises(Unavailable):
        await Watched(Doubts(), bench.shadow).decide(question)
    assert bench.shadow.waiting == 0


async def test_what_is_kept_of_it_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KINDS_MAX", 1)
    monkeypatch.setattr(module, "VERSIONS_MAX", 1)
    bench.candidate.says = SAYS_NO
    await bench.ask(YES, 2)
    bench.live.version = 8
    await bench.ask(NeedsApproval(policies=(), setting="s", terms=(Terms(),)))
    await until(lambda: bench.shadow.tally.compared == 3)
    told = bench.shadow.tally.as_json
    assert (len(told["changes"]), told["uncounted_changes"]) == (1, 1)
    assert told["decided_under"] == {"v0": 2}
    assert told["verdicts"] == [
        {"live": "approval", "shadow": "deny", "count": 1},
        {"live": "permit", "shadow": "deny", "count": 2},
    ]


async def test_an_intent_that_would_come_out_otherwise_is_of_no_tool(bench: Bench) -> None:
    bench.candidate.says = SAYS_NO
    document = {"initiator": {"id": "spiffe://x/agent"}}
    question = Question(asking="start_intent", principal="spiffe://x/agent", resource="t", document=document)
    await bench.watched.decide(question)
    await until(lambda: bench.shadow.tally.compared == 1)
    assert bench.ears.disagreed == {("newly refused", ""): 1}
