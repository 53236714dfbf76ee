"""Whether a deferred step may still be resumed, by what is true now and not when it was opened. Pure.

Between the two anything may have changed: the registry, what anybody may start, whether the person is still
with us. Each of these is a no of its own, so that whoever reads it knows whom to ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepwrit_broker.core import step
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.facts import extract
from stepwrit_broker.core.lineage import check_may_start
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.registry import Entry, Registry, Tool
from stepwrit_broker.core.step import Action, Step, StepRecord
from stepwrit_broker.core.workload import SpiffeId

_OPERATOR = "the operator (registry.yaml)"


def check_resumable(record: StepRecord) -> None:
    """The step has not ended, and was deferred.

    Raises Refused(`already_done`, `closed`, `expired`, `revoked`), Conflict(`wrong_state`).
    """
    if record.life.state in step.FINAL:
        step.move(record.life.state, "resume")
    if not record.step.deferred:
        raise Conflict("wrong_state", "the step was not deferred: it is accepted with its token")


def check_people(registry: Registry, own: Step) -> None:
    """Who wanted it, a person or a trigger's owner, is not said to be inactive. Raises Refused(`frozen`)."""
    who, persons = own.intent.requester, registry.persons
    name = own.intent.owner if who is None else persons.name(Identity(who.issuer, who.subject))
    if not persons.is_active(name):
        raise Refused(
            "frozen",
            "whoever this is done for is not active any more",
            rule="registry persons",
            who_can_change_it=_OPERATOR,
        )


def check_chain(registry: Registry, own: Step, action: Action) -> None:
    """Whoever opened it, and whoever opened what is above it, may start this tool today.

    Raises Refused(`not_registered`, `ceiling`).
    """
    for hop in own.chain:
        entry = registry.entry_for(SpiffeId(hop.initiator))
        if entry is None or entry.tenant != own.tenant or entry.may_start is None:
            raise _gone(f"{hop.initiator}, which had a part in it, may start nothing any more")
        check_may_start(action.tool, action.impact, entry.may_start)


def check_tool(caller: Caller, action: Action, entry: Entry, tool: Tool, args: Mapping[str, object]) -> None:
    """The tool is still this worker's, and is registered as it was when the step was decided on.

    entry, tool: those of now. Raises Refused(`not_registered`), Malformed(`invalid_arguments`).
    """
    if caller.entry.id != entry.id:
        raise _gone("the tool is registered for another workload now")
    then = (action.impact, action.schema, action.plan, action.is_self, action.facts)
    if then != (tool.impact, tool.schema, tool.plan, tool.is_self, extract(tool.facts, args)):
        raise _gone("the tool's impact, schema, plan or facts were changed since: open the step again")


def _gone(reason: str) -> Refused:
    return Refused("not_registered", reason, rule="registry", who_can_change_it=_OPERATOR)
