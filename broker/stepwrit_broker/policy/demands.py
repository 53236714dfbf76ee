"""What a policy writes about signatures, and the terms that it means: alike in each engine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from stepwrit_broker.core.terms import REQUESTER, Terms, terms

PERSON: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PERSONS_MAX: Final = 32
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
