"""What could have had a part in what is asked for: read from the past before it is decided on.

Read, and not compared again when the step is reserved: the request, with its arguments, was here before the
past was read, so what is opened in between cannot have come into it.
"""

from __future__ import annotations

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.influence import Past, Told, told
from stepwrit_broker.core.step import Step
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import InForce


def known(past: Past, caller: Caller, wanted: tuple[str, ...] | None) -> int:
    """What could have had a part in a step that the caller opens now; `wanted`: what it says itself.

    Raises Refused(`influence_claimed`) where the registry does not take the caller's word, or the word is
    more than the bound.
    """
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


async def influences(house: House, step: Step, force: InForce) -> tuple[Told, ...]:
    """What could have had a part in what this step's performer asks for now. Raises Refused, Unavailable."""
    past = await house.store.past(step.txn)
    return told(past, past.within(step.id), force.registry)
