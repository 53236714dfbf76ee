"""The policies that can speak of one question: by its action, by whom and what they name, by what they test.

A policy whose scope names another principal or resource does not apply, whatever it would read; nor does one
whose first comparison is false (`guards`). Leaving them out changes no answer. There is no hierarchy of
entities here, so `==` is all that a scope is told by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cedarpy

from stepwrit_broker.core.obligations import EVERY_FACT, redacted
from stepwrit_broker.policy.guards import PARTS, guards
from stepwrit_broker.policy.reads import Reads, reads
from stepwrit_broker.policy.source import ACTIONS, Rule, policy_set

SLICES_MAX: Final = 512
Values = Sequence[str | None]
_Key = tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Policies that are asked together; equal to itself alone. `reads`: what any of them can read.

    redact: facts that any permit of the action wants left out of what is kept, and so of every refusal.
    """

    rules: tuple[Rule, ...]
    redact: frozenset[str]

    @cached_property
    def all(self) -> cedarpy.PolicySet:
        """Parsed."""
        return _parsed(self.rules)

    @cached_property
    def permits(self) -> cedarpy.PolicySet:
        """The permits alone, parsed."""
        return _parsed(rule for rule in self.rules if rule.effect == "permit")

    @cached_property
    def reads(self) -> Reads:
        """Paths into the context."""
        return reads([rule.est["conditions"] for rule in self.rules])


class Slices:
    """Slices of one policy, each made when it is first asked for; names that no policy has share one."""

    def __init__(self, rules: Collection[Rule], wrong: frozenset[str]) -> None:
        """wrong: ids of rules whose obligations are not known here."""
        self._whole = {
            action: _whole([rule for rule in rules if action in rule.actions], wrong) for action in ACTIONS
        }
        self._named = {
            (action, part): frozenset(
                name for rule in whole.rules if (name := _names(rule, part)) is not None
            )
            for action, whole in self._whole.items()
            for part in ("principal", "resource")
        }
        self._guards = {rule.id: guards(rule.est["conditions"]) for rule in rules}
        self._words = {
            (action, part): frozenset(
                guard.word for rule in whole.rules for guard in self._guards[rule.id] if guard.part == part
            )
            for action, whole in self._whole.items()
            for part in range(len(PARTS))
        }
        self._made: dict[_Key, Slice] = {}

        for whole in self._whole.values():
            _ = whole.all  # a set that does not parse is told now

    def of(self, action: str, principal: str, resource: str, values: Values) -> Slice:
        """The slice for this question; the action's whole once there are SLICES_MAX others.

        values: of the document's PARTS.
        """
        key = (
            action,
            principal if principal in self._named[action, "principal"] else None,
            resource if resource in self._named[action, "resource"] else None,
            *(value if value in self._words[action, part] else None for part, value in enumerate(values)),
        )
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= SLICES_MAX:
                return self._whole[action]
            made = self._made[key] = self._make(action, principal, resource, values)
        return made

    def _make(self, action: str, principal: str, resource: str, values: Values) -> Slice:
        whole = self._whole[action]
        fitting = tuple(
            rule
            for rule in whole.rules
            if _names(rule, "principal") in (None, principal)
            and _names(rule, "resource") in (None, resource)
            and all(guard.lets(values) for guard in self._guards[rule.id])
        )
        return Slice(rules=fitting, redact=whole.redact)


def _whole(rules: list[Rule], wrong: frozenset[str]) -> Slice:
    hides_all = any(rule.id in wrong for rule in rules)
    redact = frozenset({EVERY_FACT}) if hides_all else redacted(o for rule in rules for o in rule.obligations)
    return Slice(rules=tuple(rules), redact=redact)


def _names(rule: Rule, part: str) -> str | None:
    """The one id that the scope names; None where it may be any."""
    scope: Mapping[str, Any] = rule.est[part]
    return str(scope["entity"]["id"]) if scope["op"] == "==" and "entity" in scope else None


def _parsed(rules: Iterable[Rule]) -> cedarpy.PolicySet:
    return policy_set({rule.id: rule.est for rule in rules})
