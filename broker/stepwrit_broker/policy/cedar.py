"""The embedded policy engine: Cedar. Parsed once, sliced by scope, and silent means no.

A permit permits; a forbid forbids, unless every forbid that applies asks for approval and a permit would
apply without them. A verdict is kept only under everything it was decided on: the rules that were
asked, the principal, the resource, and every path of the document that one of them reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import cedarpy
import msgspec

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.obligations import strictest
from stepwrit_broker.core.terms import together
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.policy.demands import SILENT, UNKNOWN, undeclared
from stepwrit_broker.policy.facts import MISFIT, Facts
from stepwrit_broker.policy.guards import values
from stepwrit_broker.policy.reads import project
from stepwrit_broker.policy.slices import Slice, Slices
from stepwrit_broker.policy.source import Rule

_NOBODY: Final = cedarpy.Entities.from_json_str("[]")
KEPT_MAX: Final = 4096
_to_json = msgspec.json.Encoder().encode


class CedarEngine:
    """A PolicyEngine over checked rules. `facts`: the declared facts and their Cedar types.

    Facts that are not declared are not shown to policy; a declared one of another type is a denial, because
    a rule about it would not have been asked.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        facts: Mapping[str, str],
        version: int,
    ) -> None:
        self._rules = {rule.id: rule for rule in rules}
        self._facts = Facts(facts)
        self._version = version
        self._wrong = frozenset(
            rule.id for rule in self._rules.values() if rule.misstated or undeclared(rule.obligations, facts)
        )
        self._slices = Slices(self._rules.values(), self._wrong)
        self._kept: OrderedDict[tuple[Slice, bool, str, str, str], Verdict] = OrderedDict()

    @property
    def version(self) -> int:
        """The version in force."""
        return self._version

    async def decide(self, question: Question) -> Verdict:
        """The verdict. Raises Unavailable(rule="policy") when Cedar cannot be asked."""
        part = self._slices.of(
            question.asking, question.principal, question.resource, values(question.document)
        )
        request = self._request(question, part)
        if request is None:
            return Deny(policies=(), reason=MISFIT, redact=part.redact)
        approved = question.document["approval"] is not None
        key = (part, approved, question.principal, question.resource, str(request["context"]))
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._decided(part, request, approved)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return kept

    def _decided(self, part: Slice, request: dict[str, Any], approved: bool) -> Verdict:
        decision, reasons = _ask(request, part.all)
        if decision == "allow":
            return self._permit(reasons, part)
        if decision == "deny" and reasons:
            return self._forbidden(reasons, request, part, approved)
        return Deny(policies=reasons, reason=SILENT, redact=part.redact)

    def _permit(self, reasons: tuple[str, ...], part: Slice) -> Permit | Deny:
        """All that the permits which apply demand. One that demands what is not known here denies."""
        wrong = tuple(each for each in reasons if each in self._wrong)
        if wrong:
            return Deny(policies=wrong, reason=UNKNOWN, redact=part.redact)
        demanded = (each for reason in reasons for each in self._rules[reason].obligations)
        return Permit(policies=reasons, obligations=strictest(demanded))

    def _forbidden(
        self, reasons: tuple[str, ...], request: dict[str, Any], part: Slice, approved: bool
    ) -> Verdict:
        """approved: the broker found that the terms are met, so a rule that asks for them stops nothing."""
        hard = tuple(each for each in reasons if self._rules[each].terms is None)
        if hard:
            return Deny(policies=hard, reason=self._rules[hard[0]].reason, redact=part.redact)
        decision, permits = _ask(request, part.permits)
        if decision != "allow":
            return Deny(policies=(), reason=SILENT, redact=part.redact)
        permitted = self._permit(permits, part)
        if approved or isinstance(permitted, Deny):
            return permitted
        return NeedsApproval(
            policies=reasons,
            setting=self._rules[reasons[0]].setting,
            terms=together(each for rule in reasons if (each := self._rules[rule].terms) is not None),
            obligations=permitted.obligations,
        )

    def _request(self, question: Question, part: Slice) -> dict[str, Any] | None:
        document = question.document
        facts = self._facts.shown(cast("Mapping[str, object]", document["facts"]))
        if facts is None:
            return None
        kind = "Intent" if question.asking == "start_intent" else "Tool"
        return {
            "principal": {"type": "Stepwrit::Workload", "id": question.principal},
            "action": {"type": "Stepwrit::Action", "id": question.asking},
            "resource": {"type": f"Stepwrit::{kind}", "id": question.resource},
            "context": _to_json(project(_context(document, facts), part.reads)).decode(),
        }


def _ask(request: dict[str, Any], policies: cedarpy.PolicySet) -> tuple[str, tuple[str, ...]]:
    """`allow`, `deny` or `doubt`, and the determining ids. An evaluation error is doubt."""
    try:
        result = cedarpy.is_authorized(request, policies, _NOBODY)
        decision, found = result.decision, result.diagnostics
    except (ValueError, TypeError, KeyError) as bad:
        raise Unavailable("unavailable", "the policy engine could not be asked", rule="policy") from bad
    if found.errors or decision is cedarpy.Decision.NoDecision:
        return "doubt", ()
    return decision.value.lower(), tuple(sorted(found.reasons))


_PLAIN: Final = ("attested_by", "home", "tenant", "origin", "depth", "deferred", "now", "ceiling", "budgets")
_OPTIONAL: Final = ("requester", "owner", "proof", "approval", "workflow", "audience")


def _context(document: Mapping[str, Any], facts: Mapping[str, object]) -> dict[str, object]:
    """The document as Cedar sees it: no nulls, and sets of words where it has lists of records."""
    context: dict[str, object] = {name: document[name] for name in _PLAIN}
    context.update({name: document[name] for name in _OPTIONAL if document[name] is not None})
    context["initiator"] = _without_nulls(document["initiator"])
    context["performer"] = _without_nulls(document["performer"])
    if document["redeemer"] is not None:
        context["redeemer"] = _without_nulls(document["redeemer"])
    if document["action"] is not None:
        context["action"] = _without_nulls(document["action"])
        context["facts"] = facts
        context["chain"] = _chain(document["chain"])
        if document["influence"] is not None:
            context["influence"] = _influence(document["influence"])
        context["plan"] = _plan(document["plan"])
    return context


def _without_nulls(record: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if value is not None}


def _chain(hops: list[Mapping[str, object]]) -> dict[str, object]:
    return {
        "performers": [hop["performer"] for hop in hops],
        "tools": [hop["tool"] for hop in hops if hop["tool"] is not None],
        "origins": [hop["origin"] for hop in hops],
    }


def _influence(steps: list[Mapping[str, Any]]) -> dict[str, object]:
    """Sets in one order, so that the same steps are the same question."""
    known = {
        name: sorted({step[word] for step in steps})
        for name, word in (
            ("tools", "tool"),
            ("servers", "server"),
            ("impacts", "impact"),
            ("origins", "origin"),
            ("returns", "returns"),
        )
    }
    return {**known, "untrusted": sorted({each["tool"] for each in steps if each["returns"] == "untrusted"})}


def _plan(lines: list[Mapping[str, object]]) -> dict[str, object]:
    return {
        "audiences": [line["at"] for line in lines],
        "requests": [f"{line['method']} {line['path']}" for line in lines],
    }
