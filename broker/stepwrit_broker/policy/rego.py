"""Rego files taken together: one module, named by the digest of its text, so that versions live side by side.

All files go into one module because OPA takes modules one at a time: of several, the one that is missing
could be the one that forbids. Lines keep their places: what OPA says of the module is told of
the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

PACKAGE: Final = "stepwrit"
ANSWER: Final = "stepwrit_answer"
FILES: Final = "stepwrit_files"
FORBIDDEN: Final = frozenset(
    {"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "time.now_ns", "uuid.rfc4122"}
)
_PACKAGE_LINE: Final = re.compile(r"package\s+stepwrit\s*(#.*)?")
_IMPORT: Final = re.compile(r"import\s+(rego\.v1|future\.keywords(\.\w+)?)\s*(#.*)?")
_TAIL: Final = f"""
permit contains "" if false
forbid contains {{}} if false
needs_approval contains {{}} if false
obligation contains {{}} if false
{ANSWER} := {{
  "permit": permit,
  "forbid": forbid,
  "needs_approval": needs_approval,
  "obligation": obligation,
  "files": {FILES},
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoModule:
    """One policy as OPA gets it. `files`: their names in order; `starts`: the line on which each begins."""

    name: str
    text: str
    files: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def path(self) -> str:
        """Of its answer, below /v1/data."""
        return f"{PACKAGE}/{self.name}/{ANSWER}"

    @property
    def id(self) -> str:
        """Of the module, below /v1/policies."""
        return f"{PACKAGE}/{self.name}"

    def place(self, row: int) -> str:
        """`file:line` of a row (from 1) of the module."""
        at = bisect_right(self.starts, row) - 1
        return "policy" if at < 0 else f"{self.files[at]}:{row - self.starts[at] + 1}"

    def find(self, word: str) -> str:
        """`file:line` of the first line that has the word; `policy` where none has."""
        rows = (row for row, line in enumerate(self.text.splitlines(), 1) if word in line.partition("#")[0])
        row = next(rows, 0)
        return self.place(row) if row else "policy"


def module(sources: Mapping[str, str]) -> RegoModule:
    """The module of these files by name. What `problems` finds must be right before."""
    lines, starts, names = [f"package {PACKAGE}"], list[int](), sorted(sources)
    for name in names:
        starts.append(len(lines) + 1)
        lines += _body(sources[name])
        lines.append(f"{FILES} contains {json.dumps(name)} if true")
    text = "\n".join(lines) + _TAIL
    digest = f"v{hashlib.sha256(text.encode()).hexdigest()}"
    named = text.replace(f"package {PACKAGE}", f"package {PACKAGE}.{digest}", 1)
    return RegoModule(name=digest, text=named, files=tuple(names), starts=tuple(starts))


def problems(sources: Mapping[str, str]) -> list[str]:
    """What can be said of the files without OPA, each as `file:line: what`."""
    return [each for name in sorted(sources) for each in _problems(name, sources[name])]


def _problems(name: str, text: str) -> Iterator[str]:
    first = next((at for at, line in enumerate(text.split("\n")) if _says(line)), 0)
    if not _PACKAGE_LINE.fullmatch(text.split("\n")[first].strip()):
        yield f"{name}:{first + 1}: must begin with `package {PACKAGE}`"
    for at in _header(text):
        line = text.split("\n")[at].strip()
        if at != first and _says(line) and not _IMPORT.fullmatch(line):
            yield f"{name}:{at + 1}: only `rego.v1` and `future.keywords` may be imported"
    for at, line in enumerate(text.split("\n")):
        if ANSWER in line or FILES in line:
            yield f"{name}:{at + 1}: {ANSWER} and {FILES} are the broker's own names"
        if "\r" in line.rstrip("\r"):
            yield f"{name}:{at + 1}: a carriage return inside a line"


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _header(text: str) -> range:
    """The lines before the first rule: the package and the imports."""
    lines = text.split("\n")
    first = next((at for at, line in enumerate(lines) if _says(line) and not _is_head(line)), len(lines))
    return range(first)


def _is_head(line: str) -> bool:
    return line.split(maxsplit=1)[0] in {"package", "import"}


def _body(text: str) -> list[str]:
    """The file's lines, those of its header empty."""
    head = len(_header(text))
    return [*([""] * head), *(line.rstrip("\r") for line in text.split("\n")[head:])]


def unfit(module: RegoModule, ast: Mapping[str, object]) -> list[str]:
    """What a compiled module must not do: read what is no part of it, or answer by chance, clock or network.

    ast: as OPA gives it at /v1/policies, with names resolved. Each problem as `file:line: what`.
    """
    own = (PACKAGE, module.name)
    found = dict.fromkeys(word for word in _walk(ast.get("rules"), own) if word)
    return [f"{module.find(word)}: {word} may not be used in a policy" for word in found]


def _walk(node: object, own: tuple[str, ...]) -> Iterator[str]:
    match node:
        case {"type": "ref", "value": [{"value": str(head)}, *rest]}:
            yield _bad(head, rest, own)
            for each in rest:
                yield from _walk(each, own)
        case {"type": "var", "value": "data"}:
            yield "data"
        case dict():
            for each in node.values():
                yield from _walk(each, own)
        case list():
            for each in node:
                yield from _walk(each, own)
        case _:
            return


def _bad(head: str, rest: list[object], own: tuple[str, ...]) -> str:
    words = [each["value"] if isinstance(each, dict) else None for each in rest]
    if head == "data":
        return "" if tuple(words[:2]) == own else "data"
    name = ".".join([head, *(word for word in words if isinstance(word, str))])
    return name if name in FORBIDDEN else ""
