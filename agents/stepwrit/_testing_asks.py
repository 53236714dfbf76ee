"""The in-memory broker: what a server asks of its client. It may ask for every act that no knob refuses."""

from __future__ import annotations

from typing import cast

from stepwrit._testing_books import Ceiling, No, StepRow, Tool, covers
from stepwrit._testing_registry import Registry
from stepwrit.wire import OpenStepRequest
from stepwrit.wire_acts import ACTS, CLIENT, OFFERED, SAMPLING, is_act


def tools() -> dict[str, Tool]:
    """The built-in ones, by full name."""
    return {f"{CLIENT}/{act}": Tool(name=f"{CLIENT}/{act}", impact=impact) for act, impact in ACTS.items()}


def check(registry: Registry, caller: str, parent: StepRow) -> None:
    """A server asks, in a call that it performs for its client. Raises No."""
    if caller in registry.agents or parent.tool is None or is_act(parent.tool.name):
        raise No("ceiling", "only a server asks something of its client, for a call of its client's")


def offered(registry: Registry, caller: str, parent: StepRow, request: OpenStepRequest) -> Ceiling:
    """Of the tools that were offered to the client's model, those in the parent's ceiling."""
    said = request.args.get(OFFERED) if request.tool == SAMPLING else None
    names = cast("list[str]", said) if isinstance(said, list) else []
    own = next((each.name for each in registry.servers.values() if each.spiffe_id == caller), "")
    full = [name if "/" in name else f"{own}/{name}" for name in names]
    kept = [name for name in full if any(covers(each, name) for each in parent.ceiling.tools)]
    return Ceiling(tools=tuple(kept), impact=parent.ceiling.impact)
