"""Recorded decisions, asked again of a candidate policy: who would have been refused, at which tools.

A permit keeps its decision document beside the log, under a salted digest. That document is what is asked
again, with the registry, facts and time of then. A refusal keeps none: what a candidate would newly
permit is not seen here; such refusals are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from stepwrit_broker.core.document import DOCUMENT_V, MEMBERS
from stepwrit_broker.core.verdict import Asking, Question
from stepwrit_broker.ports import LedgerView, LoggedEntry, PolicyEngine
from stepwrit_broker.rehearsal.expected import Answer, Word, answer_of

PAGE: Final = 1000
KINDS: Final = ("intent.opened", "step.opened", "grant.issued", "grant.self", "refused", "refused.counted")
POLICY_CODES: Final = frozenset({"policy", "approval_required"})
SEALED: Final = "the entry is only in an export"
ERASED: Final = "the decision document is erased"
OTHER: Final = "the decision document is of another version"
LACKING: Final = "the decision document lacks what policy is asked with now"
REFUSAL: Final = "a refusal by policy keeps no decision document"
COUNTED: Final = "a refusal by policy that was only counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Decisions that would come out otherwise in the same way. `who` asks; tool: None at an intent."""

    asking: Asking
    who: str
    tool: str | None
    was: Word
    now: Word
    policies: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Change:
    """How often, and the refs of the first and the last time (`stepwrit explain`)."""

    answer: Answer
    count: int = 0
    first: str = ""
    last: str = ""

    def add(self, ref: str) -> None:
        """Once more."""
        self.count += 1
        self.first = self.first or ref
        self.last = ref


@dataclass(slots=True, kw_only=True)
class Replay:
    """What a replay found. left: how many decisions could not be asked again, by why."""

    asked: int = 0
    same: int = 0
    changes: dict[Kind, Change] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)


async def replay(ledger: LedgerView, engine: PolicyEngine, *, first: int = 0, since: float = 0.0) -> Replay:
    """Every decision from entry `first` on that is not older than `since` (seconds), asked of `engine`.

    Raises Unavailable when the engine or the ledger is in doubt.
    """
    found = Replay()
    for entry in _entries(ledger, first):
        if entry.at >= since:
            await _again(ledger, engine, entry, found)
    return found


def _entries(ledger: LedgerView, first: int) -> Iterator[LoggedEntry]:
    after = first - 1
    while page := ledger.tail(after, PAGE, KINDS, None):
        yield from page
        after = page[-1].seq


async def _again(ledger: LedgerView, engine: PolicyEngine, entry: LoggedEntry, found: Replay) -> None:
    if entry.kind.startswith("refused"):
        found.left.update(_refusals(entry))
        return
    kept = _kept(ledger, entry)
    if isinstance(kept, str):
        found.left[kept] += 1
        return
    question = question_of(kept["document"], entry.txn or "")
    came = answer_of(await engine.decide(question))
    _count(found, entry, question, kept["verdict"], came)


def _count(found: Replay, entry: LoggedEntry, question: Question, was: Word, came: Answer) -> None:
    found.asked += 1
    if came.verdict == was:
        found.same += 1
        return
    kind = Kind(
        asking=question.asking,
        who=question.principal,
        tool=None if question.asking == "start_intent" else question.resource,
        was=was,
        now=came.verdict,
        policies=came.policies,
    )
    found.changes.setdefault(kind, Change(answer=came)).add(entry.ref or "")


def question_of(document: Mapping[str, Any], txn: str) -> Question:
    """The question that a kept document was: who asked and about what follow from it."""
    asking: Asking = document["asking"]
    who = document["performer" if asking == "issue_credential" else "initiator"]["id"]
    about = txn if document["action"] is None else document["action"]["tool"]
    return Question(asking=asking, principal=who, resource=about, document=document)


def _kept(ledger: LedgerView, entry: LoggedEntry) -> Mapping[str, Any] | str:
    """The kept decision, or why there is none to ask again."""
    if entry.facts is None:
        return SEALED
    digest = entry.facts.get("decision")
    kept = ledger.decision(digest) if isinstance(digest, str) else None
    if kept is None:
        return ERASED
    document = kept.get("document")
    if not isinstance(document, Mapping) or cast("Mapping[str, object]", document).get("v") != DOCUMENT_V:
        return OTHER
    return kept if cast("Mapping[str, object]", document).keys() >= MEMBERS else LACKING


def _refusals(entry: LoggedEntry) -> Mapping[str, int]:
    """How many refusals by policy this entry tells of."""
    facts = entry.facts
    if facts is None:
        return {SEALED: 1}
    if entry.kind == "refused":
        return {REFUSAL: 1} if facts.get("code") in POLICY_CODES else {}
    counted = cast("Mapping[str, int]", facts.get("counted", {}))
    number = sum(count for code, count in counted.items() if code in POLICY_CODES)
    return {COUNTED: number} if number else {}
