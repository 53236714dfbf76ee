"""What a person is asked to sign, in plain words: made here, from what was decided on, and from nothing else.

Everything that comes from outside goes through `plain`: what is read is what is there. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from stepwrit.digest import args_digest
from stepwrit_broker.core.plain import plain
from stepwrit_broker.core.step import Action, Step
from stepwrit_broker.core.workload import SpiffeId

_OPENS, _CLOSES = "\u201c", "\u201d"
_OPENS_TOLD, _CLOSES_TOLD = "⟨U+201C⟩", "⟨U+201D⟩"
_PLACE: Final = re.compile(r"[^\s=\u201c\u201d]*\Z")  # what cannot pass for the rest of its line
LINES_MAX: Final = 60  # of arguments; what is more is told by number and digest
_STARTED: Final = {
    "human": "The person who wants it asked for exactly this, through {}.",
    "model": "A model chose it, in the agent {}.",
    "server": "A server started it by itself: {}. No person and no model asked for this step.",
}


def text_digest(lines: Sequence[str]) -> str:
    """Base64url SHA-256 of the lines: what is signed of them."""
    return args_digest({"text": list(lines)})


def text_of(
    *,
    step: Step,
    action: Action,
    performer: SpiffeId | str,
    args: Mapping[str, object],
    policies: Iterable[str],
    hidden: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """The lines, in the order of what matters. args: what will run, all of it; hidden: JSON pointers
    (RFC 6901) of arguments that are told to be there, and no more.
    """
    return (
        f"Allow {plain(action.tool)} once, of {action.impact} impact.",
        f"It will be done by {plain(str(performer))}.",
        _STARTED[step.origin].format(plain(step.initiator)),
        *(f"Before that: {plain(h.tool)} by {plain(h.performer)}." for h in step.chain[:-1] if h.tool),
        f"The purpose that was given: {plain(step.intent.purpose)}",
        *_arguments(args, hidden),
        *(
            f"It may send {line.method} {plain(line.at)}{plain(line.path)}, {_times(line.times)} at most."
            for line in action.plan
        ),
        f"Demanded by the policy {', '.join(plain(each) for each in policies)}.",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _arguments(args: Mapping[str, object], hidden: frozenset[str]) -> list[str]:
    """One line for each value, by its place: nothing is summed up, nothing is left out untold."""
    if not args:
        return ["It has no arguments."]
    lines = [f"Argument {_place(at)} = {told}" for at, told in _leaves(args, "", hidden)]
    if len(lines) <= LINES_MAX:
        return lines
    more = len(lines) - LINES_MAX
    return [*lines[:LINES_MAX], f"and {more} arguments more; all of them have the digest {args_digest(args)}"]


def _leaves(value: object, at: str, hidden: frozenset[str]) -> Iterator[tuple[str, str]]:
    if at in hidden:
        yield at, "(not shown, as policy demands)"  # nor its digest: what is guessable would be told by it
    elif isinstance(value, Mapping) and value:
        for name in sorted(value):
            yield from _leaves(value[name], f"{at}/{_token(str(name))}", hidden)
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{at}/{number}", hidden)
    else:
        yield at, _told(value)


def _told(value: object) -> str:
    """Text in quotation marks, so that "1" and 1, and what stands at the ends, can be told apart."""
    return _quoted(value) if isinstance(value, str) else plain(json.dumps(value))


def _place(at: str) -> str:
    """Names come from outside too: one that reads like a name and its value stands in quotation marks."""
    return plain(at) if _PLACE.match(at) else _quoted(at)


def _quoted(text: str) -> str:
    return f"\u201c{plain(text).replace(_OPENS, _OPENS_TOLD).replace(_CLOSES, _CLOSES_TOLD)}\u201d"


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
