"""What a policy writes about signatures and obligations, and what it means: alike in each engine."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Final

from stepwrit_broker.core.obligations import Obligation, read
from stepwrit_broker.core.terms import REQUESTER, Terms, terms

PERSON: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PERSONS_MAX: Final = 32
SILENT: Final = "no policy permits this"
UNKNOWN: Final = "a policy asks for something that is not known here"
_NUMBER: Final = re.compile(r"[1-9][0-9]?")


def demanded(signatures: str | None, approvers: str | None, requester: str | None) -> Terms:
    """The terms of Cedar's annotations; None is not there. Raises ValueError in the author's words."""
    if signatures is not None and not _NUMBER.fullmatch(signatures):
        raise ValueError("@signatures: a number of persons from 1 to 99")
    if approvers is not None and not approvers.strip():
        raise ValueError("@approvers: names of persons, with spaces between them")
    return checked(int(signatures or 1), (approvers or "").split(), requester)


def checked(signatures: int, approvers: Iterable[str], requester: str | None) -> Terms:
    """The terms of these parts. Raises ValueError in the author's words."""
    names = list(approvers)
    if len(names) > PERSONS_MAX or len(set(names)) < len(names):
        raise ValueError(f"approvers: at most {PERSONS_MAX}, none twice")
    if not all(map(PERSON.fullmatch, names)):
        raise ValueError("approvers: names of persons are of a-z 0-9 . _ -")
    if requester is not None and requester not in REQUESTER:
        raise ValueError(f"requester: one of {', '.join(REQUESTER)}")
    return terms(signatures, names, requester)


def annotated(policy: str, text: str) -> tuple[Obligation, ...]:
    """Of an annotation: `name=value`, with spaces or `;` between several. Raises ValueError."""
    found: list[Obligation] = []
    seen: set[str] = set()
    for each in text.replace(";", " ").split():
        name, _, value = each.partition("=")
        if name in seen:
            raise ValueError(f"obligation {name}: said twice")
        seen.add(name)
        found += read(policy, name, value)
    if not found:
        raise ValueError("@obligation: `name=value`, with spaces or ; between several")
    return tuple(found)


def undeclared(found: Iterable[Obligation], facts: Container[str]) -> str | None:
    """A fact to redact that nobody declared (misspelt, it would be kept); None where there is none."""
    return next((each.value for each in found if each.name == "redact" and each.value not in facts), None)
