"""`broker`, `demo`, `version`: run it."""

from __future__ import annotations

import ssl
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated

import typer

from stepwrit.wire import V
from stepwrit_broker.cli.failures import USAGE
from stepwrit_broker.cli.locate import DevDir, Json, config_path
from stepwrit_broker.cli.output import err, examples, print_json, say


def broker(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Its settings, broker.toml.")
    ] = None,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="A development broker with its own identities. Never for production."),
    ] = False,
    folder: DevDir = None,
) -> None:
    """Run a broker until it is told to stop."""
    path = config_path(config)
    if (dev and config is not None) or (not dev and path is None):
        err().print("[bold red]error:[/] say either --config FILE or --dev")
        raise typer.Exit(USAGE)
    if dev:
        from stepwrit_broker.dev.broker import run_dev  # noqa: PLC0415  a broker's parts are slow to import

        run_dev(folder)
    elif path is not None:
        from stepwrit_broker.wiring.configured import run  # noqa: PLC0415

        run(path)


def demo(
    as_json: Json = False,
    spire: Annotated[
        bool, typer.Option("--spire", help="On real SPIRE processes; `make tools` builds them.")
    ] = False,
) -> None:
    """Play the main job on real parts in a temporary folder: issue, use, refuse, explain. Takes seconds."""
    from stepwrit_broker.cli.render import lineage_tree  # noqa: PLC0415
    from stepwrit_broker.dev.demo import main  # noqa: PLC0415

    raise typer.Exit(main(tree=lineage_tree, as_json=as_json, spire=spire))


def version(as_json: Json = False) -> None:
    """Print the versions of Stepwrit, its wire, Python and OpenSSL."""
    found = {
        "stepwrit": installed("stepwrit"),
        "wire": V,
        "python": sys.version.partition(" ")[0],
        "openssl": ssl.OPENSSL_VERSION,
    }
    if as_json:
        print_json(found)
    else:
        say(f"stepwrit {found['stepwrit']} (wire v{V}, Python {found['python']}, {found['openssl']})")


def register(app: typer.Typer) -> None:
    """Put the commands on the root."""
    panel = "Run it"
    app.command(
        rich_help_panel=panel,
        epilog=examples("stepwrit broker --dev", "stepwrit broker --config /etc/stepwrit/broker.toml"),
    )(broker)
    app.command(
        rich_help_panel=panel,
        epilog=examples("stepwrit demo", "stepwrit demo --json", "stepwrit demo --spire"),
    )(demo)
    app.command(rich_help_panel=panel)(version)
