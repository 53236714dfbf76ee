"""A candidate policy beside the live one: it is asked what the live one was asked, and influences nothing.

The live path pays for putting question and verdict into a bounded queue; what does not fit is dropped and
counted. Everything else happens in batches, later, in a task of its own and in the candidate's own process.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from stepwrit_broker.core.answer import Answer, answer_of
from stepwrit_broker.core.change import Change, Kind, changes_json, kind_of
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.verdict import Question, Verdict
from stepwrit_broker.ports import PolicyEngine

QUEUE_MAX: Final = 1024
BATCH_MAX: Final = 32
GATHER_S: Final = 0.01  # between batches, so that there is something to gather
KINDS_MAX: Final = 200
VERSIONS_MAX: Final = 100
DOUBT, BEYOND = "doubt", "more kinds of change than are kept"


class Candidate(Protocol):
    """A policy that is not in force, asked for what it would say. MUST take no time of the asking process."""

    @property
    def digest(self) -> str:
        """Of its canonical document, as versions have it."""
        ...

    @property
    def doc(self) -> str:
        """The canonical document."""
        ...

    async def answers(self, questions: Sequence[Question]) -> Sequence[Answer | None]:
        """One for each question, in order; None where the candidate is in doubt about it.

        Raises Unavailable when there is no answer at all; `rule` is one word for why.
        """
        ...

    async def replay(
        self, *, since: float, entries: int, seconds: float, most: int
    ) -> Mapping[str, Any]:  # `replay_json`, and `first_entry`
        """The recorded decisions of the newest `entries`, asked again: at most `seconds`, `most` kinds one by
        one. Raises Unavailable.
        """
        ...

    async def aclose(self) -> None:
        """Let go of its process."""
        ...


class Heard(Protocol):
    """The metrics of a shadow. Labels are words of ours, or registered tools."""

    def shadowed(self, live: str, shadow: str) -> None:
        """One decision was compared: `permit`, `approval`, `deny`, or of the shadow `error`."""
        ...

    def shadow_disagreed(self, effect: str, tool: str) -> None:
        """The shadow would have changed something for who asked; tool: empty at an intent."""
        ...

    def shadow_failed(self, why: str, count: int) -> None:
        """So many questions got no answer of the shadow."""
        ...

    def shadow_dropped(self) -> None:
        """A question found the queue full."""
        ...

    def shadow_runs(self, *, runs: bool) -> None:
        """Whether there is a shadow."""
        ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of the questions so far."""

    compared: int = 0
    same: int = 0
    dropped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    changes: dict[Kind, Change] = field(default_factory=dict)
    beyond: int = 0

    def count(self, question: Question, live: Answer, shadow: Answer, version: int) -> Kind | None:
        """One comparison; the kind of change that it is, if it is one."""
        self.compared += 1
        self.verdicts[live.verdict, shadow.verdict] += 1
        if version in self.versions or len(self.versions) < VERSIONS_MAX:
            self.versions[version] += 1
        kind = kind_of(question, live, shadow)
        if kind is None:
            self.same += 1
        elif kind in self.changes or len(self.changes) < KINDS_MAX:
            self.changes.setdefault(kind, Change()).add(question.ref)
        else:
            self.beyond += 1
        return kind

    @property
    def as_json(self) -> dict[str, Any]:
        """Counts, and what differs; bounded by KINDS_MAX."""
        return {
            "compared": self.compared,
            "same": self.same,
            "dropped": self.dropped,
            "errors": dict(sorted(self.errors.items())),
            "verdicts": [
                {"live": live, "shadow": shadow, "count": count}
                for (live, shadow), count in sorted(self.verdicts.items())
            ],
            "decided_under": {f"v{number}": count for number, count in sorted(self.versions.items())},
            **changes_json(self.changes),
            "uncounted_changes": self.beyond,
        }


Waiting = tuple[Question, Verdict, int]


class Shadow:
    """One candidate, its queue and its tally. `run` works until it is cancelled."""

    def __init__(self, candidate: Candidate, heard: Heard) -> None:
        self.candidate: Final = candidate
        self.tally: Final = Tally()
        self._heard = heard
        self._waiting: deque[Waiting] = deque()
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._waiting)

    def saw(self, question: Question, verdict: Verdict, version: int) -> None:
        """The live policy has answered. Never waits, never raises."""
        if len(self._waiting) >= QUEUE_MAX:
            self.tally.dropped += 1
            self._heard.shadow_dropped()
            return
        self._waiting.append((question, verdict, version))
        self._wake.set()

    async def run(self) -> None:
        """Ask and compare, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._some()
                await asyncio.sleep(GATHER_S)

    async def _some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
        try:
            answers = await self.candidate.answers([question for question, _, _ in some])
            for one, answer in zip(some, answers, strict=True):
                self._compare(one, answer)
        except Unavailable as gone:
            self._failed(gone.rule or DOUBT, some)
        except Exception:  # noqa: BLE001  a fault of the shadow is counted, and the shadow goes on
            self._failed("internal", some)

    def _compare(self, one: Waiting, answer: Answer | None) -> None:
        question, verdict, version = one
        if answer is None:
            self._failed(DOUBT, [one])
            return
        live = answer_of(verdict)
        self._heard.shadowed(live.verdict, answer.verdict)
        kind = self.tally.count(question, live, answer, version)
        if kind is not None:
            self._heard.shadow_disagreed(kind.effect, kind.tool or "")

    def _failed(self, why: str, some: Sequence[Waiting]) -> None:
        self.tally.errors[why] += len(some)
        self._heard.shadow_failed(why, len(some))
        for _, verdict, _ in some:
            self._heard.shadowed(answer_of(verdict).verdict, "error")


class Watched:
    """The live engine, with somebody who is told what it answered."""

    def __init__(self, engine: PolicyEngine, shadow: Shadow) -> None:
        self._engine, self._saw = engine, shadow.saw

    @property
    def version(self) -> int:
        """The live engine's."""
        return self._engine.version

    async def decide(self, question: Question) -> Verdict:
        """The live engine's verdict, whatever the shadow says. Raises as the live engine does."""
        verdict = await self._engine.decide(question)
        self._saw(question, verdict, self._engine.version)
        return verdict
