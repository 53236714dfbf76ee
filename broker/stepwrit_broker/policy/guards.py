"""What a condition tests first: whether a rule could apply at all, told without asking Cedar.

Cedar evaluates `when` clauses in order and `&&` from the left, and stops at the first that is false. So where
a rule begins with comparisons of a known part of the context with a word, and one of them is false, the rest
is not evaluated, and cannot err: leaving the rule out changes nothing. Anything else is left to Cedar.
Source: docs.cedarpolicy.com/policies/syntax-operators.html (short-circuit evaluation of `&&`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

PARTS: Final[tuple[tuple[str, ...], ...]] = (("origin",), ("attested_by",), ("action", "impact"))
"""Of few values each, always there where a rule may read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The part at `part` of PARTS must be, or must not be (`negated`), this word."""

    part: int
    word: str
    negated: bool

    def lets(self, values: Sequence[str | None]) -> bool:
        """Whether it is true of these values, in the order of PARTS."""
        return (values[self.part] == self.word) is not self.negated


def values(document: Mapping[str, Any]) -> tuple[str | None, ...]:
    """The values of PARTS in a decision document; None where it has none."""
    return tuple(_value(document, path) for path in PARTS)


def guards(conditions: Sequence[Mapping[str, Any]]) -> tuple[Guard, ...]:
    """Those with which a rule begins: the comparisons on the left of its first `when`."""
    if not conditions or conditions[0]["kind"] != "when":
        return ()
    found: list[Guard] = []
    for term in _terms(conditions[0]["body"]):
        guard = _guard(term)
        if guard is None:
            break
        found.append(guard)
    return tuple(found)


def _terms(body: Any) -> Iterator[Any]:
    """The terms of `a && b && c`, from the left."""
    if isinstance(body, dict) and set(body) == {"&&"}:
        yield from _terms(body["&&"]["left"])
        yield from _terms(body["&&"]["right"])
    else:
        yield body


def _guard(term: Any) -> Guard | None:
    for sign, negated in (("==", False), ("!=", True)):
        if isinstance(term, dict) and set(term) == {sign}:
            left, right = term[sign]["left"], term[sign]["right"]
            path, word = (_path(left), _word(right)) if _word(left) is None else (_path(right), _word(left))
            if path in PARTS and word is not None:
                return Guard(part=PARTS.index(path), word=word, negated=negated)
    return None


def _path(node: Any) -> tuple[str, ...]:
    """Attributes from the context down; empty for anything else."""
    match node:
        case {".": {"left": {"Var": "context"}, "attr": str(name)}}:
            return (name,)
        case {".": {"left": left, "attr": str(name)}} if _path(left):
            return (*_path(left), name)
        case _:
            return ()


def _word(node: Any) -> str | None:
    found = node.get("Value") if isinstance(node, dict) else None
    return found if isinstance(found, str) else None


def _value(document: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    found: Any = document
    for name in path:
        found = None if found is None else found[name]
    return found if isinstance(found, str) else None
