"""Cedar text taken apart: one statement at a time, each with its line, its annotations and its action scope.

The Cedar parser tells what is wrong but not where, so each statement is parsed alone.
Grammar: docs.cedarpolicy.com/policies/syntax-grammar.html (comments are `//` only, a statement ends in `;`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.obligations import Obligation
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.policy.demands import annotated, demanded, undeclared

ACTIONS: Final = ("start_intent", "open_step", "issue_credential")
_DEMANDS: Final = frozenset({"approvers", "signatures", "requester"})
_ANNOTATIONS: Final = frozenset({"id", "verdict", "setting", "reason", "obligation"}) | _DEMANDS
_STATEMENT_MAX: Final = 16_384
_NESTING_MAX: Final = 64
_LONG_PATH: Final = re.compile(r"(?:\.\s*\w+\s*){17}")
ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SENTENCE: Final = re.compile(r"[A-Za-z0-9 ,.:'()/%_-]{1,160}")
_PIECE: Final = re.compile(r'"(?:\\.|[^"\\])*"?|//[^\n]*|;|\n|[^"/;\n]+|/', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One statement. `where`: file and line. `est`: its JSON form, which the engine loads. `terms`: of the
    approval that it demands; None where it demands none. `misstated`: what is wrong with its obligations.
    """

    id: str
    effect: str
    actions: frozenset[str]
    where: str
    text: str
    est: dict[str, Any]
    terms: Terms | None
    setting: str
    reason: str
    obligations: tuple[Obligation, ...]
    misstated: str | None


def parse(text: str, name: str) -> tuple[list[Rule], list[str]]:
    """The rules of one file and what is wrong with it, each problem as `file:line: what`."""
    rules: list[Rule] = []
    problems: list[str] = []
    for line, statement in statements(text):
        try:
            rules.append(_rule(statement, f"{name}:{line}"))
        except ValueError as bad:
            problems.append(f"{name}:{line}: {bad}")
    return rules, problems


def statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement and the line (from 1) on which it starts; the rest without `;` counts as one."""
    line, start, parts = 1, 0, list[str]()
    for piece in _PIECE.findall(text):
        if not start and piece.strip() and not piece.startswith("//"):
            start = line
        if start:
            parts.append(piece)
        if piece == ";" and start:
            yield start, "".join(parts)
            start, parts = 0, []
        line += piece.count("\n")
    if start:
        yield start, "".join(parts)


def _rule(statement: str, where: str) -> Rule:
    est = _parsed(statement)
    notes = _annotations(est)
    terms = _terms(est, notes)
    obligations, misstated = _obligations(notes)
    return Rule(
        id=_name(notes),
        effect=est["effect"],
        actions=_actions(est["action"]),
        where=where,
        text=statement,
        est=est,
        terms=terms,
        setting=notes.get("setting", ""),
        reason=notes.get("reason", "a policy forbids this"),
        obligations=obligations,
        misstated=misstated,
    )


def _obligations(notes: dict[str, str]) -> tuple[tuple[Obligation, ...], str | None]:
    """A stored policy with one of a later release still loads: its permits deny. A file does not."""
    if "obligation" not in notes:
        return (), None
    try:
        return annotated(_name(notes), notes["obligation"]), None
    except ValueError as bad:
        return (), str(bad)


def misstatements(rules: Iterable[Rule], facts: Container[str]) -> list[str]:
    """What is wrong with the obligations of a file's rules, each problem as `file:line: what`."""
    return [f"{rule.where}: {what}" for rule in rules if (what := _misstatement(rule, facts)) is not None]


def _misstatement(rule: Rule, facts: Container[str]) -> str | None:
    if rule.misstated is not None:
        return rule.misstated
    if rule.obligations and rule.effect != "permit":
        return "@obligation is for a permit"
    if rule.actions == frozenset(["issue_credential"]) and any(
        each.name == "fan_out" for each in rule.obligations
    ):
        return (
            "obligation fan_out: for start_intent or open_step; what a step may start is said as it is opened"
        )
    missing = undeclared(rule.obligations, facts)
    return None if missing is None else f"obligation redact: {missing} is not declared in facts.json"


def policy_set(policies: dict[str, dict[str, Any]]) -> cedarpy.PolicySet:
    """Policies by id in their JSON form, ready to be asked. Raises ValueError."""
    whole = {"templates": {}, "staticPolicies": policies, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(whole))


def _parsed(statement: str) -> dict[str, Any]:
    _refuse_unbounded(statement)
    try:
        est = _only(json.loads(cedarpy.policies_to_json_str(statement)))
        policy_set({"one": est})
    except RecursionError:
        raise ValueError("nested too deep") from None
    return est


def _refuse_unbounded(statement: str) -> None:
    """Cedar parses on the native stack and multiplies `has a.b.c`: without bounds a file ends the process."""
    pieces = _PIECE.findall(statement)
    code = "".join(each for each in pieces if not each.startswith(('"', "//")))
    depth = deepest = 0
    for char in code:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if len(statement) > _STATEMENT_MAX or deepest > _NESTING_MAX or _LONG_PATH.search(code):
        raise ValueError(f"longer than {_STATEMENT_MAX} characters, or nested deeper than {_NESTING_MAX}")


def _only(found: dict[str, Any]) -> dict[str, Any]:
    if found["templates"] or len(found["staticPolicies"]) != 1:
        raise ValueError("a template, not a policy")
    only: dict[str, Any] = next(iter(found["staticPolicies"].values()))
    return only


def _annotations(est: dict[str, Any]) -> dict[str, str]:
    notes = {key: value or "" for key, value in est.get("annotations", {}).items()}
    unknown = sorted(notes.keys() - _ANNOTATIONS)
    if unknown:
        raise ValueError(f"unknown annotation @{unknown[0]}; known are {', '.join(sorted(_ANNOTATIONS))}")
    for key in ("setting", "reason"):
        if key in notes and not SENTENCE.fullmatch(notes[key]):
            raise ValueError(f"@{key}: one plain sentence of at most 160 letters")
    return notes


def _name(notes: dict[str, str]) -> str:
    if not ID.fullmatch(notes.get("id", "")):
        raise ValueError('every policy needs an @id("…") of a-z 0-9 . _ -')
    return notes["id"]


def _terms(est: dict[str, Any], notes: dict[str, str]) -> Terms | None:
    verdict, demands = notes.get("verdict"), _DEMANDS & notes.keys()
    if verdict is None and demands:
        raise ValueError(f'@{min(demands)} is for a forbid with @verdict("needs_approval")')
    if verdict is None:
        return None
    if verdict != "needs_approval" or est["effect"] != "forbid" or "setting" not in notes:
        raise ValueError('@verdict may only be "needs_approval", on a forbid, together with @setting')
    return demanded(notes.get("signatures"), notes.get("approvers"), notes.get("requester"))


def _actions(scope: dict[str, Any]) -> frozenset[str]:
    """Which actions the scope names. Actions that do not exist are the schema validation's to refuse."""
    if scope["op"] == "All":
        return frozenset(ACTIONS)
    named = scope["entities"] if "entities" in scope else [scope["entity"]]
    return frozenset(each["id"] for each in named)


def validate(rules: list[Rule], schema: cedarpy.Schema) -> list[str]:
    """What the schema says against the rules, each problem as `file:line: what`."""
    result = cedarpy.validate_policies("\n".join(rule.text for rule in rules), schema)
    problems: list[str] = []
    for error in result.errors:
        place, what = _placed(rules, error)
        problems.append(f"{place}: {what}")
    if not result.validation_passed and not problems:
        problems.append("the policies do not fit the schema")
    return list(dict.fromkeys(problems))


def _placed(rules: list[Rule], error: cedarpy.ValidationError) -> tuple[str, str]:
    number = error.policy_id.removeprefix("policy")
    if not number.isdigit() or int(number) >= len(rules):
        return "policy", error.error
    rule = rules[int(number)]
    return rule.where, f"{rule.id}: {error.error.removeprefix(f'for policy `{error.policy_id}`, ')}"


def refuse(problems: list[str], what: str) -> None:
    """Raises Malformed(`invalid_request`) that names every problem, one a line."""
    if problems:
        raise Malformed("invalid_request", f"{what}:\n" + "\n".join(problems))
