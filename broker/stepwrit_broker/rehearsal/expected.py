"""What a scenario expects of an answer, and how what came differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwrit_broker.core.answer import Answer, Word
from stepwrit_broker.core.terms import Terms, terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """None is not compared."""

    verdict: Word
    policies: frozenset[str] | None = None
    reason: str | None = None
    setting: str | None = None
    terms: frozenset[Terms] | None = None
    obligations: frozenset[tuple[str, str]] | None = None

    def differences(self, came: Answer) -> list[str]:
        """One sentence for each member that differs."""
        pairs = (
            ("verdict", self.verdict, came.verdict),
            ("policies", self.policies, frozenset(came.policies)),
            ("reason", self.reason, came.reason),
            ("setting", self.setting, came.setting),
            ("terms", self.terms, frozenset(came.terms)),
            ("obligations", self.obligations, frozenset(came.obligations)),
        )
        return [
            f"{name}: expected {_said(wanted)}, came {_said(got)}"
            for name, wanted, got in pairs
            if wanted is not None and wanted != got
        ]


def expected(read: Mapping[str, Any]) -> Expected:
    """The `expect` of a scenario whose shape was checked. Raises ValueError for terms that cannot be."""
    policies, obligations, demanded = read.get("policies"), read.get("obligations"), read.get("terms")
    return Expected(
        verdict=read["verdict"],
        policies=None if policies is None else frozenset(policies),
        reason=read.get("reason"),
        setting=read.get("setting"),
        terms=None if demanded is None else frozenset(terms(**each) for each in demanded),
        obligations=None if obligations is None else frozenset(obligations.items()),
    )


def _said(value: object) -> str:
    if isinstance(value, frozenset):
        words = sorted("=".join(each) if isinstance(each, tuple) else str(each) for each in value)
        return ", ".join(words) or "none"
    return str(value) or "nothing"
