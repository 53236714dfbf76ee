"""What a deferred step is held to before each of its runs, whether it is resumed or accepted with a token."""

from __future__ import annotations

from stepwrit_broker.core import deferred
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import Action, Step
from stepwrit_broker.flows import keeping
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.targets import registered
from stepwrit_broker.ports import InForce


async def still(
    house: House, force: InForce, caller: Caller, step: Step, action: Action
) -> dict[str, object]:
    """Its arguments, if everything that the registry said when it was opened is said now.

    Raises Refused(`not_registered`, `ceiling`, `revoked`, `wrong_workload`), Unavailable.
    """
    if caller.entry.issuer is not None:
        raise Refused("wrong_workload", "a deferred step stays in its own trust domain")
    args = await keeping.opened(house, step, action)
    server, _, name = action.tool.partition("/")
    entry, tool = registered(force, caller, server, name)
    deferred.check_people(force.registry, step)
    deferred.check_chain(force.registry, step, action)
    deferred.check_tool(caller, action, entry, tool, args)
    return args
