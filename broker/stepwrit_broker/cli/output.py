"""What commands print: text for people, JSON for programs; readable in a pipe and without colour."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

PIPE_WIDTH: Final = 160  # columns where there is no terminal to ask
WRAPPED: Final = frozenset(
    {"scenario", "reason", "source", "target", "what", "SPIFFE ID", "only where"}
)  # columns
YES: Final = "✓"
NO: Final = "✗"


def out() -> Console:
    """Standard output. Colour follows the terminal, NO_COLOR and FORCE_COLOR."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, emoji=False, width=PIPE_WIDTH if piped else None)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, emoji=False)


def harmless(text: str, *, keep: str = "") -> str:
    """Text that others may have written: what a terminal would obey, or would not show, is spelled out.

    That is all control characters (escape sequences, line breaks that could forge a line of ours) and
    invisible ones (changes of writing direction).
    """
    return "".join(each if each.isprintable() or each in keep else _spelled(each) for each in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "replace").decode("ascii")


def say(line: str, *, style: str = "") -> None:
    """Plain text, its lines never broken and never read as markup."""
    out().print(Text(harmless(line, keep="\n\t"), style=style), soft_wrap=True)


def print_json(value: object) -> None:
    """JSON for programs, indented."""
    sys.stdout.write(_inert(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def _inert(text: str) -> str:
    """The same JSON: what a terminal would obey or not show (C1 controls, bidi) stands as its escape."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def print_json_lines(values: Iterable[object]) -> None:
    """One JSON value a line, at once."""
    for value in values:
        sys.stdout.write(_inert(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + "\n")
        sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table without lines; cells are wrapped in a terminal. `empty`: what to say when there is no row."""
    cells = [[_cell(each) for each in row] for row in rows]
    if not cells:
        say(empty, style="dim")
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in WRAPPED)
    for row in cells:
        table.add_row(*row)
    out().print(table)


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    wide = max(map(len, pairs))
    for name, value in pairs.items():
        out().print(Text.assemble((f"{name:<{wide}}  ", "dim"), _cell(value)), soft_wrap=True)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("-" if value is None or value == "" else harmless(str(value)))


def when(at: object) -> str:
    """Seconds since the epoch as UTC, to the second; `-` for what is no time."""
    if not isinstance(at, int | float):
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def clock(at: object) -> str:
    """Seconds since the epoch as UTC time of day, to the millisecond."""
    if not isinstance(at, int | float):
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3] + "Z"


def day_clock(at: float) -> str:
    """Seconds since the epoch as UTC, to the millisecond, without the year."""
    return f"{datetime.fromtimestamp(at, UTC):%m-%d} {clock(at)}"


def examples(*lines: str) -> str:
    """The end of a command's help: what to type."""
    shown = "\n".join(f"  [dim]$[/dim] {escape(line)}" for line in lines)
    return f"[bold]Examples[/bold]\n{shown}"
