"""How a command ends: exit codes, and the one place that turns what went wrong into a line on stderr."""

from __future__ import annotations

import os
import traceback
from typing import Any, Final, NoReturn

import typer
from rich.text import Text
from typer.core import TyperGroup

from stepwrit.errors import (
    ConfigurationError,
    IdentityUnavailable,
    RefusedError,
    StepwritError,
    UnavailableError,
    describe,
)
from stepwrit_broker.cli.output import err, harmless
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.edge.problems import refusal_of
from stepwrit_broker.edge.sockets import ListenerError

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
DEBUG: Final = "STEPWRIT_DEBUG"
_CONTROL: Final = ("typer", "click")  # usage errors and exits are exceptions of theirs


class NoBroker(StepwritError):  # noqa: N818  reads as a state
    """Nobody answers where the broker should be; the message says where, and what to try."""


class CommandFailed(StepwritError):  # noqa: N818  reads as a state
    """A command could not do what it was asked; the message is for the person who asked."""


class Group(TyperGroup):
    """The root: a failure of any command is one line on stderr and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raises typer.Exit with the code of what went wrong."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader left (`| head`): typer ends in silence
        except (Problem, StepwritError, ListenerError, OSError) as known:
            raise typer.Exit(told(known)) from None
        except Exception as bug:
            if type(bug).__module__.partition(".")[0] in _CONTROL:
                raise
            raise typer.Exit(_told_bug(bug)) from None


def fail(message: str) -> NoReturn:
    """End the command with REFUSED and this line."""
    raise CommandFailed(message)


def told(error: Problem | StepwritError | ListenerError | OSError) -> int:
    """Say what went wrong on stderr; the exit code that it means."""
    match error:
        case Problem():
            _say(describe(refusal_of(error)))
            return UNAVAILABLE if isinstance(error, Unavailable) else REFUSED
        case RefusedError():
            _say(str(error))
            return UNAVAILABLE if isinstance(error, UnavailableError) else REFUSED
        case NoBroker() | IdentityUnavailable() | ListenerError():
            _say(f"unavailable: {error}")
            return UNAVAILABLE
        case ConfigurationError():
            _say(f"error: {error}")
            return USAGE
        case OSError():
            _say(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
            return REFUSED
        case _:
            _say(f"failed: {error}")
            return REFUSED


def _told_bug(bug: Exception) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exception(bug)
    _say(f"internal error: {type(bug).__name__}: {bug}; a bug of ours: {DEBUG}=1 shows where")
    return REFUSED


def _say(line: str) -> None:
    word, colon, rest = line.partition(":")
    err().print(f"[bold red]{word}{colon}[/]", end="")
    err().print(Text(harmless(rest, keep="\n")), soft_wrap=True)
