"""Whether any agent gives out the entries that are there: its parent does, or those that a node alias of that
ID stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepwrit.spiffe_id import SCHEME
from stepwrit_broker.spire.registration import RegistrationEntry


def unasked(ours: frozenset[str], have: Sequence[RegistrationEntry]) -> Iterator[str]:
    """A line for each parent of ours (SPIFFE IDs) that no agent can be, going by `have`, the whole list."""
    for parent in dict.fromkeys(each.parent_id for each in have if each.spiffe_id in ours):
        why = _why(parent, [each for each in have if each.spiffe_id == parent])
        if why:
            yield f"no agent gives out what is registered below {parent}: {why}"


def _why(parent: str, aliases: Sequence[RegistrationEntry]) -> str:
    """Empty: an agent may have it."""
    if _is_agent(parent) or any(map(_can_match, aliases)):
        return ""
    if aliases:
        return (
            "its entry selects by spiffe_id below the server, and agents have no such selector (SPIRE 1.15); "
            "make it anew with the agent's ID as -parentID"
        )
    return "it is no agent, and no entry makes it a node alias; spire-server agent list shows the agents"


def _can_match(alias: RegistrationEntry) -> bool:
    """Below an agent it is that agent's; below the server it goes by what node attestation found."""
    by_id_alone = all(each.startswith("spiffe_id:") for each in alias.selectors)
    return not (by_id_alone and _path(alias.parent_id) == "spire/server")


def _is_agent(spiffe_id: str) -> bool:
    return _path(spiffe_id).startswith("spire/agent/")


def _path(spiffe_id: str) -> str:
    return spiffe_id.removeprefix(SCHEME).partition("/")[2]
