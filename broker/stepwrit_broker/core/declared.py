"""Workflows as the operator declares them: which steps may follow which, started by whom, how often. Pure.

A declared step is started under one other (or under the transaction's root), and counts among what was
started under that very step: `after` and `times` look nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Value = str | int | bool


class Earlier(NamedTuple):
    """A fact of another step of the workflow: `step.fact`."""

    step: str
    fact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a fact of the arguments must be: all that is said here at once. A missing fact is nothing."""

    fact: str
    among: tuple[Value, ...] | None = None
    at_least: int | None = None
    at_most: int | None = None
    same_as: Earlier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One step. by: the registry's name of who starts it. under: the step whose performer that is; None: the
    root. after: steps under the same one that are done. times: how many under one.
    """

    name: str
    by: str
    tool: str
    under: str | None = None
    after: tuple[str, ...] = ()
    times: int = 1
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """Steps in an order in which each names only earlier ones."""

    name: str
    tenant: str
    steps: tuple[Declared, ...]
