"""How an answer differs from another to the same question: what would change, and for whom. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from stepwrit_broker.core.answer import Answer, Word
from stepwrit_broker.core.verdict import Asking, Question

Effect = Literal[
    "newly refused", "now needs approval", "newly permitted", "approval terms changed", "obligations changed"
]
EFFECTS: Final[tuple[Effect, ...]] = (
    "newly refused",
    "now needs approval",
    "newly permitted",
    "approval terms changed",
    "obligations changed",
)
INTENT: Final = "(an intent)"
DEFAULT: Final = "(no policy)"
EXAMPLES: Final = 3


def effect(was: Answer, now: Answer) -> Effect | None:
    """What changes for who asked; None where it is the same to them, whichever policies say it."""
    if was.verdict != now.verdict:
        if now.verdict == "permit":
            return "newly permitted"
        return "newly refused" if now.verdict == "deny" else "now needs approval"
    if frozenset(was.obligations) != frozenset(now.obligations):
        return "obligations changed"
    return None if frozenset(was.terms) == frozenset(now.terms) else "approval terms changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Decisions that would come out otherwise in the same way.

    who: asks. initiator: started the step. tool: None at an intent. policies, says: of the answer now.
    demands: obligations and approval terms, of then and of now.
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
    demands: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class Change:
    """How often, and the refs of the first times and of the last (`stepwrit explain`)."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    last: str = ""

    def add(self, ref: str) -> None:
        """Once more."""
        self.count += 1
        self.last = ref
        if len(self.examples) < EXAMPLES:
            self.examples.append(ref)


Changes = Mapping[Kind, Change]


def kind_of(question: Question, was: Answer, now: Answer) -> Kind | None:
    """The kind of change that this is; None when there is none."""
    found = effect(was, now)
    if found is None:
        return None
    return Kind(
        effect=found,
        asking=question.asking,
        who=question.principal,
        initiator=cast("Mapping[str, str]", question.document["initiator"])["id"],
        tool=None if question.asking == "start_intent" else question.resource,
        was=was.verdict,
        now=now.verdict,
        policies=now.policies,
        says=now.reason or now.setting,
        demands=(_demands(was), _demands(now)),
    )


def _demands(answer: Answer) -> tuple[str, ...]:
    asked = ("=".join(filter(None, pair)) for pair in answer.obligations)
    return tuple(sorted((*asked, *map(str, answer.terms))))


def ordered(changes: Changes) -> list[tuple[Kind, Change]]:
    """What takes something away first, then the most frequent."""
    return sorted(
        changes.items(),
        key=lambda each: (EFFECTS.index(each[0].effect), -each[1].count, each[0].tool or "", each[0].who),
    )


def effects(changes: Changes) -> Counter[Effect]:
    """How many decisions each effect would hit."""
    return _counted(changes.items())


def by_tool(changes: Changes) -> dict[str, Counter[Effect]]:
    """The same per tool; INTENT stands for what is of none."""
    return _grouped(changes, lambda kind: (kind.tool or INTENT,))


def by_initiator(changes: Changes) -> dict[str, Counter[Effect]]:
    """The same per workload that started the step."""
    return _grouped(changes, lambda kind: (kind.initiator,))


def by_policy(changes: Changes) -> dict[str, Counter[Effect]]:
    """The same per policy that decides now, DEFAULT where none does; of two policies it is in both."""
    return _grouped(changes, lambda kind: kind.policies or (DEFAULT,))


def changes_json(changes: Changes, most: int | None = None) -> dict[str, Any]:
    """As machines read them: in all, per tool, initiator and policy, and `most` of them one by one."""
    each = ordered(changes)
    return {
        "effects": dict(effects(changes)),
        "tools": _plain(by_tool(changes)),
        "initiators": _plain(by_initiator(changes)),
        "policies": _plain(by_policy(changes)),
        "changes": [_kind_json(kind, change) for kind, change in each[:most]],
        "changes_left_out": len(each) - len(each[:most]),
    }


def _plain(groups: Mapping[str, Counter[Effect]]) -> dict[str, dict[Effect, int]]:
    return {name: dict(found) for name, found in groups.items()}


def _kind_json(kind: Kind, change: Change) -> dict[str, Any]:
    was, now = kind.demands
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
        "demands": {"was": list(was), "now": list(now)},
        "count": change.count,
        "refs": change.examples,
        "last_ref": change.last,
    }


def _grouped(changes: Changes, names: Callable[[Kind], tuple[str, ...]]) -> dict[str, Counter[Effect]]:
    groups: dict[str, list[tuple[Kind, Change]]] = {}
    for kind, change in changes.items():
        for name in names(kind):
            groups.setdefault(name, []).append((kind, change))
    return {name: _counted(groups[name]) for name in sorted(groups)}


def _counted(items: Iterable[tuple[Kind, Change]]) -> Counter[Effect]:
    found: Counter[Effect] = Counter()
    for kind, change in items:
        found[kind.effect] += change.count
    return found
