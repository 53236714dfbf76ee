"""Which parts of the context a rule can read, from its parsed form; the rest need not be handed to Cedar.

Cedar has no way to list attributes: an expression reaches the context only through `context.a`,
`context has a`, or as a whole. Anything but the first two counts as reading everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

Reads = frozenset[tuple[str, ...]]
EVERYTHING: Final[tuple[str, ...]] = ()
_CONTEXT: Final = {"Var": "context"}


def reads(conditions: object) -> Reads:
    """Paths of one or two names; `(a, "")` asks only for presence; the empty path is the whole context."""
    return frozenset(_walk(conditions))


def project(context: Mapping[str, object], wanted: Reads) -> dict[str, object]:
    """The parts of the context that `wanted` names."""
    if EVERYTHING in wanted:
        return dict(context)
    tops = {path[0] for path in wanted}
    return {name: _part(context[name], name, wanted) for name in tops if name in context}


def _part(value: object, name: str, wanted: Reads) -> object:
    if not isinstance(value, dict) or (name,) in wanted:
        return value
    return {inner: each for inner, each in value.items() if (name, inner) in wanted}


def _walk(node: object) -> Iterable[tuple[str, ...]]:
    path = _path(node)
    if path is not None:
        yield path[:2]
    elif isinstance(node, dict):
        for each in node.values():
            yield from _walk(each)
    elif isinstance(node, list):
        for each in node:
            yield from _walk(each)


def _path(node: object) -> tuple[str, ...] | None:
    """The attributes that lead from the context to this node; None when it does not start there."""
    if node == _CONTEXT:
        return EVERYTHING
    match node:
        case {".": {"left": left, "attr": str(name)}}:
            below = _path(left)
            return None if below is None else (*below, name)
        case {"has": {"left": left, "attr": str(name)}}:
            below = _path(left)
            return None if below is None else (*below, name, "")
        case _:
            return None
