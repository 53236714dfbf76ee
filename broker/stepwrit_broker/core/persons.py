"""Who is the same person, and how many persons at least have spoken. Pure.

An identity is a pair of issuer and subject. Only the operator says that two pairs are one person; a mail
address or a name never does. Two pairs that nobody linked may still be one person, so for counting they are
distinct only where that is proved: two subjects of one issuer, or two persons of the operator's list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

SUBJECT_MAX: Final = 255
"""Characters of a `sub` (OpenID Connect Core 1.0 section 2); a fleet's tables name rows by it."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A person as one identity provider knows them. Its `repr` names nobody."""

    issuer: str
    subject: str

    def __repr__(self) -> str:
        return f"Identity({self.issuer!r}, …)"


@dataclass(frozen=True, slots=True)
class Persons:
    """The operator's list: name -> every identity of that person. ValueError where one is in two.

    tenants: name -> the tenant whose steps that person may sign. inactive: the names of those for whom
    nothing is done any more.
    """

    links: Mapping[str, frozenset[Identity]]
    tenants: Mapping[str, str] = field(default_factory=dict)
    inactive: frozenset[str] = frozenset()
    _names: Mapping[Identity, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index once: whose an identity is, is asked of each person of the list for each notice."""
        seen: dict[Identity, str] = {}
        for name, identities in self.links.items():
            for each in identities:
                if seen.setdefault(each, name) != name:
                    raise ValueError(f"one identity belongs to {seen[each]} and to {name}")
        object.__setattr__(self, "_names", seen)

    def name(self, identity: Identity) -> str | None:
        """The person of the list whose identity it is; None if nobody said."""
        return self._names.get(identity)

    def is_active(self, name: str | None) -> bool:
        """Whether something may be done for whoever is called so; nothing is said of who is not listed."""
        return name not in self.inactive

    def of_the_inactive(self) -> frozenset[Identity]:
        """Every identity of every person for whom nothing is done any more."""
        return frozenset(each for name in self.inactive for each in self.links.get(name, frozenset()))

    def identities(self, who: Identity) -> frozenset[Identity]:
        """Every identity of this person, this one included."""
        return self.links.get(self.name(who) or "", frozenset()) | {who}

    def serves(self, name: str | None, tenant: str) -> bool:
        """Whether that person of the list may speak for this tenant."""
        return name in self.links and self.tenants.get(name or "", tenant) == tenant

    def is_same(self, one: Identity, other: Identity) -> bool:
        """Whether both are known to be one person: the same pair, or linked."""
        if one == other:
            return True
        name = self.name(one)
        return name is not None and name == self.name(other)

    def at_least(self, identities: Collection[Identity]) -> int:
        """How many persons have certainly spoken. Never too many, whoever the unlinked ones are."""
        names = {name for each in identities if (name := self.name(each)) is not None}
        return max((len(names), *(self._of_issuer(group) for group in _by_issuer(identities))), default=0)

    def _of_issuer(self, group: Iterable[Identity]) -> int:
        """Subjects of one issuer are different persons, unless the operator linked them."""
        return len({self.name(each) or each for each in group})


def _by_issuer(identities: Iterable[Identity]) -> list[list[Identity]]:
    groups: dict[str, list[Identity]] = {}
    for each in identities:
        groups.setdefault(each.issuer, []).append(each)
    return list(groups.values())
