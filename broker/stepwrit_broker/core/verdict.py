"""One question to every policy engine, and its closed set of answers. Empty means no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stepwrit_broker.core.terms import Terms

Asking = Literal["start_intent", "open_step", "issue_credential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The decision document, already JSON, and the parts that engines name: principal, action, resource.

    ref: of the step that it is about; no engine sees it.
    """

    asking: Asking
    principal: str
    resource: str
    document: Mapping[str, object]
    ref: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Yes. `policies`: the determining ones."""

    policies: tuple[str, ...]
    obligations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsApproval:
    """Not without signatures. `terms`: of the policies that apply, as `together` orders them, at least one;
    each must be satisfied. `setting`: what an operator would change.
    """

    policies: tuple[str, ...]
    setting: str
    terms: tuple[Terms, ...] = (Terms(),)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an approval that nobody need sign")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """No. `reason` is a fixed sentence; policy text is never shown."""

    policies: tuple[str, ...]
    reason: str


Verdict = Permit | NeedsApproval | Deny
