"""What a new step is to do, and who is to do it: of the registry, or of what clients do for servers."""

from __future__ import annotations

from stepwrit.digest import DigestError, args_digest
from stepwrit.wire import OpenStepRequest, PlanItem
from stepwrit_broker.core import acts
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.facts import extract
from stepwrit_broker.core.registry import Entry, Tool
from stepwrit_broker.core.step import Action, StepRecord
from stepwrit_broker.ports import InForce


def target(
    force: InForce, caller: Caller, request: OpenStepRequest, parent: StepRecord
) -> tuple[str, Tool, Entry | None]:
    """Who is to perform it, the tool, and the performer's entry: None for the initiator's own client.

    Raises Refused(`not_registered`).
    """
    built_in = acts.TOOLS.get(f"{request.server}/{request.tool}")
    if built_in is not None:
        return parent.step.initiator, built_in, None
    entry, tool = registered(force, caller, request.server, request.tool)
    return entry.id, tool, entry


def registered(force: InForce, caller: Caller, server: str, name: str) -> tuple[Entry, Tool]:
    """A tool of a server of the caller's tenant. Raises Refused(`not_registered`)."""
    entry = force.registry.server(server)
    tool = entry.tools.get(name) if entry is not None and entry.tenant == caller.entry.tenant else None
    if entry is None or tool is None:
        raise Refused(
            "not_registered",
            "no such tool of a registered server",
            who_can_change_it="the operator (registry.yaml)",
        )
    return entry, tool


def action(request: OpenStepRequest, server: str, tool: Tool) -> Action:
    """What is to be done, with what. Raises Malformed(`invalid_arguments`)."""
    try:
        digest = args_digest(request.args)
    except DigestError as bad:
        raise Malformed("invalid_arguments", str(bad)) from bad
    return Action(
        server=server,
        tool=tool.name,
        args=digest,
        impact=tool.impact,
        schema=tool.schema,
        facts=extract(tool.facts, request.args),
        plan=tuple(
            PlanItem(at=i.at, method=i.method, path=i.path, query=i.query, times=i.times) for i in tool.plan
        ),
        is_self=tool.is_self,
    )
