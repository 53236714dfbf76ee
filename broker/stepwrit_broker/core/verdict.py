"""One question to every policy engine, and its closed set of answers. Empty means no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stepwrit_broker.core.obligations import Demand, Obligation, redacted
from stepwrit_broker.core.terms import Terms

Asking = Literal["start_intent", "open_step", "issue_credential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The decision document, already JSON, and the parts that engines name: principal, action, resource.

    Not for engines: `ref`, of the step that it is about; `proved`, which demands of an obligation the caller
    meets; `held`, the obligations that the step has already.
    """

    asking: Asking
    principal: str
    resource: str
    document: Mapping[str, object]
    ref: str = ""
    proved: frozenset[Demand] = frozenset()
    held: tuple[Obligation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Yes. `policies`: the determining ones. `obligations`: what they demand together (`strictest`)."""

    policies: tuple[str, ...]
    obligations: tuple[Obligation, ...] = ()

    @property
    def redact(self) -> frozenset[str]:
        """The facts that are not to be kept."""
        return redacted(self.obligations)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsApproval:
    """Not without signatures. `terms`: of the policies that apply, as `together` orders them, at least one;
    each must be satisfied. `setting`: what an operator would change. `obligations`: of the permits that
    would apply, as a Permit has them.
    """

    policies: tuple[str, ...]
    setting: str
    terms: tuple[Terms, ...] = (Terms(),)
    obligations: tuple[Obligation, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an approval that nobody need sign")

    @property
    def redact(self) -> frozenset[str]:
        """The facts that are not to be kept, and not to be shown to who signs."""
        return redacted(self.obligations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """No. `reason` is a fixed sentence; policy text is never shown. `redact`: facts not to be kept of the
    refusal either; EVERY_FACT where that is in doubt.
    """

    policies: tuple[str, ...]
    reason: str
    redact: frozenset[str] = frozenset()


Verdict = Permit | NeedsApproval | Deny
