"""Who started it: origin, narrowing, and the chain. Derived, never claimed; pure.

human > model > server, and origin never rises along a path: below a server's step everything is `server`.
"""

from __future__ import annotations

from typing import Literal

from stepwrit.wire import HopSpec, Impact, Origin
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import Action, Step, StepRecord
from stepwrit_broker.core.workload import SpiffeId

Role = Literal["agent", "mcp-server", "resource", "trigger", "gateway", "operator", "auditor", "broker"]
_HEIGHT: dict[Origin, int] = {"human": 2, "model": 1, "server": 0}


def own_origin(role: Role) -> Origin:
    """The origin of a step that a workload of this role opens, before the path is looked at."""
    return "model" if role == "agent" else "server"


def lower_origin(one: Origin, other: Origin) -> Origin:
    """The lower of two origins."""
    return one if _HEIGHT[one] <= _HEIGHT[other] else other


def derive_origin(parent: Origin, role: Role) -> Origin:
    """The lower of the parent's origin and the opener's own."""
    return lower_origin(own_origin(role), parent)


def check_opener(parent: StepRecord, caller: SpiffeId, role: Role) -> None:
    """Only the parent's performer may open a child. Raises Refused(`origin_claimed` | `not_found`).

    A server that opens under a step it does not perform wants another's origin for its own act. To an agent
    another's step looks like none.
    """
    performer = parent.life.performer or parent.step.performer
    if caller == performer:
        return
    if role == "agent":
        raise Refused("not_found", "no such step")
    raise Refused("origin_claimed", "a server may open steps only below a step that it performs")


def check_action(parent: Step, action: Action, may_start: Ceiling | None) -> None:
    """The child's action lies in the parent's ceiling and in what the registry lets the opener start."""
    if not parent.ceiling.allows(action.tool, action.impact):
        raise Refused("ceiling", f"{action.tool} ({action.impact}) is outside the parent's ceiling")
    if may_start is not None:
        check_may_start(action.tool, action.impact, may_start)


def is_own_call(parent: Step, tool: str, *, may_be_root: bool) -> bool:
    """Whether this is the call for which a server started its own root; anything else below that is refused.

    Such a root has one child: the tool that was called, for as long as the registry lets it be called without
    a step. Raises Refused(`ceiling`).
    """
    called = parent.intent.without_step
    if called is None or parent.action is not None:
        return False
    if tool != called or not may_be_root:
        raise Refused(
            "ceiling", f"this transaction is for one call of {called}", rule="registry without_step"
        )
    return True


def check_may_start(tool: str, impact: Impact, may_start: Ceiling) -> None:
    """The registry lets the opener start this tool, under whatever step. Raises Refused(`ceiling`)."""
    if not may_start.allows(tool, impact):
        raise Refused(
            "ceiling",
            f"the registry does not let this workload start {tool} ({impact})",
            rule="registry may_start",
            who_can_change_it="the operator (registry.yaml)",
        )


def narrow(parent: Ceiling, asked: Ceiling | None, registered: Ceiling | None) -> Ceiling:
    """The child's ceiling: asked for, within the parent's, within what the registry lets its performer start.

    Raises Refused(`ceiling`) when more is asked for than the parent has: no wish is trimmed in silence.
    """
    if asked is not None and not asked.within(parent):
        raise Refused("ceiling", "the child's ceiling is not within its parent's")
    wanted = parent if asked is None else asked
    return wanted if registered is None else wanted.meet(registered)


def extend(
    parent: Step, *, child: str, initiator: SpiffeId, performer: str, origin: Origin, tool: str
) -> tuple[HopSpec, ...]:
    """The child's chain: the parent's and one hop more."""
    hop = HopSpec(step=child, initiator=initiator, performer=performer, origin=origin, tool=tool)
    return (*parent.chain, hop)
