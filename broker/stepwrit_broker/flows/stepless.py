"""A call came without a step, and the registry lets its tool's server start a transaction of its own for it.

Nobody is behind it: no requester, no owner, origin `server`, low impact, one child, which is the call.
"""

from __future__ import annotations

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.step import Intent

_NOTHING = Ceiling(tools=frozenset(), impact="low")


def check(caller: Caller, tool: str, id_token: str | None) -> None:
    """The caller is the tool's own server, and the registry says `root` of it.

    Raises Malformed for anybody who serves no tools; Refused(`origin_claimed`) where a person is to stand
    behind it, Refused(`no_step`) for a tool without the setting, and for one that is none of the caller's.
    """
    if caller.entry.role != "mcp-server":
        raise Malformed("invalid_request", "without_step: only a tool's own server has calls without a step")
    if id_token is not None:
        raise Refused("origin_claimed", "nobody stands behind a call that came without a step")
    own = caller.entry.tools.get(tool)
    if own is None or not own.may_be_root:
        raise Refused(
            "no_step",
            "the registry lets no call of this tool come without a step",
            rule="registry without_step",
            who_can_change_it="the operator (registry.yaml)",
        )


def name(caller: Caller, tool: str) -> str:
    """`server/tool` of a checked tool."""
    return caller.entry.tools[tool].name


def ceiling(caller: Caller, tool: str) -> Ceiling:
    """The call itself, and at low impact what its server may start."""
    starts = caller.entry.may_start or _NOTHING
    return Ceiling(tools=starts.tools | {name(caller, tool)}, impact="low")


def purpose(tool: str) -> str:
    """In the broker's words: a server has none that anybody would answer for."""
    return f"a call of {tool} that came without a step"


def facts(intent: Intent) -> dict[str, object]:
    """What the ledger says of such a root beside what it says of any."""
    return {} if intent.without_step is None else {"without_step": intent.without_step}
