"""Recorded decisions, asked again of a candidate policy: for whom it would change what, at which tools.

A permit and a refusal by policy keep their decision document beside the log, under a salted digest. That
document is what is asked again, with the registry, facts and time of then. What cannot be asked is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from stepwrit_broker.core.answer import answer_from, answer_of
from stepwrit_broker.core.change import Change, Kind, changes_json, kind_of
from stepwrit_broker.core.document import DOCUMENT_V, MEMBERS
from stepwrit_broker.core.verdict import Asking, Question, Verdict
from stepwrit_broker.ports import LedgerView, LoggedEntry, Proved

PAGE: Final = 1000
KINDS: Final = (
    *("intent.opened", "step.opened", "step.accepted", "step.resumed"),
    *("grant.issued", "refused", "refused.counted"),
)
POLICY_CODES: Final = frozenset({"policy", "approval_required"})
CHANGED: Final = "the decision document is not the one that the entry names"
OTHER: Final = "the decision document is of another version"
LACKING: Final = "the decision document lacks what policy is asked with now"
REFUSAL: Final = "a refusal by policy of an earlier release, which kept no decision document"
REDACTED: Final = "facts were left out of the decision document, as an obligation of the policy said"
COUNTED: Final = "a refusal by policy that was only counted"
UNPROVED: Final[Mapping[Proved, str]] = {
    "sealed": "the entry, with any decision that it names, is only in an export",
    "erased": "the decision document is erased",
    "unsalted": "the salt is erased: nothing proves the decision document",
    "changed": CHANGED,
}
Ask = Callable[[Question], Awaitable[Verdict]]


@dataclass(slots=True, kw_only=True)
class Replay:
    """What a replay found. versions: decisions asked again, by the policy version that made them. left: how
    many could not be asked again, by why. last: the number of the last entry that was looked at.
    """

    asked: int = 0
    same: int = 0
    changes: dict[Kind, Change] = field(default_factory=dict)
    versions: Counter[int] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    last: int = -1


async def replay(
    ledger: LedgerView,
    ask: Ask,
    *,
    first: int = 0,
    since: float = 0.0,
    goes_on: Callable[[], bool] = lambda: True,
) -> Replay:
    """Every decision from entry `first` on that is not older than `since` (seconds), asked of a candidate.

    Ends early once `goes_on` says no. Raises Unavailable when the candidate or the ledger is in doubt.
    """
    found = Replay(last=first - 1)
    for entry in _entries(ledger, first):
        if not goes_on():
            break
        if entry.at >= since:
            await _again(ledger, ask, entry, found)
        found.last = entry.seq
    return found


def replay_json(found: Replay, most: int | None = None) -> dict[str, Any]:
    """As machines read it; `most` kinds of change one by one."""
    return {
        "asked": found.asked,
        "same": found.same,
        **changes_json(found.changes, most),
        "decided_under": {f"v{number}": count for number, count in sorted(found.versions.items())},
        "not_asked_again": dict(sorted(found.left.items())),
        "last_entry": found.last,
    }


def _entries(ledger: LedgerView, first: int) -> Iterator[LoggedEntry]:
    after = first - 1
    while page := ledger.tail(after, PAGE, KINDS, None):
        yield from page
        after = page[-1].seq


async def _again(ledger: LedgerView, ask: Ask, entry: LoggedEntry, found: Replay) -> None:
    kept = _kept(ledger, entry)
    if isinstance(kept, _Left):
        found.left.update(kept.counted)
        return
    question = question_of(kept["document"], entry.txn or "")
    kind = kind_of(question, answer_from(kept), answer_of(await ask(question)))
    found.asked += 1
    found.versions[kept["versions"]["policy"]] += 1
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
    if found.document.get("redacted"):
        return _Left({REDACTED: 1})
    return _Left({LACKING: 1}) if _lacks(cast("Mapping[str, object]", document)) else found.document


def _lacks(document: Mapping[str, object]) -> bool:
    """Earlier releases did not know the influence of a step and said null."""
    unknown = document.get("action") is not None and document.get("influence") is None
    return unknown or not document.keys() >= MEMBERS


def _only_counted(entry: LoggedEntry) -> _Left:
    if entry.facts is None:
        return _Left({UNPROVED["sealed"]: 1})
    counted = cast("Mapping[str, int]", entry.facts.get("counted", {}))
    number = sum(count for code, count in counted.items() if code in POLICY_CODES)
    return _Left({COUNTED: number} if number else {})
