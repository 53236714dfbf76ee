"""A verdict in the words of scenario files and of kept decisions: plain, comparable, JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepwrit_broker.core.obligations import Obligation, texts
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import Deny, Permit, Verdict

Word = Literal["permit", "approval", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict as scenario files write it; what a verdict has not is empty. stated: the obligations with the
    policies that state them, which are recorded and not compared.
    """

    verdict: Word
    policies: tuple[str, ...]
    reason: str = ""
    setting: str = ""
    terms: tuple[Terms, ...] = ()
    obligations: tuple[tuple[str, str], ...] = ()
    stated: tuple[Obligation, ...] = field(default=(), compare=False)

    @property
    def as_json(self) -> dict[str, object]:
        """What is kept of it; what it has not is left out."""
        obligations = [each.as_json for each in self.stated]
        said: dict[str, object] = {"verdict": self.verdict, "policies": list(self.policies)}
        if self.verdict == "permit":
            return {**said, "obligations": obligations}
        if self.verdict == "approval":
            terms = [each.as_json for each in self.terms]
            return {**said, "setting": self.setting, "terms": terms, "obligations": obligations}
        return {**said, "reason": self.reason}


def answer_of(verdict: Verdict) -> Answer:
    """An engine's verdict in these words."""
    if isinstance(verdict, Deny):
        return Answer(verdict="deny", policies=verdict.policies, reason=verdict.reason)
    pairs, stated = tuple(texts(verdict.obligations).items()), verdict.obligations
    if isinstance(verdict, Permit):
        return Answer(verdict="permit", policies=verdict.policies, obligations=pairs, stated=stated)
    return Answer(
        verdict="approval",
        policies=verdict.policies,
        setting=verdict.setting,
        terms=verdict.terms,
        obligations=pairs,
        stated=stated,
    )


def answer_from(kept: Mapping[str, Any]) -> Answer:
    """What `as_json` kept. An earlier release kept no obligations, and knew one kind of approval."""
    verdict: Word = kept["verdict"]
    stated = tuple(Obligation(**each) for each in kept.get("obligations", ()))
    unsaid = [Terms().as_json] if verdict == "approval" else []
    return Answer(
        verdict=verdict,
        policies=tuple(kept["policies"]),
        reason=kept.get("reason", ""),
        setting=kept.get("setting", ""),
        terms=tuple(_terms(each) for each in kept.get("terms", unsaid)),
        obligations=tuple(texts(stated).items()),
        stated=stated,
    )


def _terms(kept: Mapping[str, Any]) -> Terms:
    return Terms(
        count=kept["count"],
        persons=frozenset(kept["persons"]),
        requester=kept["requester"],
        alone=kept["alone"],
    )
