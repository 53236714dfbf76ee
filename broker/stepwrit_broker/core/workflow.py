"""Whether a registered workflow declares a step, from what the transaction has had so far. Pure.

Nothing that a caller says has a part in it: who starts it, under what, after what and how often come from the
broker's records, the facts from the arguments that it hashed. The first declaration that fits counts. Beyond
EXACT_MAX steps of a transaction nothing is declared any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from stepwrit_broker.core.declared import Condition, Declared, Value, Workflow
from stepwrit_broker.core.influence import EXACT_MAX, Past, Seen
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.step import Action, Label, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The declaration that fits. nth: the how many-th of `times` under its parent, from 1."""

    label: Label
    nth: int
    times: int

    def told(self) -> dict[str, object]:
        """As a decision document has it."""
        return {
            "name": self.label.workflow,
            "step": self.label.step,
            "nth": self.nth,
            "times": self.times,
        }


def match(registry: Registry, past: Past, step: Step, by: Entry) -> Match | None:
    """What declares a step that `by` is about to open; None where nothing does."""
    action = step.action
    if action is None or len(past.steps) >= EXACT_MAX:
        return None
    for workflow, wanted in registry.declarations(action.tool):
        label = Label(workflow.name, wanted.name)
        taken = past.taken(label, step.parent)
        if taken < wanted.times and _fits(workflow, wanted, past, step, action, by):
            return Match(label=label, nth=taken + 1, times=wanted.times)
    return None


def still(registry: Registry, past: Past, step: Step, by: Entry) -> Match | None:
    """What declared a step when it was opened, if it does so still."""
    action, label, place = step.action, step.label, past.place(step.id)
    if action is None or label is None or place is None:
        return None
    for workflow, wanted in registry.declarations(action.tool):
        if (workflow.name, wanted.name) == label and _fits(workflow, wanted, past, step, action, by):
            return Match(label=label, nth=past.taken(label, step.parent, place) + 1, times=wanted.times)
    return None


def _fits(workflow: Workflow, wanted: Declared, past: Past, step: Step, action: Action, by: Entry) -> bool:
    """All but the count."""
    if workflow.tenant != step.tenant or wanted.by != by.name:
        return False
    above = _above(past, step)
    if wanted.under is None:
        placed = len(step.ancestors) == 1
    else:
        placed = above is not None and above.label == (workflow.name, wanted.under)
    done = all(_beside(past, step, Label(workflow.name, name)) for name in wanted.after)
    return placed and done and all(_holds(each, workflow, past, step, action) for each in wanted.conditions)


def _above(past: Past, step: Step) -> Seen | None:
    place = past.place(step.parent)
    return None if place is None else past.steps[place]


def _beside(past: Past, step: Step, label: Label) -> Seen | None:
    """The one that is done, under the same parent."""
    parent = past.place(step.parent)
    here = (each for each in past.steps if each.label == label and each.parent == parent and each.is_done)
    return next(here, None)


def _holds(test: Condition, workflow: Workflow, past: Past, step: Step, action: Action) -> bool:
    value = dict(action.facts).get(test.fact)
    if value is None:
        return False
    checks = (
        test.among is None or any(_equal(value, each) for each in test.among),
        test.at_least is None or (_is_number(value) and value >= test.at_least),
        test.at_most is None or (_is_number(value) and value <= test.at_most),
        test.same_as is None or _equal(value, _earlier(test, workflow, past, step)),
    )
    return all(checks)


def _earlier(test: Condition, workflow: Workflow, past: Past, step: Step) -> Value | None:
    """The fact of the nearest step above of that name, or of the one beside."""
    if test.same_as is None:
        return None
    label, above = Label(workflow.name, test.same_as.step), _above(past, step)
    while above is not None and above.label != label:
        above = None if above.parent is None else past.steps[above.parent]
    found = above or _beside(past, step, label)
    return None if found is None else dict(found.facts).get(test.same_as.fact)


def _equal(one: Value, other: Value | None) -> bool:
    """True is not 1."""
    return type(one) is type(other) and one == other


def _is_number(value: Value) -> TypeGuard[int]:
    return type(value) is int
