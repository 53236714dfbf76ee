"""What a person is asked to sign, in plain words: made here, from what was decided on, and from nothing else.

Everything that comes from outside goes through `plain`: what is read is what is there. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from stepwrit.digest import args_digest
from stepwrit_broker.core.plain import LONGEST, RIGHT_TO_LEFT, plain, turns
from stepwrit_broker.core.step import Action, Step
from stepwrit_broker.core.workload import SpiffeId

_OPENS, _CLOSES = "\u201c", "\u201d"
_OPENS_TOLD, _CLOSES_TOLD = "⟨U+201C⟩", "⟨U+201D⟩"
LINES_MAX: Final = 60  # of arguments; what is more is told by number and digest
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_Leaf = tuple[str, tuple[str | int, ...], object]  # its JSON pointer, the way to it, the value
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
    first: Collection[str] = (),
) -> tuple[str, ...]:
    """The lines, in the order of what matters. args: what will run, all of it. JSON pointers (RFC 6901),
    hidden: of arguments that are told to be there, and no more; first: of those that policy looks at, which
    are shown before all others.
    """
    return (
        f"Allow {plain(action.tool)} once, of {action.impact} impact.",
        f"It will be done by {plain(str(performer))}.",
        _STARTED[step.origin].format(plain(step.initiator)),
        *(f"Before that: {plain(h.tool)} by {plain(h.performer)}." for h in step.chain[:-1] if h.tool),
        _wanted(step),
        f"The purpose that was given: {_quoted(step.intent.purpose)}",
        *_arguments(args, hidden, first),
        *(
            f"It may send {line.method} {plain(line.at)}{plain(line.path)}, {_times(line.times)} at most."
            for line in action.plan
        ),
        _until(step),
        f"Demanded by the policy {', '.join(plain(each) for each in policies)}.",
    )


def _wanted(step: Step) -> str:
    """Whoever signs need not be who asked."""
    who = step.intent.requester
    if who is None:
        return f"No person asked for it; {_quoted(step.intent.owner or '')} answers for it."
    return f"It is wanted by {_quoted(who.subject)} of {_quoted(who.issuer)}."


def _until(step: Step) -> str:
    later = ", also after what started it has ended" if step.deferred else ""
    return (
        f"It may begin until {datetime.fromtimestamp(int(step.expires_at), UTC):%Y-%m-%d %H:%M} UTC{later}."
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _arguments(args: Mapping[str, object], hidden: frozenset[str], first: Collection[str]) -> list[str]:
    """One line for each value, by its place: nothing is summed up, nothing is left out untold.

    Only what is shown is made: a call may have as many values as fit into its bytes.
    """
    if not args:
        return ["It has no arguments."]
    shown, count = _first(args, hidden, frozenset(first))
    lines = [
        f"Argument {_place(way)} = {_NOT_SHOWN if at in hidden else _told(value)}" for at, way, value in shown
    ]
    if count == len(lines):
        return lines
    more, digest = count - len(lines), args_digest(args)
    return [f"It has {more} arguments more than are shown here; all of them have the digest {digest}", *lines]


def _first(
    args: Mapping[str, object], hidden: frozenset[str], wanted: frozenset[str]
) -> tuple[list[_Leaf], int]:
    """Those to be shown, and how many there are."""
    ahead: list[_Leaf] = []
    rest: list[_Leaf] = []
    count = 0
    for leaf in _leaves(args, "", (), hidden):
        count += 1
        if leaf[0] in wanted:
            ahead.append(leaf)
        elif len(rest) < LINES_MAX:
            rest.append(leaf)
    return [*ahead, *rest][:LINES_MAX], count


_NOT_SHOWN: Final = "(not shown, as policy demands)"  # nor its digest: what is guessable would be told by it


def _leaves(value: object, at: str, way: tuple[str | int, ...], hidden: frozenset[str]) -> Iterator[_Leaf]:
    if at not in hidden and isinstance(value, Mapping) and value:
        for name in sorted(value):
            yield from _leaves(value[name], f"{at}/{_token(str(name))}", (*way, str(name)), hidden)
    elif at not in hidden and isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{at}/{number}", (*way, number), hidden)
    else:
        yield at, way, value


def _place(way: tuple[str | int, ...]) -> str:
    """A number is a place in a list. A name that could pass for one, or for anything else, is quoted."""
    if len(way) > _STEPS_MAX or sum(len(str(each)) for each in way) > LONGEST:
        return f"/{_quoted(json.dumps(way, ensure_ascii=False))}"
    return "".join(f"/{each}" if isinstance(each, int) else f"/{_name(each)}" for each in way)


_STEPS_MAX: Final = 16


def _name(name: str) -> str:
    """What is read from the right would draw the value that follows to its other side."""
    if _NAME.fullmatch(name):
        return name
    return f"{_quoted(name)}{RIGHT_TO_LEFT if turns(name) else ''}"


def _told(value: object) -> str:
    """Text in quotation marks, so that "1" and 1, and what stands at the ends, can be told apart."""
    return _quoted(value) if isinstance(value, str) else plain(json.dumps(value))


def _quoted(text: str) -> str:
    shown = plain(text).replace(_OPENS, _OPENS_TOLD).replace(_CLOSES, _CLOSES_TOLD)
    return f"{_OPENS}{shown}{_CLOSES}"


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
