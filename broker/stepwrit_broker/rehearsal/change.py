"""How an answer differs from the one that was given: what a candidate would change, and for whom. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from stepwrit_broker.core.verdict import Asking, Question
from stepwrit_broker.rehearsal.expected import Answer, Word

Effect = Literal["newly refused", "now needs approval", "newly permitted", "obligations changed"]
EFFECTS: Final[tuple[Effect, ...]] = (
    "newly refused",
    "now needs approval",
    "newly permitted",
    "obligations changed",
)
INTENT: Final = "(an intent)"


def effect(was: Answer, now: Answer) -> Effect | None:
    """What changes for who asked; None where it is the same to them, whichever policies say it."""
    if was.verdict == now.verdict:
        is_same = was.verdict != "permit" or frozenset(was.obligations) == frozenset(now.obligations)
        return None if is_same else "obligations changed"
    if now.verdict == "permit":
        return "newly permitted"
    return "newly refused" if now.verdict == "deny" else "now needs approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Decisions that would come out otherwise in the same way.

    who: asks. initiator: started the step. tool: None at an intent. obligations: those of then and of now.
    """

    effect: Effect
    asking: Asking
    who: str
    initiator: str
    tool: str | None
    was: Word
    now: Word
    policies: tuple[str, ...]
    says: str
    obligations: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


@dataclass(slots=True, kw_only=True)
class Change:
    """How often, and the refs of the first and the last time (`stepwrit explain`)."""

    count: int = 0
    first: str = ""
    last: str = ""

    def add(self, ref: str) -> None:
        """Once more."""
        self.count += 1
        self.first = self.first or ref
        self.last = ref


def kind_of(question: Question, was: Answer, now: Answer) -> Kind | None:
    """The kind of change that this is; None when there is none."""
    found = effect(was, now)
    if found is None:
        return None
    started: Mapping[str, Any] = question.document["initiator"]  # type: ignore[assignment]
    return Kind(
        effect=found,
        asking=question.asking,
        who=question.principal,
        initiator=started["id"],
        tool=None if question.asking == "start_intent" else question.resource,
        was=was.verdict,
        now=now.verdict,
        policies=now.policies,
        says=now.reason or now.setting,
        obligations=(tuple(sorted(was.obligations)), tuple(sorted(now.obligations))),
    )


def ordered(changes: Mapping[Kind, Change]) -> list[tuple[Kind, Change]]:
    """What takes something away first, then the most frequent."""
    return sorted(
        changes.items(),
        key=lambda each: (EFFECTS.index(each[0].effect), -each[1].count, each[0].tool or "", each[0].who),
    )


def effects(changes: Mapping[Kind, Change]) -> Counter[Effect]:
    """How many decisions each effect would hit."""
    return _counted(changes.items())


def by_tool(changes: Mapping[Kind, Change]) -> dict[str, Counter[Effect]]:
    """The same per tool; INTENT stands for what is of none."""
    return _grouped(changes, lambda kind: kind.tool or INTENT)


def by_initiator(changes: Mapping[Kind, Change]) -> dict[str, Counter[Effect]]:
    """The same per workload that started the step."""
    return _grouped(changes, lambda kind: kind.initiator)


def changes_json(changes: Mapping[Kind, Change]) -> dict[str, Any]:
    """The changes as machines read them: in all, per tool, per initiator, and one by one."""
    return {
        "effects": dict(effects(changes)),
        "tools": {name: dict(found) for name, found in by_tool(changes).items()},
        "initiators": {name: dict(found) for name, found in by_initiator(changes).items()},
        "changes": [_kind_json(kind, change) for kind, change in ordered(changes)],
    }


def _kind_json(kind: Kind, change: Change) -> dict[str, Any]:
    was, now = kind.obligations
    return {
        "effect": kind.effect,
        "asking": kind.asking,
        "who": kind.who,
        "initiator": kind.initiator,
        "tool": kind.tool,
        "was": kind.was,
        "now": kind.now,
        "policies": list(kind.policies),
        "says": kind.says,
        "obligations": {"was": [list(each) for each in was], "now": [list(each) for each in now]},
        "count": change.count,
        "first_ref": change.first,
        "last_ref": change.last,
    }


def _grouped(changes: Mapping[Kind, Change], name: Callable[[Kind], str]) -> dict[str, Counter[Effect]]:
    names = sorted({name(kind) for kind in changes})
    return {each: _counted(item for item in changes.items() if name(item[0]) == each) for each in names}


def _counted(items: Iterable[tuple[Kind, Change]]) -> Counter[Effect]:
    found: Counter[Effect] = Counter()
    for kind, change in items:
        found[kind.effect] += change.count
    return found
