"""What a server makes its client do: the built-in tools of `client`, who may start them, what they may start.

Pure. The ceiling of the step above does not judge an act: that a server asks its own client for something is
judged by the registry and by policy. It does bound what comes of the act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, cast

from stepwrit.wire import OpenStepRequest
from stepwrit.wire_acts import ACTS, CLIENT, NAMED, OFFERED, SAMPLING, URL, is_act
from stepwrit_broker.core.ceiling import TOOLS_MAX, Ceiling
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.lineage import Role
from stepwrit_broker.core.registry import Entry, Registry, Tool
from stepwrit_broker.core.step import Step

NOTHING: Final = Ceiling(tools=frozenset(), impact="low")
_FACTS: Final = {
    SAMPLING: (("max_tokens", "/max_tokens"), ("include_context", "/include_context")),
    URL: (("host", "/host"),),
}

TOOLS: Final[Mapping[str, Tool]] = MappingProxyType(
    {
        f"{CLIENT}/{act}": Tool(name=f"{CLIENT}/{act}", impact=impact, facts=_FACTS.get(act, ()))
        for act, impact in ACTS.items()
    }
)
"""By full name. None has a plan: an act never yields a credential."""


def may_start(tool: str, registered: Ceiling | None) -> bool:
    """Whether the registry lets a server have its client do this. `*` covers servers' tools only."""
    if tool.partition("/")[2] not in NAMED:
        return True
    return registered is not None and not registered.tools.isdisjoint({tool, f"{CLIENT}/*"})


def check(request: OpenStepRequest, tool: Tool, above: Step, by: Entry) -> None:
    """A server asks this of its client, within a call that it performs for it.

    Raises Refused(`ceiling`), Malformed for an act that is deferred.
    """
    if request.deferred:
        raise Malformed("invalid_request", "what a server asks of its client cannot be deferred")
    if not _asks(by.role) or above.action is None or is_act(above.action.tool):
        raise Refused("ceiling", "only a server asks something of its client, for a call of its client's")
    if not may_start(tool.name, by.may_start):
        raise Refused(
            "ceiling",
            f"the registry does not name {tool.name} among what this server may start",
            rule="registry may_start",
            who_can_change_it="the operator (registry.yaml)",
        )


def _asks(role: Role) -> bool:
    return role == "mcp-server"


def ceiling(request: OpenStepRequest, above: Step, by: Entry, registry: Registry) -> Ceiling:
    """What the client may start for this act: of the tools that were offered to its model, those that the
    step above and the registry let this server start. For every other act nothing.

    Raises Malformed(`invalid_arguments`).
    """
    offered = frozenset(_offered(request.args.get(OFFERED), by, registry))
    if request.tool != SAMPLING or not offered:
        return NOTHING
    asked = above.ceiling if request.ceiling is None else Ceiling.of(request.ceiling).meet(above.ceiling)
    return Ceiling(tools=offered, impact=asked.impact).meet(asked).meet(by.may_start or NOTHING)


def _offered(said: object, by: Entry, registry: Registry) -> Iterator[str]:
    """By their full names. What is no registered tool of the tenant can be no step, and is left out."""
    listed = [] if said is None else said
    if not isinstance(listed, list) or len(cast("list[object]", listed)) > TOOLS_MAX:
        raise Malformed("invalid_arguments", f"{OFFERED}: a list of at most {TOOLS_MAX} names")
    for name in cast("list[object]", listed):
        if not isinstance(name, str):
            raise Malformed("invalid_arguments", f"{OFFERED}: a list of names")
        server, slash, tool = name.rpartition("/")
        entry = registry.server(server) if slash else by
        found = entry.tools.get(tool) if entry is not None and entry.tenant == by.tenant else None
        if found is not None:
            yield found.name
