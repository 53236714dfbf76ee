"""One leeway for all clocks: `stepwrit.wire.LEEWAY_S`. No verifier has a number of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepwrit
import stepwrit_broker
from stepwrit import wire

ABOUT = re.compile(r"leeway|skew|tolera", re.IGNORECASE)
FOLDERS = [Path(str(package.__file__)).parent for package in (stepwrit, stepwrit_broker)]
FILES = [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]


def numbers_named(source: str) -> Iterator[tuple[str, float]]:
    """Every number that gets a name about leeway: assigned, a default, or handed over by keyword."""
    for node in ast.walk(ast.parse(source)):
        for name, value in _named(node):
            if ABOUT.search(name) and isinstance(value, ast.Constant) and type(value.value) in (int, float):
                yield name, value.value


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=value):
            yield name, value
        case ast.keyword(arg=str(name), value=value):
            yield name, value
        case ast.FunctionDef(args=args):
            positional = [*args.posonlyargs, *args.args]
            yield from zip([a.arg for a in positional][::-1], args.defaults[::-1], strict=False)
            yield from zip([a.arg for a in args.kwonlyargs], args.kw_defaults, strict=True)
        case ast.Compare(left=left, comparators=others):
            for side in (left, *others):
                if isinstance(side, ast.BinOp) and isinstance(side.left, ast.Name) and side.left.id == "now":
                    yield "a leeway without a name", side.right
        case _:
            return


def test_the_search_finds_what_it_should() -> None:
    source = (
        "LEEWAY_S = 5\nX_SKEW: int = 3\nf(leeway=2, other=1)\ndef g(a, leeway=4): ...\n"
        "def h(*, leeway=6): ...\nf(leeway=LEEWAY_S)\nend < now - 7\n"
    )
    assert sorted(numbers_named(source)) == sorted(
        [
            ("LEEWAY_S", 5),
            ("X_SKEW", 3),
            ("leeway", 2),
            ("leeway", 4),
            ("leeway", 6),
            ("a leeway without a name", 7),
        ]
    )


def test_there_is_one_leeway_and_it_is_seconds_not_minutes() -> None:
    found = [(file.name, *named) for file in FILES for named in numbers_named(file.read_text())]
    assert found == [("wire.py", "LEEWAY_S", wire.LEEWAY_S)]
    assert 0 < wire.LEEWAY_S <= 30


@pytest.mark.parametrize("library", ["jwt.decode(", "decode_complete("])
def test_no_library_judges_times_with_a_leeway_of_its_own(library: str) -> None:
    """PyJWT checks no time for us: where it decodes claims, each of its time checks is off."""
    for file in FILES:
        text = file.read_text()
        for call in text.split(library)[1:]:
            told = call[: call.index(")\n")]
            off = all(f'"verify_{claim}": False' in told for claim in ("exp", "iat", "nbf"))
            assert off or '"verify_signature": False' in told or file.parent.name == "dev", file
