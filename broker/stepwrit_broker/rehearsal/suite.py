"""Scenario files: in which circumstances a policy is to answer what. Read as strictly as registry.yaml.

The shape is docs/reference/schemas/scenarios.schema.json. Every problem is `file:line:column: what`, and a
file with a problem gives no scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.registry import marked, shape
from stepwrit_broker.registry.checks import registry_problems
from stepwrit_broker.registry.document import store
from stepwrit_broker.registry.files import compile_registry, load_registry
from stepwrit_broker.registry.marked import Marked, Problem
from stepwrit_broker.rehearsal.expected import Expected, expected
from stepwrit_broker.rehearsal.given import Wrong, questions

Doc = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question of one scenario, and the answer that is expected. `place`: `file:line`."""

    name: str
    place: str
    question: Question
    expected: Expected


def read_suites(paths: list[Path]) -> list[Case]:
    """The cases of files, and of all `*.yaml` in folders. Raises Malformed that names every problem."""
    cases: list[Case] = []
    problems: list[str] = []
    for path in _files(paths):
        try:
            cases += read_suite(path.read_text(encoding="utf-8"), str(path), path.parent)
        except Malformed as bad:
            problems.append(bad.reason)
        except (OSError, UnicodeDecodeError) as bad:
            problems.append(f"{path}: cannot be read ({type(bad).__name__})")
    if problems:
        raise Malformed("invalid_request", "\n".join(problems))
    return cases


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not inside:
            raise Malformed("invalid_request", f"{path}: there is no *.yaml in this folder")
        found += inside
    return found


def read_suite(text: str, name: str, folder: Path) -> list[Case]:
    """The cases of one file. folder: from where its `registry_file` is found. Raises Malformed."""
    read = marked.read(text, name)
    _refuse(read, name, shape.check("scenarios", read.value))
    doc = cast("Doc", read.value)
    _refuse(read, name, _closing(doc))
    registry = _registry(read, doc, name, folder)
    cases: list[Case] = []
    problems: list[Problem] = []
    for number, scenario in enumerate(doc["scenarios"]):
        try:
            cases += _cases(scenario, doc, registry, _place(read, name, number))
        except Wrong as wrong:
            problems.append((("scenarios", number, *wrong.path), wrong.what))
        except ValueError as bad:
            problems.append((("scenarios", number, "expect", "terms"), str(bad)))
    _refuse(read, name, problems)
    return cases


def _refuse(read: Marked, name: str, problems: list[Problem]) -> None:
    if problems:
        raise Malformed("invalid_request", "\n".join(read.lines(name, problems)))


def _place(read: Marked, name: str, number: int) -> str:
    return f"{name}:{read.places[('scenarios', number)][0]}"


def _closing(doc: Doc) -> list[Problem]:
    """`count` closes the file, and says what a cut-off copy would lose."""
    problems: list[Problem] = []
    if list(doc)[-1] != "count":
        problems.append((("count",), "must be the last line of the file"))
    if doc["count"] != len(doc["scenarios"]):
        problems.append((("count",), f"says {doc['count']}, but there are {len(doc['scenarios'])} scenarios"))
    if ("registry" in doc) == ("registry_file" in doc):
        problems.append(((), "needs either registry or registry_file"))
    return problems + _twice(doc)


def _twice(doc: Doc) -> list[Problem]:
    first: dict[str, int] = {}
    problems: list[Problem] = []
    for number, scenario in enumerate(doc["scenarios"]):
        before = first.setdefault(scenario["name"], number)
        if before != number:
            problems.append((("scenarios", number, "name"), f"is already scenario {before}"))
    return problems


def _registry(read: Marked, doc: Doc, name: str, folder: Path) -> Registry:
    if "registry_file" in doc:
        path = folder / doc["registry_file"]
        try:
            return load_registry(path.read_text(encoding="utf-8"), name=str(path))[1]
        except (OSError, UnicodeDecodeError) as bad:
            _refuse(read, name, [(("registry_file",), f"{path} cannot be read ({type(bad).__name__})")])
    given: Doc = doc["registry"]
    whole = {"version": 1, **given, "count": len(given["entries"])}
    problems = shape.check("registry", whole) or registry_problems(whole)
    _refuse(read, name, [(("registry", *path), what) for path, what in problems])
    return compile_registry(store(whole).doc, 0)


def _cases(scenario: Doc, doc: Doc, registry: Registry, place: str) -> list[Case]:
    given = _merged(doc.get("given", {}), scenario)
    asked = questions(given, registry)
    wanted = expected(scenario["expect"])
    return [
        Case(
            name=scenario["name"],
            place=place,
            question=question,
            expected=wanted,
        )
        for question in asked
    ]


def _merged(common: Mapping[str, Any], scenario: Doc) -> Doc:
    """What holds for the scenario: its own, over the file's without what it takes away."""
    own: Doc = scenario.get("given", {})
    kept = {key: value for key, value in common.items() if key not in scenario.get("without", ())}
    merged = {**kept, **own}
    if "action" in kept and "action" in own:
        merged["action"] = {**kept["action"], **own["action"]}
    return merged
