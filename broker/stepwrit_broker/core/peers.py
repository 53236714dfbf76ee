"""Brokers of other trust domains: what may cross from one to the other, and how little of it is believed.

Each side keeps its own registry, policy and ledger. What a peer says of itself narrows and never widens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepwrit.wire import Origin
from stepwrit_broker.core.ceiling import Ceiling, impact_within
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.lineage import lower_origin
from stepwrit_broker.core.step import Action, Step
from stepwrit_broker.core.workload import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One broker of another trust domain.

    issuer: as it names itself, compared byte for byte. broker, url: its SPIFFE ID, and where its listener for
    certificates is; `keys`: its public JWKs, where they are pinned here instead. owner: who answers here for
    what it starts. max_origin, may_start: the highest origin and the widest ceiling of what it starts.
    person_claims: a person's identifiers cross, both ways.
    """

    name: str
    issuer: str
    trust_domain: str
    tenant: str
    owner: str
    broker: str | None = None
    url: str | None = None
    keys: Sequence[Mapping[str, str]] = ()
    max_origin: Origin = "server"
    may_start: Ceiling = field(default_factory=lambda: Ceiling(tools=frozenset(), impact="low"))
    person_claims: bool = False

    def subjects(self) -> tuple[str, ...]:
        """The targets of marks that stop what goes to it and what came from it."""
        return (f"issuer:{self.issuer}", f"trust_domain:{self.trust_domain}")


def imported_origin(claimed: Origin, peer: Peer) -> Origin:
    """The lower of what the peer says and what it may say at all."""
    return lower_origin(claimed, peer.max_origin)


def check_granted(parent: Step, action: Action) -> None:
    """Below a peer's root exactly the action that its grant names is opened. Raises Refused."""
    upstream = parent.intent.upstream
    if upstream is None or parent.parent is not None:
        return
    if action.tool != upstream.tool or not impact_within(action.impact, upstream.impact):
        raise Refused("ceiling", "the peer's grant is for another action", rule="grant")
    if action.args != upstream.args:
        raise Refused("arguments_changed", "these are not the arguments that the peer granted", rule="grant")


def check_peer(caller: SpiffeId, trust_domain: str, peer: Peer) -> None:
    """A peer speaks for workloads of its own trust domain alone. Raises Refused(`wrong_workload`)."""
    if trust_domain != peer.trust_domain:
        raise Refused("wrong_workload", f"{peer.name} does not speak for {caller}", rule="registry peers")
