"""`stepwrit doctor`: is everything in place, and if not, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer
from rich.text import Text

from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import At, ConfigFile, Json, config_path
from stepwrit_broker.cli.output import NO, YES, examples, out, print_json

if TYPE_CHECKING:
    from stepwrit_broker.cli.check import Check

_SIGNS: Final = {True: (YES, "green"), False: (NO, "bold red"), None: ("!", "yellow")}


def doctor(config: ConfigFile = None, at: At = None, as_json: Json = False) -> None:
    """Check this machine, broker.toml, the files, SPIFFE, disk, clock and the broker; say what to do.

    Changes nothing. Exit code 1 when a check fails; warnings (!) do not count. Run it as the broker's user,
    on the broker's machine: it looks with that user's eyes.
    """
    from stepwrit_broker.cli.checks import all_checks  # noqa: PLC0415  a whole broker comes with it

    found = all_checks(config_path(config), at)
    if as_json:
        ok = all(each.ok is not False for each in found)
        print_json({"ok": ok, "checks": [each.as_json() for each in found]})
    else:
        for each in found:
            _print(each)
    if any(each.ok is False for each in found):
        raise typer.Exit(REFUSED)


def _print(check: Check) -> None:
    sign, style = _SIGNS[check.ok]
    line = Text(f"{sign} ", style=style)
    line.append(f"{check.name:<13} ", style="bold")
    line.append(check.said)
    out().print(line, soft_wrap=True)
    if check.todo and check.ok is not True:
        out().print(Text(f"  {'':<14}→ {check.todo}", style=style), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Put the command on the root."""
    app.command(
        rich_help_panel="Run it",
        epilog=examples("sudo -u stepwrit stepwrit doctor --config /etc/stepwrit/broker.toml"),
    )(doctor)
