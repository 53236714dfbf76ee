"""YAML with exactly one meaning, and where each part of it stands.

The JSON subset of YAML 1.2: only `true`, `false`, `null` and decimal numbers are not text, so that `on`,
`no` and `1:30` stay what was written. Anchors, aliases, tags, several documents and a key named twice are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, cast

import yaml
from yaml.events import AliasEvent, Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepwrit_broker.core.errors import Malformed

SIZE_MAX: Final = 4_194_304
DEPTH_MAX: Final = 24
Path = tuple[str | int, ...]
Problem = tuple[Path, str]
_TAG: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A document and the line and column (from 1) of each value and, under the same path, of its key."""

    value: object
    places: dict[Path, tuple[int, int]] = field(repr=False)

    def lines(self, name: str, problems: Iterable[Problem]) -> list[str]:
        """`name:line:column: path: what` for each problem, in the file's order and none twice."""
        placed = sorted({(self._place(path), spell(path), what) for path, what in problems})
        return [f"{name}:{row}:{column}: {path}{what}" for (row, column), path, what in placed]

    def _place(self, path: Path) -> tuple[int, int]:
        """The nearest known place for a path that is not there."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def spell(path: Path) -> str:
    """`entries[2].tools.transfer: `, or nothing for the document itself."""
    text = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).lstrip(".")
    return f"{text}: " if text else ""


class _Loader(yaml.SafeLoader):
    """Composes nodes only; constructs nothing."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  the base class declares it so
    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        peek = cast("Callable[[], Event]", self.peek_event)
        refused = _refused(peek(), self.depth)
        if refused is not None:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=cast("yaml.Mark", peek().start_mark))
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _refused(event: Event, depth: int) -> str | None:
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
        return "anchors and aliases are not taken"
    if getattr(event, "tag", None) is not None:
        return "tags are not taken"
    return "nested too deep" if depth >= DEPTH_MAX else None


for _kind, _pattern, _first in (
    ("null", r"null$", "n"),
    ("bool", r"(?:true|false)$", "tf"),
    ("int", r"-?(?:0|[1-9][0-9]*)$", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+$", "-0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), list(_first))


def read(text: str, name: str) -> Marked:
    """The document of a YAML text. Raises Malformed(`invalid_request`) with file, line and column."""
    if len(text) > SIZE_MAX:
        raise Malformed("invalid_request", f"{name}: longer than {SIZE_MAX} characters")
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as bad:
        raise Malformed("invalid_request", f"{_mark(name, bad)}: {bad.problem or 'not YAML'}") from None
    except yaml.YAMLError:
        raise Malformed("invalid_request", f"{name}: holds characters that YAML does not allow") from None
    if node is None:
        raise Malformed("invalid_request", f"{name}:1:1: the file is empty")
    build = _Build(name)
    value = build.value(node, ())
    if build.problems:
        raise Malformed("invalid_request", "\n".join(build.problems))
    return Marked(value=value, places=build.places)


def _mark(name: str, bad: yaml.MarkedYAMLError) -> str:
    mark = bad.problem_mark or bad.context_mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name


class _Build:
    """Turns nodes into plain values, and notes where they stand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Path, tuple[int, int]] = {}
        self.problems: list[str] = []

    def value(self, node: Node, path: Path) -> object:
        self.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(each, (*path, number)) for number, each in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # noqa: S101  the third and last kind of node
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, object]:
        made: dict[str, object] = {}
        for key, value in node.value:
            word = key.value if isinstance(key, ScalarNode) else None
            if word is None:
                self._refuse(key, "a key must be a word")
            elif word in made:
                self._refuse(key, f"{word!r} is named twice")
            else:
                self.places[(*path, word)] = (key.start_mark.line + 1, key.start_mark.column + 1)
                made[word] = self.value(value, (*path, word))
        return made

    def _refuse(self, node: Node, what: str) -> None:
        mark = node.start_mark
        self.problems.append(f"{self.name}:{mark.line + 1}:{mark.column + 1}: {what}")

    def _scalar(self, node: ScalarNode) -> object:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "int" if len(text) <= 16:
                return int(text)
            case "float" if len(text) <= 32:
                return float(text)
            case "bool":
                return text == "true"
            case "null":
                return None
            case "int" | "float":
                self._refuse(node, "the number is too long; write it as text")
                return 0
            case _:
                return text
