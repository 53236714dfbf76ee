"""Recorded decisions, asked again of a candidate policy: for whom it would change what, at which tools.

A permit and a refusal by policy keep their decision document beside the log, under a salted digest. That
document is what is asked again, with the registry, facts and time of then. What cannot be asked is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from stepwrit_broker.core.document import DOCUMENT_V, MEMBERS
from stepwrit_broker.core.verdict import Asking, Question
from stepwrit_broker.ports import LedgerView, LoggedEntry, PolicyEngine, Proved
from stepwrit_broker.rehearsal.change import Change, Kind, kind_of
from stepwrit_broker.rehearsal.expected import Answer, answer_of

PAGE: Final = 1000
KINDS: Final = ("intent.opened", "step.opened", "step.accepted", "grant.issued", "refused", "refused.counted")
POLICY_CODES: Final = frozenset({"policy", "approval_required"})
CHANGED: Final = "the decision document is not the one that the entry names"
OTHER: Final = "the decision document is of another version"
LACKING: Final = "the decision document lacks what policy is asked with now"
REFUSAL: Final = "a refusal by policy of an earlier release, which kept no decision document"
COUNTED: Final = "a refusal by policy that was only counted"
UNPROVED: Final[Mapping[Proved, str]] = {
    "sealed": "the entry, with any decision that it names, is only in an export",
    "erased": "the decision document is erased",
    "unsalted": "the salt is erased: nothing proves the decision document",
    "changed": CHANGED,
}
Pairs = tuple[tuple[str, str], ...]


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
            await again(ledger, engine, entry, found)
    return found


def _entries(ledger: LedgerView, first: int) -> Iterator[LoggedEntry]:
    after = first - 1
    while page := ledger.tail(after, PAGE, KINDS, None):
        yield from page
        after = page[-1].seq


async def again(ledger: LedgerView, engine: PolicyEngine, entry: LoggedEntry, found: Replay) -> None:
    """One entry, counted in `found`."""
    kept = _kept(ledger, entry)
    if isinstance(kept, _Left):
        found.left.update(kept.counted)
        return
    question, was = question_of(kept["document"], entry.txn or ""), _answer(kept)
    kind = kind_of(question, was, answer_of(await engine.decide(question)))
    found.asked += 1
    if kind is None:
        found.same += 1
        return
    found.changes.setdefault(kind, Change()).add(entry.ref or "")


def question_of(document: Mapping[str, Any], txn: str) -> Question:
    """The question that a kept document was: who asked and about what follow from it."""
    asking: Asking = document["asking"]
    who = document["performer" if asking == "issue_credential" else "initiator"]["id"]
    about = txn if document["action"] is None else document["action"]["tool"]
    return Question(asking=asking, principal=who, resource=about, document=document)


def _answer(kept: Mapping[str, Any]) -> Answer:
    """What was answered then. Permits of earlier releases say nothing of obligations: they had none."""
    pairs: Pairs = tuple((str(name), str(value)) for name, value in kept.get("obligations", ()))
    return Answer(
        verdict=kept["verdict"],
        policies=tuple(kept["policies"]),
        reason=kept.get("reason", ""),
        setting=kept.get("setting", ""),
        obligations=pairs,
    )


@dataclass(frozen=True, slots=True)
class _Left:
    """How many decisions there is no asking again, by why."""

    counted: Mapping[str, int]


def _kept(ledger: LedgerView, entry: LoggedEntry) -> Mapping[str, Any] | _Left:
    """The kept decision. An entry that decided nothing leaves nothing."""
    if entry.kind == "refused.counted":
        return _only_counted(entry)
    found = ledger.proved(entry)
    if found.proved == "none":
        is_by_policy = entry.facts is not None and entry.facts.get("code") in POLICY_CODES
        return _Left({REFUSAL: 1} if is_by_policy else {})
    if found.document is None:
        return _Left({UNPROVED[found.proved]: 1})
    document = found.document.get("document")
    if not isinstance(document, Mapping) or cast("Mapping[str, object]", document).get("v") != DOCUMENT_V:
        return _Left({OTHER: 1})
    lacks = not cast("Mapping[str, object]", document).keys() >= MEMBERS
    return _Left({LACKING: 1}) if lacks else found.document


def _only_counted(entry: LoggedEntry) -> _Left:
    if entry.facts is None:
        return _Left({UNPROVED["sealed"]: 1})
    counted = cast("Mapping[str, int]", entry.facts.get("counted", {}))
    number = sum(count for code, count in counted.items() if code in POLICY_CODES)
    return _Left({COUNTED: number} if number else {})
