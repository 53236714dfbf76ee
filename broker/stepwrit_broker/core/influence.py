"""Influence: which earlier steps of a transaction could have had a part in a new one. An upper bound. Pure.

What a workload of a transaction knows: the arguments of every step it was to perform, with all that had
influenced those; what came back from every step it opened, with all that its performer knows. A step counts
from the moment it was opened: a performer may answer without accepting it. A name is what the registry calls
the performer, possibly a pattern, and an ID that it covers is the same workload: replicas share it.

Sets of steps are whole numbers: bit n is the transaction's step n + 1, and ALL (-1) is every one. The first
EXACT_MAX steps of a transaction are told apart; a step that is opened later is influenced by all before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from stepwrit.wire import Impact, Origin
from stepwrit.wire_acts import CLIENT, ELICITATION
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.registry import Registry, Returns, matches
from stepwrit_broker.core.step import Label, Step
from stepwrit_broker.core.workload import SpiffeId

EXACT_MAX: Final = 256
KINDS_MAX: Final = 256
ALL: Final = -1
EVERYTHING: Final = "*"
Kind = tuple[str, Impact, Origin]
_BY_A_PERSON: Final = f"{CLIENT}/{ELICITATION}"
Told = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An earlier step. parent: its place in the transaction, from 0; None for a child of the root. is_done:
    it has ended so; looked after only where a workflow declares the step.
    """

    id: str
    parent: int | None
    initiator: str
    performer: str
    kind: Kind
    influence: int
    label: Label | None = None
    facts: tuple[tuple[str, str | int | bool], ...] = ()
    is_done: bool = False


class Group(NamedTuple):
    """Steps of one kind: the first one, and how many."""

    first: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What one transaction has set in motion so far, in the order in which it was opened.

    by_kind: steps of each kind. later: the steps beyond EXACT_MAX, by kind. given: what each workload was
    given with arguments. asked: from whom each workload got results.
    """

    steps: tuple[Seen, ...] = ()
    by_kind: Mapping[Kind, int] = field(default_factory=dict)
    later: Mapping[Kind, Group] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def plus(self, step: Step, *, is_done: bool = False) -> Past:
        """This, and one step more. A step that says nothing of its influence had all that it could have."""
        action = step.action
        if action is None:
            return self
        kind: Kind = (action.tool, action.impact, step.origin)
        if len(self.steps) >= EXACT_MAX:
            first, times = self.later.get(kind, Group(step.id, 0))
            return replace(self, later={**self.later, kind: Group(first, times + 1)})
        bound = self.heard(step.initiator) if step.influence is None else bits(step.influence)
        seen = Seen(
            id=step.id,
            parent=self.place(step.parent),
            initiator=step.initiator,
            performer=step.performer,
            kind=kind,
            influence=bound,
            label=step.label,
            facts=action.facts if step.label is not None else (),
            is_done=is_done and step.label is not None,
        )
        return self._plus(seen)

    def _plus(self, seen: Seen) -> Past:
        own = 1 << len(self.steps)
        given = {**self.given}
        given[seen.initiator] = given.get(seen.initiator, 0) | own
        given[seen.performer] = given.get(seen.performer, 0) | own | seen.influence
        asked, before = self.asked, self.asked.get(seen.initiator, ())
        if seen.performer not in before:
            asked = {**asked, seen.initiator: (*before, seen.performer)}
        by_kind = {**self.by_kind, seen.kind: self.by_kind.get(seen.kind, 0) | own}
        return Past(steps=(*self.steps, seen), by_kind=by_kind, later=self.later, given=given, asked=asked)

    def done(self, step: str) -> Past:
        """This, with one step done."""
        place = self.place(step)
        if place is None:
            return self
        steps = (*self.steps[:place], replace(self.steps[place], is_done=True), *self.steps[place + 1 :])
        return replace(self, steps=steps)

    def taken(self, label: Label, parent: str | None, before: int | None = None) -> int:
        """How many steps were this declared one under that very parent, among all or those `before`."""
        place = self.place(parent)
        return sum(each.label == label and each.parent == place for each in self.steps[:before])

    def place(self, step: str | None) -> int | None:
        """Where a step stands, from 0; None for one that is not among the first EXACT_MAX."""
        return next((at for at, each in enumerate(self.steps) if each.id == step), None)

    def heard(self, workload: str) -> int:
        """All that this workload could know by now: the bound of what influences a step that it opens."""
        if len(self.steps) >= EXACT_MAX:
            return ALL
        known, passed, names = 0, set[str](), [workload]
        while names:
            name = names.pop()
            for each in self.given:
                if each not in passed and _is_same(each, name):
                    passed.add(each)
                    known |= self.given[each]
                    names += (each, *self.asked.get(each, ()))
        return known

    def within(self, step: str) -> int:
        """What influences a request of this step's performer: the step's own, and what came back below it."""
        place = self.place(step)
        if place is None or self.later:
            return ALL
        known = self.steps[place].influence
        for at, each in enumerate(self.steps):
            if each.parent == place:
                known |= 1 << at | self.heard(each.performer)
        return known if known == ALL else known & ~(1 << place)

    def narrowed(self, bound: int, wanted: Sequence[str]) -> int:
        """Of `bound`, what these steps and all that came back with them account for.

        Raises Refused(`influence_claimed`) for a step that is not in the bound, and beyond EXACT_MAX steps.
        """
        if bound == ALL:
            raise Refused("influence_claimed", f"after {EXACT_MAX} steps all of them count as influence")
        kept = 0
        for step in wanted:
            place = self.place(step)
            if place is None or not bound >> place & 1:
                raise Refused("influence_claimed", "names a step that could not have been seen")
            kept |= 1 << place | self.within(step)
        return kept & bound

    def kinds(self, known: int) -> list[tuple[Kind, Group]]:
        """These steps by tool, impact and origin, in the order of the first of each."""
        here = [(kind, bits_of & known) for kind, bits_of in self.by_kind.items() if bits_of & known]
        here.sort(key=_first)
        found = {kind: Group(self.steps[_first((kind, some))].id, some.bit_count()) for kind, some in here}
        if known == ALL:
            for kind, group in self.later.items():
                before = found.get(kind)
                found[kind] = group if before is None else Group(before.first, before.times + group.times)
        return list(found.items())


def _first(some: tuple[Kind, int]) -> int:
    return (some[1] & -some[1]).bit_length() - 1


def _is_same(one: str, other: str) -> bool:
    return one == other or matches(one, SpiffeId(other)) or matches(other, SpiffeId(one))


def told(past: Past, known: int, registry: Registry) -> tuple[Told, ...]:
    """The steps of `known` as a decision document has them: one record for each tool, impact and origin.

    Raises Refused(`limit`) beyond KINDS_MAX records: none is ever left out.
    """
    kinds = past.kinds(known)
    if len(kinds) > KINDS_MAX:
        raise Refused(
            "limit",
            f"this transaction has used more than {KINDS_MAX} different tools, impacts and origins",
            rule="influence",
        )
    return tuple(_record(kind, group, registry) for kind, group in kinds)


def _record(kind: Kind, group: Group, registry: Registry) -> Told:
    tool, impact, origin = kind
    return {
        "step": group.first,
        "server": tool.partition("/")[0],
        "tool": tool,
        "impact": impact,
        "origin": origin,
        "returns": returns(tool, registry),
        "times": group.times,
    }


def returns(tool: str, registry: Registry) -> Returns:
    """Whether the operator vouches for what the tool returns; what is not registered is `untrusted`."""
    if tool == _BY_A_PERSON:
        return "trusted"
    server, _, name = tool.partition("/")
    entry = registry.server(server)
    known = entry.tools.get(name) if entry is not None else None
    return "untrusted" if known is None else known.returns


def spelled(known: int) -> str:
    """A set of steps as text: `1-3,7` by their numbers in the transaction, from 1; `*` for every one."""
    return EVERYTHING if known == ALL else ",".join(_runs(known))


def _runs(known: int) -> Iterator[str]:
    at = 0
    while known >> at:
        if not known >> at & 1:
            at += 1
            continue
        first = at + 1
        while known >> at & 1:
            at += 1
        yield str(first) if at == first else f"{first}-{at}"


def bits(text: str) -> int:
    """What `spelled` wrote."""
    if text == EVERYTHING:
        return ALL
    known = 0
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        known |= (1 << int(last or first)) - (1 << int(first) - 1)
    return known
