"""What the operator says: who is what, who may start what, who redeems. Pure values and lookups.

One SPIFFE ID has exactly one role. A pattern is an exact SPIFFE ID, or ends in `/*` and covers every ID
below that path, segment by segment: `…/a/*` covers `…/a/b` and `…/a/b/c`, not `…/a` and not `…/ab`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stepwrit.wire import Impact, PlanItem
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.declared import Declared, Workflow
from stepwrit_broker.core.lineage import Role
from stepwrit_broker.core.peers import Peer
from stepwrit_broker.core.persons import Persons
from stepwrit_broker.core.workload import AttestedBy, SpiffeId

Returns = Literal["trusted", "untrusted"]
WithoutStep = Literal["refuse", "root"]
Declaration = tuple[Workflow, Declared]


def matches(pattern: str, workload: SpiffeId) -> bool:
    """Whether the pattern covers the ID."""
    return pattern == workload or (pattern.endswith("/*") and workload.startswith(pattern[:-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool. `name` is `server/tool`; `facts`: name → JSON pointer (RFC 6901) into the arguments.

    `is_self`: the tool is its own resource. An empty plan and not `is_self`: no credential. returns: whether
    the operator vouches for the content of its results. without_step: `root`: a call without a step token
    makes its server start a transaction of its own.
    """

    name: str
    impact: Impact
    schema: str | None = None
    plan: tuple[PlanItem, ...] = ()
    is_self: bool = False
    facts: tuple[tuple[str, str], ...] = ()
    returns: Returns = "untrusted"
    without_step: WithoutStep = "refuse"

    @property
    def may_be_root(self) -> bool:
        """Whether its server may start it for a call that came without a step; high impact never."""
        return self.without_step == "root" and self.impact == "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An OIDC client whose ID tokens may start intents at an agent."""

    issuer: str
    client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One registered workload (or pattern of workloads).

    name: short and unique; an mcp-server's tools are named by it. url: where an mcp-server is reached.
    may_start: the ceiling of what a server, trigger or agent may start; None: nothing. audience: what a
    resource redeems for. attest: how it may prove who it is. owner: the approver of record of a trigger.
    person_claims: the audience may see the person's own identifiers. may_ask: patterns of the tools about
    which it may ask for advice; a gateway does nothing else. narrows_influence: an
    agent's word on which results a step came of is taken, within what the broker knows. needs_cause: every
    event of a trigger comes from a step, which it names. issuer: an mcp-server's own broker, where that is
    another trust domain's: its tools are granted to it, and not performed here.
    """

    id: str
    name: str
    role: Role
    tenant: str
    attest: frozenset[AttestedBy] = frozenset({"x509"})
    url: str | None = None
    tools: Mapping[str, Tool] = field(default_factory=dict)
    may_start: Ceiling | None = None
    audience: str | None = None
    clients: tuple[Client, ...] = ()
    owner: str | None = None
    max_auth_age_s: float = 3600.0
    person_claims: bool = False
    may_ask: frozenset[str] = frozenset()
    narrows_influence: bool = False
    needs_cause: bool = False
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """One version of the registry. Unknown means None, never a default.

    trust_domains: the foreign ones whose workloads count here. persons: who is one person, and may be named
    as an approver. emails: where notices to a person go, by name. workflows: what steps may follow which.
    peers: the brokers of other trust domains.
    """

    version: int
    entries: tuple[Entry, ...]
    trust_domains: frozenset[str] = frozenset()
    digest: str = ""
    persons: Persons = field(default_factory=lambda: Persons({}))
    emails: Mapping[str, str] = field(default_factory=dict, repr=False)
    workflows: tuple[Workflow, ...] = ()
    peers: tuple[Peer, ...] = ()
    _exact: dict[str, Entry] = field(init=False, repr=False, compare=False)
    _patterns: tuple[Entry, ...] = field(init=False, repr=False, compare=False)
    _servers: dict[str, Entry] = field(init=False, repr=False, compare=False)
    _resources: dict[str, Entry] = field(init=False, repr=False, compare=False)
    _declared: dict[str, list[Declaration]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index once: every request asks."""
        by_length = sorted(self.entries, key=lambda entry: len(entry.id), reverse=True)
        found = {
            "_exact": {entry.id: entry for entry in self.entries if not entry.id.endswith("/*")},
            "_patterns": tuple(entry for entry in by_length if entry.id.endswith("/*")),
            "_servers": dict(_names(self.entries)),
            "_resources": {e.audience: e for e in self.entries if e.role == "resource" and e.audience},
            "_declared": _declarations(self.workflows),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def entry_for(self, workload: SpiffeId) -> Entry | None:
        """The entry that covers this ID: an exact one before a pattern, a longer pattern before a shorter."""
        exact = self._exact.get(workload)
        if exact is not None:
            return exact
        return next((entry for entry in self._patterns if matches(entry.id, workload)), None)

    def server(self, named: str) -> Entry | None:
        """The mcp-server with this name, SPIFFE ID or URL (compared exactly, but for a trailing slash)."""
        return self._servers.get(named) or self._servers.get(named.rstrip("/"))

    def redeems(self, workload: SpiffeId, audience: str) -> bool:
        """Whether this workload is registered as the resource that redeems for the audience."""
        entry = self.entry_for(workload)
        return entry is not None and entry.role == "resource" and entry.audience == audience

    def resource(self, audience: str) -> Entry | None:
        """The entry that redeems for the audience."""
        return self._resources.get(audience)

    def peer(self, issuer: str) -> Peer | None:
        """The peer that names itself so, byte for byte."""
        return next((each for each in self.peers if each.issuer == issuer), None)

    def declarations(self, tool: str) -> Sequence[Declaration]:
        """Where workflows declare a step of this tool, in the operator's order."""
        return self._declared.get(tool, ())


def _declarations(workflows: tuple[Workflow, ...]) -> dict[str, list[Declaration]]:
    found: dict[str, list[Declaration]] = {}
    for workflow in workflows:
        for step in workflow.steps:
            found.setdefault(step.tool, []).append((workflow, step))
    return found


def _names(entries: tuple[Entry, ...]) -> Iterator[tuple[str, Entry]]:
    """Every name of every mcp-server; of two with one name the first counts."""
    for entry in reversed(entries):
        if entry.role == "mcp-server":
            yield from ((name, entry) for name in (entry.name, entry.id))
            if entry.url:
                yield entry.url.rstrip("/"), entry
