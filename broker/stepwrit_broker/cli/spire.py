"""`stepwrit spire …`: what an operator of SPIRE must do for this deployment."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.failures import OK, REFUSED, USAGE
from stepwrit_broker.cli.locate import ConfigFile, Json, config_of
from stepwrit_broker.cli.output import err, examples, harmless, print_json

if TYPE_CHECKING:
    from stepwrit_broker.spire.compare import Lacking
    from stepwrit_broker.spire.needed import Needed, Told

app = typer.Typer(help="Fit this deployment into an existing SPIRE.", no_args_is_help=True)

RegistryFile = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="registry.yaml. Default: that of broker.toml.",
    ),
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent-id",
        metavar="SPIFFE_ID",
        help="Of the agent, or of a node alias, that attests them (spire-server agent list).",
    ),
]
Selectors = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        metavar="NAME=TYPE:VALUE",
        help="What selects a workload, as broker=unix:user:stepwrit; again for one that must hold too. NAME: "
        "broker, a name of the registry, or a SPIFFE ID.",
    ),
]
X509Ttl = Annotated[
    int, typer.Option("--x509-ttl", metavar="SECONDS", min=60, help="The life of X.509-SVIDs.")
]
JwtTtl = Annotated[
    int,
    typer.Option(
        "--jwt-ttl",
        metavar="SECONDS",
        min=30,
        max=300,
        help="The life of JWT-SVIDs; the broker takes none that lives longer than 300.",
    ),
]
Jti = Annotated[
    bool,
    typer.Option(
        "--jti",
        help="Ask for a jti in each JWT-SVID (SPIRE 1.15.2). It is meant to end the agent's handing one "
        "JWT-SVID to all processes of a workload; the agent of 1.15.2 does so all the same.",
    ),
]
Have = Annotated[
    str | None,
    typer.Option(
        "--have",
        metavar="FILE|-",
        help="What `spire-server entry show -output json` printed: show only what is missing or differs.",
    ),
]


@app.callback()
def _group() -> None:
    """Keeps the one command in a group."""


@app.command(
    epilog=examples(
        "stepwrit spire entries --parent-id spiffe://prod.example/node/a \\\n"
        "    --selector broker=unix:user:stepwrit --selector chat=unix:user:chat | sudo sh",
        "stepwrit spire entries … --json | spire-server entry create -data -",
        "spire-server entry show -output json | stepwrit spire entries --have -",
    )
)
def entries(
    config: ConfigFile = None,
    registry: RegistryFile = None,
    parent_id: Parent = None,
    selector: Selectors = None,
    x509_ttl: X509Ttl = 3600,
    jwt_ttl: JwtTtl = 300,
    jti: Jti = False,
    have: Have = None,
    as_json: Json = False,
) -> None:
    """Print the registration entries that broker.toml and registry.yaml call for, as commands for SPIRE.

    Changes nothing, and asks nobody. An entry whose parent or selector was not given is a comment: nothing
    that is printed runs on a guess.

    Exit code 2 while something is unfinished. With --have: 0 when nothing is missing, else 1.
    """
    from stepwrit_broker.spire.needed import Told, parse_selectors  # noqa: PLC0415  slow to import, as below

    told = Told(
        parent_id=parent_id,
        selectors=parse_selectors(selector or ()),
        x509_ttl_s=x509_ttl,
        jwt_ttl_s=jwt_ttl,
        jti=jti,
    )
    wanted = _needed(config, registry, told)
    lacking = _lacking(wanted, have)
    _print(wanted, lacking, as_json)
    raise typer.Exit(_code(lacking, compared=have is not None))


def _needed(config: Path | None, registry: Path | None, told: Told) -> Needed:
    from stepwrit_broker.registry.files import load_registry  # noqa: PLC0415
    from stepwrit_broker.spire.needed import needed  # noqa: PLC0415
    from stepwrit_broker.wiring.documents import document_text  # noqa: PLC0415

    settings = config_of(config)
    if settings is None:
        raise ConfigurationError("there is no broker.toml to say who the broker is; give --config FILE")
    path = registry or settings.files.registry
    return needed(settings, load_registry(document_text("registry", path), name=str(path))[1], told)


def _lacking(wanted: Needed, have: str | None) -> Lacking:
    from stepwrit_broker.spire.compare import Lacking, lacking  # noqa: PLC0415
    from stepwrit_broker.spire.registration import NotEntries, shown_entries  # noqa: PLC0415

    if have is None:
        return Lacking(missing=wanted.needs, different=())
    text = sys.stdin.read() if have == "-" else Path(have).read_text(encoding="utf-8")
    try:
        return lacking(wanted, shown_entries(text), time.time())
    except NotEntries as bad:
        raise ConfigurationError(f"--have {have}: {bad}") from None


def _print(wanted: Needed, lacking: Lacking, as_json: bool) -> None:
    from stepwrit_broker.spire.printed import as_json as json_of  # noqa: PLC0415
    from stepwrit_broker.spire.printed import as_shell, notes  # noqa: PLC0415

    if as_json:
        print_json(json_of(wanted, lacking))
    else:
        typer.echo(as_shell(wanted, lacking), nl=False)
    for note in notes(wanted, lacking):
        _tell("note", note)
    give = dict.fromkeys(option for need in lacking.missing for option in need.lacks)
    if give:
        count = sum(bool(need.lacks) for need in lacking.missing)
        _tell("unfinished", f"{count} of {len(lacking.missing)} entries; give {' '.join(give)}")


def _tell(word: str, text: str) -> None:
    """On stderr, beside what may be piped into a shell."""
    err().print(Text.assemble((f"{word}: ", "bold yellow"), harmless(text)), soft_wrap=True)


def _code(lacking: Lacking, *, compared: bool) -> int:
    if compared:
        return REFUSED if lacking.missing or lacking.different else OK
    return USAGE if any(need.lacks for need in lacking.missing) else OK
