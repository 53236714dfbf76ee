"""The root of all commands."""

from __future__ import annotations

from typing import Final

import typer

from stepwrit_broker.cli import (
    approvals,
    approve,
    authenticators,
    brake,
    devtools,
    doctor,
    documents,
    fleet,
    ledgers,
    running,
    scaffolding,
    spire,
    stores,
    telling,
    witnesses,
)
from stepwrit_broker.cli.failures import Group
from stepwrit_broker.cli.output import examples

_EXIT_CODES: Final = """[bold]Exit codes[/bold]
  0  done
  1  refused, or a check failed
  2  wrong usage, or a setting is missing
  3  unavailable: no broker there, or something is in doubt"""
_ENVIRONMENT: Final = """[bold]Environment[/bold]
  STEPWRIT_ADMIN   the broker's admin socket or mtls URL, as --admin
  STEPWRIT_CONFIG  its broker.toml, as --config
  NO_COLOR         set it for output without colour"""
_EPILOG: Final = "\n\n".join(
    (
        _EXIT_CODES,
        _ENVIRONMENT,
        examples(
            "stepwrit broker --dev",
            "stepwrit explain 7Q2K9MZX4D",
            "stepwrit freeze everything --reason 'incident 31'",
        ),
    )
)

app = typer.Typer(
    name="stepwrit",
    cls=Group,
    help="One credential, for one action, of one step, for a minute; and proof of who started it: a person, "
    "a model or a server.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keeps the root a group."""


def _assemble() -> None:
    running.register(app)
    scaffolding.register(app)
    doctor.register(app)
    app.add_typer(fleet.app, name="fleet", rich_help_panel="Run it")
    app.add_typer(spire.app, name="spire", rich_help_panel="Run it")
    telling.register(app)
    approve.register(app)
    app.add_typer(approvals.app, name="approvals", rich_help_panel="Approve")
    app.add_typer(authenticators.app, name="authenticators", rich_help_panel="Approve")
    brake.register(app)
    documents.register(app)
    records = "Keep the record"
    app.add_typer(ledgers.app, name="ledger", rich_help_panel=records)
    app.add_typer(stores.app, name="store", rich_help_panel=records)
    app.add_typer(witnesses.app, name="witness", rich_help_panel=records)
    app.add_typer(devtools.app, name="dev", rich_help_panel="Develop")


def _unwrap(commands: typer.Typer) -> None:
    """A docstring's lines are broken for the source; in help each paragraph is one line, broken anew."""
    for each in commands.registered_commands:
        text = each.help or (each.callback.__doc__ if each.callback else None) or ""
        each.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _unwrap(group.typer_instance)


_assemble()
_unwrap(app)
