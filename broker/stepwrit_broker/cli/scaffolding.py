"""`init` and `registry scaffold`: the first files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from stepwrit_broker.cli.failures import NoBroker
from stepwrit_broker.cli.output import err, examples, say

if TYPE_CHECKING:
    from stepwrit_broker.cli.scaffold import ToolInfo

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        help="Its Redis, as \\[fleet] redis. Default: loopback. Elsewhere: rediss://…",
    ),
]
PostgresUrl = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        metavar="DSN",
        help="Its PostgreSQL, as \\[fleet] postgres. Default: loopback. Elsewhere: ?sslmode=verify-full.",
    ),
]
_STANCES: Final = (
    "approval (high impact waits for a signature), low-risk, or workflow (servers start declared steps only)"
)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is not there.")],
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", metavar="NAME", help="Such as prod.example.")
    ],
    issuer: Annotated[
        str,
        typer.Option(
            "--issuer", metavar="URL", help="The broker's own name, such as https://stepwrit.prod.example."
        ),
    ],
    stance: Annotated[
        str, typer.Option("--stance", help=f"Which policies to begin with: {_STANCES}.")
    ] = "approval",
    engine: Annotated[
        str, typer.Option("--engine", help="What its policies are written in: cedar, or opa for Rego.")
    ] = "cedar",
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    fleet: Annotated[
        bool,
        typer.Option(
            "--fleet", help="For several brokers on Redis and PostgreSQL. Without it: for one, alone."
        ),
    ] = False,
    redis: RedisUrl = None,
    postgres: PostgresUrl = None,
) -> None:
    """Write broker.toml, registry.yaml, limits.yaml and policy/, commented and conservative."""
    from stepwrit_broker.cli.scaffold import write_init  # noqa: PLC0415  the checkers are slow to import
    from stepwrit_broker.cli.scaffold_fleet import MTLS, POSTGRES, REDIS, fleet_settings  # noqa: PLC0415

    if (redis or postgres) and not fleet:
        raise typer.BadParameter("--redis and --postgres are for --fleet")
    more = fleet_settings(issuer, MTLS, redis or REDIS, postgres or POSTGRES) if fleet else {}
    for path in write_init(
        folder, trust_domain, issuer, stance_name=stance, engine=engine, wanted=more, force=force
    ):
        say(f"wrote {path}")
    broker_toml = folder / "broker.toml"
    say("")
    say("Next:")
    wanted = "spiffe_socket, [listen] tls, [[oidc]]" + (", [opa] url" if engine == "opa" else "")
    say(f"  edit {broker_toml}: {wanted}")
    say(
        f"  stepwrit registry scaffold --mcp URL --id SPIFFE_ID     # an entry for {folder / 'registry.yaml'}"
    )
    say(f"  stepwrit spire entries --config {broker_toml}     # what a SPIRE server must know")
    if fleet:
        from stepwrit_broker.cli.fleet import next_lines  # noqa: PLC0415

        for line in next_lines(broker_toml):
            say(f"  {line}")
    say(f"  stepwrit doctor --config {broker_toml}     # as the broker's user")
    say(f"  stepwrit broker --config {broker_toml}")


def scaffold(
    url: Annotated[str, typer.Option("--mcp", metavar="URL", help="The server's streamable HTTP endpoint.")],
    spiffe_id: Annotated[str, typer.Option("--id", metavar="SPIFFE_ID", help="The server's SPIFFE ID.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Its short name in tools. Default: the last part of its ID.")
    ] = None,
) -> None:
    """Print a registry entry for a running MCP server: every tool, at high impact, with its schema's digest.

    Nothing is applied: edit the impacts and plans, put it into registry.yaml, and add one to its `count`.
    """
    from stepwrit_broker.cli.scaffold import scaffold_registry  # noqa: PLC0415

    tools = asyncio.run(list_tools(url))
    short = name or urlsplit(spiffe_id).path.rpartition("/")[2]
    typer.echo(scaffold_registry(tools, server_id=spiffe_id, name=short, url=url), nl=False)
    err().print(
        f"{len(tools)} tools; set their impacts and plans, and remember `count` in registry.yaml", style="dim"
    )


async def list_tools(url: str) -> list[ToolInfo]:
    """The tools that a server lists. Raises NoBroker's kin: nobody answered there, or not in MCP."""
    from mcp import Client  # noqa: PLC0415  slow to import, and few commands need it

    from stepwrit_broker.cli.scaffold import ToolInfo  # noqa: PLC0415

    tools: list[ToolInfo] = []
    try:
        async with Client(url) as client:
            page = await client.list_tools()
            tools += [ToolInfo(name=each.name, input_schema=each.input_schema) for each in page.tools]
            while page.next_cursor:
                page = await client.list_tools(cursor=page.next_cursor)
                tools += [ToolInfo(name=each.name, input_schema=each.input_schema) for each in page.tools]
    except Exception as lost:  # noqa: BLE001  the MCP client raises groups of whatever its transport met
        raise NoBroker(f"no MCP server answers on {url} ({root_of(lost)})") from None
    return tools


def root_of(error: BaseException) -> str:
    """The innermost cause, for a person."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def add_scaffold(app: typer.Typer) -> None:
    """Put `scaffold` into the `registry` group."""
    app.command(
        "scaffold",
        epilog=examples(
            "stepwrit registry scaffold --mcp https://ledger.example/mcp \\\n    --id spiffe://prod.example/ledger-mcp"
        ),
    )(scaffold)


def register(app: typer.Typer) -> None:
    """Put `init` on the root."""
    app.command(
        rich_help_panel="Run it",
        epilog=examples(
            "stepwrit init /etc/stepwrit --trust-domain prod.example \\\n    --issuer https://stepwrit.prod.example",
            "stepwrit init /etc/stepwrit --fleet --trust-domain prod.example \\\n"
            "    --issuer https://stepwrit.prod.example",
        ),
    )(init)
