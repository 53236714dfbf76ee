"""Policy as files: a folder of `*.cedar` or of `*.rego`, and optionally `facts.json`, becomes one document.

The document is canonical JSON (RFC 8785): `{"v": 1, "files": {name: text}, "facts": {name: type}}`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal, cast

import cedarpy

from stepwrit.digest import DigestError, b64u, canonical, parse_json
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.policy import rego
from stepwrit_broker.policy.cedar import CedarEngine
from stepwrit_broker.policy.facts import FACT_TYPES
from stepwrit_broker.policy.opa import Opa, OpaEngine
from stepwrit_broker.policy.source import Rule, misstatements, parse, refuse, validate

SIZE_MAX: Final = 1_048_576
_FACT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
STANCES: Final = ("approval", "low-risk", "workflow")
EngineName = Literal["cedar", "opa"]
SUFFIXES: Final[dict[EngineName, str]] = {"cedar": ".cedar", "opa": ".rego"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDoc:
    """A checked policy. `doc`: canonical JSON; `digest`: `sha256-` and base64url of its SHA-256."""

    doc: str
    digest: str


def load_folder(folder: Path) -> PolicyDoc:
    """The policy in a folder. Raises Malformed naming every problem with file and line."""
    return load(read_folder(folder))


def read_folder(folder: Path) -> dict[str, str]:
    """The texts of a policy folder by name, unchecked but bounded. Raises Malformed."""
    try:
        texts = [each for suffix in SUFFIXES.values() for each in sorted(folder.glob(f"*{suffix}"))]
        found = [*texts, *folder.glob("facts.json")]
        if sum(path.stat().st_size for path in found) > SIZE_MAX:
            raise Malformed("invalid_request", f"{folder.name}: more than {SIZE_MAX} bytes of policy")
        return {path.name: path.read_text(encoding="utf-8") for path in found}
    except (OSError, UnicodeDecodeError) as bad:
        raise Malformed("invalid_request", f"{folder.name}: cannot be read ({type(bad).__name__})") from bad


def load(files: Mapping[str, str]) -> PolicyDoc:
    """The policy of these texts by name. Raises Malformed as `load_folder` does.

    Of Rego only what shows without OPA: the engine's `prove` says the rest.
    """
    sources = {name: text for name, text in files.items() if name != "facts.json"}
    facts = _facts(files.get("facts.json", "{}"))
    if engine_of(sources) == "opa":
        refuse(rego.problems(sources), "the policy was not loaded")
    else:
        refuse(misstatements(_rules(sources, facts), facts), "the policy was not loaded")
    doc = canonical({"v": 1, "files": sources, "facts": facts}).decode()
    return PolicyDoc(doc=doc, digest=f"sha256-{b64u(hashlib.sha256(doc.encode()).digest())}")


def engine_of(sources: Mapping[str, str]) -> EngineName:
    """Which engine these files are for. Raises Malformed when they are for two."""
    found: list[EngineName] = [
        name for name, suffix in SUFFIXES.items() if any(file.endswith(suffix) for file in sources)
    ]
    if len(found) > 1:
        raise Malformed("invalid_request", "the policy was not loaded: Cedar and Rego files in one folder")
    return found[0] if found else "cedar"


def compile_policy(doc: str, version: int, opa: Opa | None = None) -> CedarEngine | OpaEngine:
    """The engine of a stored document. Raises Malformed when it does not fit (any more)."""
    sources, facts = _parts(doc)
    if engine_of(sources) == "opa":
        return OpaEngine(opa, rego.module(sources), facts, version)
    return CedarEngine(_rules(sources, facts), facts, version)


def _parts(doc: str) -> tuple[dict[str, str], dict[str, str]]:
    try:
        read = cast("dict[str, dict[str, str]]", json.loads(doc))
        return read["files"], read["facts"]
    except (ValueError, KeyError, TypeError) as bad:
        raise Malformed("invalid_request", "not a policy document") from bad


def stance(name: str, engine: EngineName = "cedar") -> dict[str, str]:
    """The shipped files of a stance by name. Raises Malformed for one that is not shipped."""
    if name not in STANCES:
        raise Malformed("invalid_request", f"no such stance; there are {', '.join(STANCES)}")
    folder = resources.files("stepwrit_broker.policy").joinpath("stances", name)
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(SUFFIXES[engine])
    }


def schema_text(facts: Mapping[str, str]) -> str:
    """The Cedar schema with these facts declared, each optional."""
    shipped = (
        resources.files("stepwrit_broker.policy").joinpath("stepwrit.cedarschema").read_text(encoding="utf-8")
    )
    declared = ", ".join(f"{name}?: {kind}" for name, kind in sorted(facts.items()))
    return shipped.replace("type Facts = {};", f"type Facts = {{ {declared} }};")


def _facts(text: str) -> dict[str, str]:
    try:
        read = parse_json(text)
    except DigestError as bad:
        raise Malformed("invalid_request", f"facts.json: {bad}") from bad
    if not isinstance(read, dict):
        raise Malformed("invalid_request", "facts.json: must be an object of name and type")
    problems = [
        f"facts.json: {name}: must be a-z 0-9 _ and one of {', '.join(FACT_TYPES)}"
        for name, kind in read.items()
        if not _FACT.fullmatch(name) or kind not in FACT_TYPES
    ]
    refuse(problems, "the policy was not loaded")
    return cast("dict[str, str]", read)


def _rules(sources: Mapping[str, str], facts: Mapping[str, str]) -> list[Rule]:
    rules: list[Rule] = []
    problems: list[str] = []
    for name in sorted(sources):
        good, bad = parse(sources[name], name)
        rules += good
        problems += bad
    problems += _twice(rules) + validate(rules, cedarpy.Schema.from_str(schema_text(facts)))
    refuse(problems, "the policy was not loaded")
    if not any(rule.effect == "permit" for rule in rules):
        raise Malformed("invalid_request", "the policy was not loaded: it is empty, or permits nothing")
    return rules


def _twice(rules: list[Rule]) -> list[str]:
    first: dict[str, str] = {}
    problems: list[str] = []
    for rule in rules:
        if rule.id in first:
            problems.append(f'{rule.where}: @id("{rule.id}") is also at {first[rule.id]}')
        first.setdefault(rule.id, rule.where)
    return problems
