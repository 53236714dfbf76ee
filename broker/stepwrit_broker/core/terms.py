"""Whose signatures a policy demands before a step may run. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

RequesterWord = Literal["may sign", "not alone", "may not sign"]
REQUESTER: Final[dict[RequesterWord, tuple[bool, bool]]] = {
    "may sign": (True, True),
    "not alone": (True, False),
    "may not sign": (False, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Whose signatures are demanded. count: distinct persons. persons: names of the operator's list.

    requester: whether the person who wants it is among those who may sign. alone: whether their own signature
    is enough by itself (separation of duties says no).
    """

    count: int = 1
    persons: frozenset[str] = frozenset()
    requester: bool = True
    alone: bool = True

    @property
    def as_json(self) -> dict[str, object]:
        """What is signed of them: every member, persons in order."""
        return {
            "count": self.count,
            "persons": sorted(self.persons),
            "requester": self.requester,
            "alone": self.alone,
        }

    def __str__(self) -> str:
        """In words and in order: `2 of requester, bob, carol`."""
        own = [] if not self.requester else ["requester"] if self.alone else ["requester (not alone)"]
        return f"{self.count} of {', '.join([*own, *sorted(self.persons)])}"


def terms(
    signatures: int = 1, approvers: Iterable[str] = (), requester: RequesterWord | None = None
) -> Terms:
    """The terms that a policy states. Raises ValueError where nobody could satisfy them.

    Nothing said of the requester: they sign where nobody else is named, and do not count where somebody is.
    """
    persons = frozenset(approvers)
    own, alone = REQUESTER[requester or ("may not sign" if persons else "may sign")]
    if not persons and not (own and alone):
        raise ValueError("nobody could sign: the requester may not, or not alone, and no approvers are named")
    if not 1 <= signatures <= len(persons) + own:
        raise ValueError(f"{signatures} signatures of {len(persons) + own} persons who may sign")
    return Terms(count=signatures, persons=persons, requester=own, alone=alone)


def together(each: Iterable[Terms]) -> tuple[Terms, ...]:
    """The terms of all rules that apply, none twice, in one order whatever the rules' order was."""
    return tuple(
        sorted(set(each), key=lambda one: (one.count, sorted(one.persons), one.requester, one.alone))
    )
