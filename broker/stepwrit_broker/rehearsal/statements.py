"""What changes between two policy documents: statements by their id, facts, and files of other languages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.policy.source import parse

How = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A statement, a fact or a whole file. `meaning`: what is compared; `text`: what is shown."""

    where: str
    meaning: object
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One part that is not the same. `was` and `now`: its text, empty where it is not there."""

    name: str
    how: How
    was: str
    now: str
    was_at: str
    now_at: str


def differences(old: str, new: str) -> list[Difference]:
    """What changes from one canonical document to another, by name. Moved and reformatted is unchanged.

    Raises Malformed for what is no policy document.
    """
    before, after = parts(old), parts(new)
    return [
        _difference(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if _meaning(before.get(name)) != _meaning(after.get(name))
    ]


def parts(doc: str) -> dict[str, Part]:
    """A document's parts by name: a statement's id, `fact NAME`, `file NAME`. Raises Malformed."""
    try:
        read: dict[str, Mapping[str, str]] = json.loads(doc)
        files, facts = read["files"], read.get("facts", {})
    except (ValueError, KeyError, TypeError) as bad:
        raise Malformed("invalid_request", "not a policy document") from bad
    found: dict[str, Part] = {}
    for name, text in files.items():
        found.update(_of_file(name, text))
    for name, kind in facts.items():
        found[f"fact {name}"] = Part(where="facts.json", meaning=kind, text=f"{name}: {kind}")
    return found


def _of_file(name: str, text: str) -> dict[str, Part]:
    if not name.endswith(".cedar"):
        return {f"file {name}": Part(where=name, meaning=text, text=text)}
    rules, problems = parse(text, name)
    if problems:
        raise Malformed("invalid_request", "\n".join(problems))
    return {rule.id: Part(where=rule.where, meaning=rule.est, text=rule.text) for rule in rules}


def _meaning(part: Part | None) -> object:
    return None if part is None else part.meaning


def _difference(name: str, was: Part | None, now: Part | None) -> Difference:
    return Difference(
        name=name,
        how="added" if was is None else "removed" if now is None else "changed",
        was=was.text if was else "",
        now=now.text if now else "",
        was_at=was.where if was else "",
        now_at=now.where if now else "",
    )
