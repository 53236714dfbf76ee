"""Which registration entries a broker's settings and registry call for. Nothing is guessed: what nobody said
stays unfinished.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stepwrit.errors import ConfigurationError
from stepwrit.spiffe_id import SCHEME
from stepwrit_broker.config import Config
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.workload import parse_spiffe_id, trust_domain_of
from stepwrit_broker.spire.registration import RegistrationEntry

BROKER: Final = "broker"
PROXY: Final = "proxy"
X509_TTL_S: Final = 3600
JWT_TTL_S: Final = 300  # the most that the broker takes
WILDCARD: Final = "/*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What only the operator knows.

    parent_id: the agent's (or a node alias's) SPIFFE ID, None: not said. selectors: name -> `type:value`, all
    of which must hold. Times to live in seconds. jti: of JWT-SVIDs, which takes SPIRE 1.15.2.
    """

    parent_id: str | None = None
    selectors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    x509_ttl_s: int = X509_TTL_S
    jwt_ttl_s: int = JWT_TTL_S
    jti: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One entry that must be there. Without a parent or a selector it is unfinished."""

    name: str
    what: str
    takes_jwts: bool
    entry: RegistrationEntry

    @property
    def lacks(self) -> tuple[str, ...]:
        """The options that are still to be given; empty: finished."""
        parent = () if self.entry.parent_id else ("--parent-id SPIFFE_ID",)
        return parent if self.entry.selectors else (*parent, f"--selector {self.name}=TYPE:VALUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A registered workload that this SPIRE cannot register by one entry, and what to do instead."""

    name: str
    spiffe_id: str
    todo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """All of it. `partners`: the foreign trust domains whose bundles the server must know first."""

    home: str
    partners: tuple[str, ...]
    needs: tuple[Need, ...]
    elsewhere: tuple[Elsewhere, ...]


def needed(config: Config, registry: Registry, told: Told) -> Needed:
    """What this deployment needs. Raises ConfigurationError for something told that fits nothing."""
    rows = [*_ours(config), *_rows(config, registry)]
    home = [each for each in rows if _is_home(config, each[2]) and not each[2].endswith(WILDCARD)]
    _check_parent(config, told.parent_id)
    told = replace(told, selectors=_by_id(told.selectors, home, registry))
    partners = from_workload_api(config, registry)
    return Needed(
        home=config.trust_domain,
        partners=partners,
        needs=tuple(_need(row, told, partners, config.spiffe_hint) for row in home),
        elsewhere=tuple(_elsewhere(config, row) for row in rows if row not in home),
    )


def from_workload_api(config: Config, registry: Registry) -> tuple[str, ...]:
    """The foreign trust domains that count here and whose bundles the broker does not fetch by itself."""
    return tuple(sorted(registry.trust_domains - {each.trust_domain for each in config.federation}))


_Row = tuple[str, str, str, bool]  # name, what it is, SPIFFE ID or pattern, takes JWT-SVIDs


def _ours(config: Config) -> Iterator[_Row]:
    yield BROKER, "the broker itself", config.broker_id, False
    if config.proxy.id:
        yield PROXY, "the proxy in front of mtls", config.proxy.id, False


def _rows(config: Config, registry: Registry) -> Iterator[_Row]:
    for each in registry.entries:
        if each.id != config.broker_id:
            yield _name(each), each.role, each.id, "jwt" in each.attest


def _name(entry: Entry) -> str:
    """`broker` is the broker and `proxy` the proxy; a workload of that name goes by its ID."""
    return entry.id if entry.name in (BROKER, PROXY) else entry.name


def _is_home(config: Config, pattern: str) -> bool:
    return pattern.startswith(f"{SCHEME}{config.trust_domain}/")


def _need(row: _Row, told: Told, partners: tuple[str, ...], hint: str) -> Need:
    """partners: for those who meet foreign workloads over TLS. hint: the broker's."""
    name, what, spiffe_id, takes_jwts = row
    entry = RegistrationEntry(
        spiffe_id=spiffe_id,
        parent_id=told.parent_id or "",
        selectors=told.selectors.get(spiffe_id, ()),
        x509_ttl_s=told.x509_ttl_s,
        jwt_ttl_s=told.jwt_ttl_s if takes_jwts else 0,
        federates_with=partners if name in (BROKER, PROXY) else (),
        hint=hint if name == BROKER else "",
        jti=takes_jwts and told.jti,
    )
    return Need(name=name, what=what, takes_jwts=takes_jwts, entry=entry)


def _elsewhere(config: Config, row: _Row) -> Elsewhere:
    name, _, spiffe_id, _ = row
    if _is_home(config, spiffe_id):
        todo = "a pattern: one entry for each workload below it"
    else:
        domain = spiffe_id.removeprefix(SCHEME).partition("/")[0]
        todo = f"register it in trust domain {domain}, federated with {config.trust_domain}"
    return Elsewhere(name=name, spiffe_id=spiffe_id, todo=todo)


def _check_parent(config: Config, parent_id: str | None) -> None:
    try:
        domain = trust_domain_of(parse_spiffe_id(parent_id)) if parent_id else config.trust_domain
    except ValueError as bad:
        raise ConfigurationError(f"--parent-id: {bad}") from None
    if domain != config.trust_domain:
        raise ConfigurationError(
            f"--parent-id: {parent_id} is not in trust domain {config.trust_domain}; "
            "`spire-server agent list` shows the IDs of agents"
        )


def _by_id(
    given: Mapping[str, tuple[str, ...]], home: Sequence[_Row], registry: Registry
) -> dict[str, tuple[str, ...]]:
    """The selectors by SPIFFE ID; `broker` is the broker, whatever the registry calls it."""
    ids = {each.name: each.id for each in registry.entries} | {row[0]: row[2] for row in home}
    known = {name: each for name, each in ids.items() if each in {row[2] for row in home}}
    known |= {each: each for each in known.values()}
    found: dict[str, tuple[str, ...]] = {}
    for name, selectors in given.items():
        if name not in known:
            raise ConfigurationError(_no_such(name, list(known)))
        found[known[name]] = (*found.get(known[name], ()), *selectors)
    return found


def _no_such(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"--selector: nothing to register is called {name!r}; {hint}"


def parse_selectors(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`NAME=TYPE:VALUE` each; those of one name belong together. Raises ConfigurationError."""
    found: dict[str, tuple[str, ...]] = {}
    for each in given:
        name, equals, selector = each.partition("=")
        kind, colon, value = selector.partition(":")
        if not (name and equals and kind and colon and value) or not each.isprintable():
            raise ConfigurationError(
                f"--selector {each!r}: use NAME=TYPE:VALUE, as in broker=unix:user:stepwrit"
            )
        found[name] = (*found.get(name, ()), selector)
    return found


def clashes(needs: Sequence[Need]) -> Iterator[tuple[Need, Need]]:
    """Pairs of which whatever the second selects gets the first one's ID too."""
    told = [each for each in needs if each.entry.selectors]
    for one in told:
        for other in told:
            wider, narrower = frozenset(one.entry.selectors), frozenset(other.entry.selectors)
            is_twin = wider == narrower and needs.index(one) > needs.index(other)
            if one is not other and wider <= narrower and not is_twin:
                yield one, other
