"""TOML tables and environment variables into frozen dataclasses, strictly, noting every problem.

A field is `Annotated[type, Means(…)]` (one setting), a dataclass (a table) or a tuple of one of these.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
PREFIX: Final = "STEPWRIT_"
_WANTED: Final[dict[object, tuple[type | tuple[type, ...], str]]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a setting means, in which unit, the smallest number that is taken, and what it might be."""

    text: str
    unit: str = ""
    least: float | None = None
    example: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a table: `kind` without its annotation; `means` None for a table or a list of tables."""

    name: str
    kind: Any
    means: Means | None
    default: object
    is_needed: bool


@functools.cache
def settings(kind: type) -> tuple[Setting, ...]:
    """The settings of a dataclass, in order."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_setting(each, hints[each.name]) for each in dataclasses.fields(kind))


def _setting(each: dataclasses.Field[Any], hint: Any) -> Setting:
    means: Means | None = None
    if get_origin(hint) is Annotated:
        hint, means = get_args(hint)
    is_needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    return Setting(name=each.name, kind=hint, means=means, default=each.default, is_needed=is_needed)


def sections(kind: type) -> dict[str, type]:
    """The plain tables of a dataclass by name, itself under the empty name."""
    inner = {each.name: each.kind for each in settings(kind) if dataclasses.is_dataclass(each.kind)}
    return {"": kind, **cast("dict[str, type]", inner)}


def variables(kind: type) -> Iterator[tuple[str, str, Setting]]:
    """Each setting that the environment can give: variable, section, setting."""
    for section, inner in sections(kind).items():
        for each in settings(inner):
            if each.means is not None:
                yield PREFIX + (f"{section}_{each.name}" if section else each.name).upper(), section, each


def overlay(kind: type, table: dict[str, Any], env: Mapping[str, str], problems: list[str]) -> None:
    """The environment's words into the table, as if the file had said them."""
    known = {variable: (section, each) for variable, section, each in variables(kind)}
    mine = tuple(f"{PREFIX}{section.upper()}_" for section in sections(kind) if section)
    for name, text in env.items():
        if name in known:
            section, each = known[name]
            into = table.setdefault(section, {}) if section else table
            if isinstance(into, dict):
                into[each.name] = _from_env(each.kind, text)
        elif name.startswith(mine):
            problems.append(f"environment {name}: is not known{near(name, known)}")


def _from_env(kind: Any, text: str) -> object:
    """A list is comma-separated; a text that is no number stays text and is refused as such."""
    if get_origin(kind) is tuple:
        return [_from_env(get_args(kind)[0], part.strip()) for part in text.split(",") if part.strip()]
    try:
        return kind(text) if kind is int or kind is float else text
    except ValueError:
        return text


def near(name: str, known: Mapping[str, object]) -> str:
    """`; did you mean …?`, or all that there may be."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else f"; there may be {', '.join(known)}"


class Reader:
    """Tables to keyword arguments. Relative paths are taken from `folder`."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        self._folder = folder
        self._problems = problems

    def table(self, kind: type, table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        """The arguments of `kind`; what is wrong is noted, and then they may be incomplete."""
        fields = {each.name: each for each in settings(kind)}
        self._problems += [
            f"{path}{key}: is not known{near(key, fields)}" for key in table if key not in fields
        ]
        made: dict[str, Any] = {}
        for name, each in fields.items():
            if table.get(name) == "" and each.default == Path():
                made[name] = Path()
            elif name in table or dataclasses.is_dataclass(each.kind):
                made[name] = self._value(each.kind, table.get(name, {}), f"{path}{name}", each.means)
            elif isinstance(each.default, Path) and each.default != Path():
                made[name] = self._folder / each.default
            elif each.is_needed:
                self._problems.append(f"{path}{name}: is needed")
        return made

    def _value(self, kind: Any, value: object, path: str, means: Means | None) -> object:
        if get_origin(kind) is tuple:
            found: list[object] = value if isinstance(value, list) else self._wrong(path, "a list", [])
            return tuple(
                self._value(get_args(kind)[0], each, f"{path}[{at}]", means) for at, each in enumerate(found)
            )
        if dataclasses.is_dataclass(kind):
            inner: dict[str, Any] = value if isinstance(value, dict) else self._wrong(path, "a table", {})
            read = self.table(cast("type", kind), inner, f"{path}.")
            return None if self._problems else cast("type", kind)(**read)
        return self._plain(kind, value, path, None if means is None else means.least)

    def _plain(self, kind: Any, value: object, path: str, least: float | None) -> object:
        if get_origin(kind) is Literal:
            words = get_args(kind)
            return value if value in words else self._wrong(path, f"one of {', '.join(words)}", words[0])
        if kind is Path:
            return (
                self._folder / value
                if isinstance(value, str) and value
                else self._wrong(path, "a path", Path())
            )
        types, wanted = _WANTED[kind]
        if not isinstance(value, types) or isinstance(value, bool):
            return self._wrong(path, wanted, "")
        if least is not None and isinstance(value, int | float) and not value >= least:
            return self._wrong(path, f"at least {least:g}", 0)
        return value

    def _wrong(self, path: str, wanted: str, instead: T) -> T:
        self._problems.append(f"{path}: must be {wanted}")
        return instead
