"""A verdict in the words of scenario files and of kept decisions: plain, comparable, JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import NeedsApproval, Permit, Verdict

Word = Literal["permit", "approval", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict as scenario files write it; what a verdict has not is empty."""

    verdict: Word
    policies: tuple[str, ...]
    reason: str = ""
    setting: str = ""
    terms: tuple[Terms, ...] = ()
    obligations: tuple[tuple[str, str], ...] = ()

    @property
    def as_json(self) -> dict[str, object]:
        """What is kept of it; what it has not is left out."""
        said: dict[str, object] = {"verdict": self.verdict, "policies": list(self.policies)}
        if self.verdict == "permit":
            return {**said, "obligations": [list(each) for each in self.obligations]}
        if self.verdict == "approval":
            return {**said, "setting": self.setting, "terms": [each.as_json for each in self.terms]}
        return {**said, "reason": self.reason}


def answer_of(verdict: Verdict) -> Answer:
    """An engine's verdict in these words."""
    if isinstance(verdict, Permit):
        return Answer(verdict="permit", policies=verdict.policies, obligations=verdict.obligations)
    if isinstance(verdict, NeedsApproval):
        return Answer(
            verdict="approval", policies=verdict.policies, setting=verdict.setting, terms=verdict.terms
        )
    return Answer(verdict="deny", policies=verdict.policies, reason=verdict.reason)


def answer_from(kept: Mapping[str, Any]) -> Answer:
    """What `as_json` kept. An earlier release kept no obligations, and knew one kind of approval."""
    verdict: Word = kept["verdict"]
    unsaid = [Terms().as_json] if verdict == "approval" else []
    return Answer(
        verdict=verdict,
        policies=tuple(kept["policies"]),
        reason=kept.get("reason", ""),
        setting=kept.get("setting", ""),
        terms=tuple(_terms(each) for each in kept.get("terms", unsaid)),
        obligations=tuple((str(name), str(value)) for name, value in kept.get("obligations", ())),
    )


def _terms(kept: Mapping[str, Any]) -> Terms:
    return Terms(
        count=kept["count"],
        persons=frozenset(kept["persons"]),
        requester=kept["requester"],
        alone=kept["alone"],
    )
