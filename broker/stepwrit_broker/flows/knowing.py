"""What policy is told of a transaction's past: what could have had a part in a step, and what declares it.

Read, and not compared again when the step is reserved: the request, with its arguments, was here before the
past was read, so what is opened in between cannot have come into it. Only the count of a declared step is
looked at again there, because two at once could both be the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepwrit_broker.core import workflow
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.influence import Past, Told, spelled, told
from stepwrit_broker.core.step import Step
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import InForce


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A step with what is known of it. influence, workflow: as a decision document has them. times: how many
    such steps there may be, where it is declared.
    """

    step: Step
    influence: tuple[Told, ...]
    workflow: Mapping[str, object] | None
    times: int | None = None


async def before(
    house: House, caller: Caller, step: Step, wanted: tuple[str, ...] | None, force: InForce
) -> Known:
    """Of a step that the caller is about to open. wanted: what it says itself of its influence.

    Raises Refused(`influence_claimed`) where the registry does not take the caller's word, or the word is
    more than the bound; Refused(`limit`), Unavailable.
    """
    past = await house.store.past(step.txn)
    seen = _heard(past, caller, wanted)
    found = workflow.match(force.registry, past, step, caller.entry)
    return Known(
        step=replace(step, influence=spelled(seen), label=None if found is None else found.label),
        influence=told(past, seen, force.registry),
        workflow=None if found is None else found.told(),
        times=None if found is None else found.times,
    )


def _heard(past: Past, caller: Caller, wanted: tuple[str, ...] | None) -> int:
    bound = past.heard(caller.workload.id)
    if wanted is None:
        return bound
    if not caller.entry.narrows_influence:
        raise Refused(
            "influence_claimed",
            "the registry does not take this workload's word on what influenced a step",
            rule="registry narrows_influence",
            who_can_change_it="the operator (registry.yaml)",
        )
    return past.narrowed(bound, wanted)


async def within(house: House, step: Step, force: InForce) -> Known:
    """Of what this step's performer asks for now. Raises Refused(`limit`), Unavailable."""
    past = await house.store.past(step.txn)
    opener = force.registry.entry_for(step.initiator)
    found = None if opener is None else workflow.still(force.registry, past, step, opener)
    return Known(
        step=step,
        influence=told(past, past.within(step.id), force.registry),
        workflow=None if found is None else found.told(),
    )
