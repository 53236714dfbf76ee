"""Where the broker is that a command speaks to, and how it is known."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.failures import NoBroker
from stepwrit_broker.config import Config, load_config

CONFIG_VARIABLE: Final = "STEPWRIT_CONFIG"
USUAL_CONFIG: Final = Path("/etc/stepwrit/broker.toml")
USUAL_SOCKET: Final = Path("/run/stepwrit/admin.sock")

At = Annotated[
    str | None,
    typer.Option(
        "--admin",
        "--mtls",
        metavar="SOCKET|URL",
        envvar="STEPWRIT_ADMIN",
        help="The broker's admin socket; or https://HOST:PORT of its mtls listener, to ask as operator with "
        "the SVID of SPIFFE_ENDPOINT_SOCKET. Default: broker.toml, then a development broker.",
        rich_help_panel="Which broker",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; the ledger keeps it beside your name.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        help="broker.toml. Default: /etc/stepwrit/broker.toml, if it is there.",
    ),
]
DevDir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="State of the development broker. Default: $XDG_STATE_HOME/stepwrit-dev, "
        "else ~/.local/state/stepwrit-dev.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevState:
    """What a running development broker tells of itself in `dev.json`: URLs, its SPIFFE ID, paths.

    issuer, ca: where approvers go, and the PEM of the certificate there.
    """

    broker: str
    broker_id: str
    admin: str
    ops: str
    oidc: str
    client_id: str
    trust_domain: str
    sockets: str
    issuer: str = ""
    ca: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to ask: a socket's path or an https URL. `is_dev`: a development broker was found there."""

    where: str
    is_dev: bool = False

    @property
    def is_url(self) -> bool:
        """Whether this is the mtls listener."""
        return self.where.startswith("https://")


def locate(given: str | None) -> Place:
    """`--admin`, else broker.toml's socket, else the usual socket, else a development broker.

    The real ones come first: a development broker must never take a freeze that was meant for production.
    Raises NoBroker, Malformed for a broker.toml that does not load.
    """
    if given:
        return Place(where=given.removeprefix("unix://").removeprefix("unix:"))
    path = config_path(None)
    if path is not None:
        return Place(where=load_config(path).listen.admin.removeprefix("unix:"))
    if USUAL_SOCKET.exists():
        return Place(where=str(USUAL_SOCKET))
    dev = read_dev(None)
    if dev is None:
        raise NoBroker(
            f"no broker is known here: no --admin, no STEPWRIT_ADMIN, no {USUAL_CONFIG}, and no development "
            f"broker in {dev_folder()}; is it running? try `stepwrit broker --dev`"
        )
    return Place(where=dev.admin, is_dev=True)


def config_path(given: Path | None) -> Path | None:
    """The broker.toml to take: given, STEPWRIT_CONFIG, or the usual one if it is there."""
    named = given or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        return named.absolute()
    return USUAL_CONFIG if USUAL_CONFIG.exists() else None


def config_of(given: Path | None) -> Config | None:
    """The settings of that file; None when there is none. Raises Malformed."""
    path = config_path(given)
    return None if path is None else load_config(path)


def dev_folder(given: Path | None = None) -> Path:
    """Where a development broker keeps its state."""
    if given is not None:
        return given.absolute()
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "stepwrit-dev"


def read_dev(given: Path | None) -> DevState | None:
    """The state of the development broker in that folder; None when none runs there."""
    path = dev_folder(given) / "dev.json"
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        return DevState(**{each.name: said[each.name] for each in fields(DevState) if each.name in said})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as bad:
        raise ConfigurationError(f"{path} is not a development broker's state: {bad}") from bad


def need_dev(given: Path | None) -> DevState:
    """The same, or NoBroker that says how to start one."""
    state = read_dev(given)
    if state is None:
        raise NoBroker(
            f"no development broker in {dev_folder(given)}; is it running? try `stepwrit broker --dev`"
        )
    return state
