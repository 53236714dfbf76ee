"""The operator's documents, for people and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stepwrit_broker.cli.output import print_pairs, print_table, say
from stepwrit_broker.core.versions import VersionKind

Doc = Mapping[str, Any]


def summary(kind: VersionKind, doc: Doc) -> None:
    """Print a document in short."""
    {"registry": _registry, "limits": _limits, "policy": _policy}[kind](doc)


def as_file(kind: VersionKind, doc: Doc) -> str:
    """The text that `apply` takes; a policy's files one after another."""
    if kind == "policy":
        return "\n".join(f"{_comment(name)} --- {name}\n{text}" for name, text in _policy_files(doc).items())
    ordered = {name: doc[name] for name in _ORDER if name in doc}
    rest = {name: value for name, value in doc.items() if name not in (*ordered, "count")}
    whole = {**ordered, **rest, "count": doc["count"]}  # the last line, so that a cut-off file is seen
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110)
    return text


def files_of(kind: VersionKind, doc: Doc, to: Path) -> Mapping[Path, str]:
    """What to write where."""
    if kind != "policy":
        return {to: as_file(kind, doc)}
    return {to / name: text for name, text in _policy_files(doc).items()}


_ORDER = ("version", "tenant", "entries", "rates", "concurrency", "transaction", "life")


def _registry(doc: Doc) -> None:
    rows = [(each["name"], each["role"], each["id"], _grants(each)) for each in doc["entries"]]
    print_table(("name", "role", "SPIFFE ID", "what"), rows, empty="nobody is registered")


def _grants(entry: Doc) -> str:
    said: list[str] = []
    tools: Mapping[str, Doc] = entry.get("tools") or {}
    if tools:
        said.append("has " + ", ".join(f"{name} ({tool['impact']})" for name, tool in tools.items()))
    if entry.get("audience"):
        said.append(f"redeems for {entry['audience']}")
    if entry.get("may_start"):
        start = entry["may_start"]
        said.append(f"may start {', '.join(start['tools'])} up to {start['impact']}")
    if entry.get("may_ask"):
        said.append(f"may ask about {', '.join(entry['may_ask'])}")
    return "; ".join(said)


def _limits(doc: Doc) -> None:
    rows = [
        (each["name"], each["rate"], each["burst"], each["on"], ", ".join(each["per"]) or "all", _match(each))
        for each in doc["rates"]
    ]
    print_table(
        ("limit", "rate", "burst", "on", "for each", "only where"), rows, empty="no rate: nothing is issued"
    )
    bounds = {
        f"at most {each['max']} at once": f"{each['name']}, for each {', '.join(each['per']) or 'all'}"
        for each in doc.get("concurrency") or ()
    }
    transaction = ", ".join(f"{name} {most}" for name, most in doc["transaction"].items())
    life = ", ".join(f"{name} {most}" for name, most in (doc.get("life") or {}).items())
    say("")
    print_pairs({**bounds, "in a transaction": transaction, "lives": life or "as shipped"})


def _match(limit: Doc) -> str:
    return ", ".join(f"{name} is {value}" for name, value in (limit.get("match") or {}).items())


def _policy(doc: Doc) -> None:
    for name, text in _policy_files(doc).items():
        say(f"{_comment(name)} --- {name}", style="bold")
        say(text.rstrip())


def _comment(name: str) -> str:
    return "#" if name.endswith(".rego") else "//"


def _policy_files(doc: Doc) -> dict[str, str]:
    files = dict(sorted(doc["files"].items()))
    if doc.get("facts"):
        files["facts.json"] = json.dumps(doc["facts"], indent=2) + "\n"
    return files
