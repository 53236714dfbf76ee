"""`stepwrit fleet …`: from one broker to several, and how they are."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.failures import REFUSED, USAGE
from stepwrit_broker.cli.locate import ConfigFile, Json, config_of, config_path
from stepwrit_broker.cli.output import NO, YES, examples, out, print_json, print_pairs, say
from stepwrit_broker.cli.scaffolding import PostgresUrl, RedisUrl

app = typer.Typer(
    help="Several brokers on Redis and PostgreSQL: settings, roles, tables, how they are.",
    no_args_is_help=True,
)
OWNER: Final = "stepwrit_owner"
BROKER: Final = "stepwrit_broker"
_MIN_PASSWORD: Final = 16  # the ACL file has its plain SHA-256: only a random one resists
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--brokers-role",
        metavar="ROLE",
        help="Whom brokers connect as. Default: the user in \\[fleet] postgres.",
    ),
]


@app.command(epilog=examples("stepwrit fleet init --config /etc/stepwrit/broker.toml --into fleet.toml"))
def init(
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="The new file, in the same folder.")],
    config: ConfigFile = None,
    redis: RedisUrl = None,
    postgres: PostgresUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """Write settings for a fleet from those of a broker that stands alone; its own file stays as it is."""
    from stepwrit_broker.cli.scaffold_fleet import POSTGRES, REDIS, write_fleet  # noqa: PLC0415

    source = config_path(config)
    if source is None:
        raise ConfigurationError("there is no broker.toml here to begin with; give --config FILE")
    target = into if into.parent != Path() else source.parent / into
    write_fleet(source, target, redis or REDIS, postgres or POSTGRES, force=force)
    say(f"wrote {target}: as {source}, and of a fleet")
    say("")
    say("Next:")
    for line in next_lines(target):
        say(f"  {line}")
    say(f"  stepwrit doctor --config {target}     # as the broker's user")


def next_lines(config: Path) -> list[str]:
    """What to type so that the engines know the brokers."""
    folder = config.absolute().parent
    return [
        "# one password each for Redis and PostgreSQL, for the broker's user alone",
        f"openssl rand -hex 32 > {folder}/redis.password",
        f"openssl rand -hex 32 > {folder}/postgres.password",
        "# a line for Redis' users.acl",
        f"stepwrit fleet acl --config {config}",
        "-- in psql, as a superuser; \\password sets theirs",
        f"CREATE ROLE {OWNER} LOGIN; CREATE ROLE {BROKER} LOGIN;",
        f"CREATE DATABASE stepwrit OWNER {OWNER} ENCODING 'UTF8' TEMPLATE template0;",
        "# the tables, as their owner",
        f"stepwrit fleet migrate --config {config} \\",
        f"    --dsn postgresql://{OWNER}@HOST/stepwrit --password-file FILE",
    ]


@app.command(
    epilog=examples(
        "stepwrit fleet acl --config /etc/stepwrit/broker.toml >> /etc/redis/users.acl",
        "stepwrit fleet acl --sentinel --password-file /etc/stepwrit/sentinel.password",
    )
)
def acl(
    config: ConfigFile = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", metavar="FILE", help="Default: as \\[fleet] says. - is standard input."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Default: as in the URL of \\[fleet].")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The fleet's. Default: as \\[fleet] says.")
    ] = None,
    sentinel: Annotated[bool, typer.Option("--sentinel", help="For the Sentinels, not for Redis.")] = False,
) -> None:
    """Print the line of Redis' ACL file that lets brokers in, with the least they need and no password.

    The password's SHA-256 stands in it: the password must be random and long (openssl rand -hex 32).
    """
    from stepwrit_broker.cli.fleet_access import acl_line  # noqa: PLC0415  a driver comes with it

    settings = config_of(config)
    typer.echo(
        acl_line(
            None if settings is None else settings.fleet,
            password=_digest(password_file),
            user=user,
            name=name,
            is_sentinel=sentinel,
        )
    )


def _digest(path: Path | None) -> str | None:
    """SHA-256 of the password in a file, hexadecimal; None for no file. Raises ConfigurationError."""
    if path is None:
        return None
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    return digest_of(text.strip(), str(path))


def digest_of(password: str, where: str) -> str:
    """SHA-256, hexadecimal. Raises ConfigurationError for a password that could be guessed from it."""
    if len(password) < _MIN_PASSWORD:
        raise ConfigurationError(
            f"{where}: a password of {len(password)} characters could be found from its digest; "
            f"make it random (openssl rand -hex 32)"
        )
    return hashlib.sha256(password.encode()).hexdigest()


@app.command(
    epilog=examples(
        "stepwrit fleet migrate --config /etc/stepwrit/broker.toml \\\n"
        "    --dsn postgresql://stepwrit_owner@127.0.0.1/stepwrit --password-file owner.password",
        "stepwrit fleet migrate --dsn postgresql://stepwrit_owner@127.0.0.1/stepwrit \\\n"
        "    --shards 16 --brokers-role stepwrit_broker --check",
    )
)
def migrate(
    dsn: Annotated[
        str,
        typer.Option(
            "--dsn",
            metavar="DSN",
            help="The fleet's database, as the tables' owner, without a password: it is in --password-file, "
            "PGPASSWORD or PGPASSFILE.",
        ),
    ],
    config: ConfigFile = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="The owner's password.")
    ] = None,
    brokers_role: Roles = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, max=256, help="Default: as \\[fleet] says. Fixed for good."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when there is something to do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the fleet's tables or bring them up, and give the brokers' role what it needs and no more.

    Run it as the tables' owner before the first broker starts, and before brokers of a newer version. It can
    be repeated, and while brokers run; what is newer than this program is refused.
    """
    from stepwrit_broker.cli.fleet_schema import Wanted, brought_up  # noqa: PLC0415  a driver comes with it

    settings = config_of(config)
    table = None if settings is None else settings.fleet
    wanted = Wanted.of(dsn, password_file, table, brokers_role, shards)
    found = asyncio.run(brought_up(wanted, is_check=check))
    if as_json:
        print_json(found.as_json())
    else:
        for is_good, line in found.lines():
            out().print(f"[green]{YES}[/] " if is_good else f"[bold red]{NO}[/] ", end="")
            say(line)
    if not found.is_good:
        raise typer.Exit(REFUSED)


@app.command(
    epilog=examples(
        "sudo -u stepwrit stepwrit fleet carry --config /etc/stepwrit/fleet.toml \\\n"
        "    --from /var/lib/stepwrit/stepwrit.db"
    )
)
def carry(
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="FILE", exists=True, dir_okay=False, help="The old broker's database."
        ),
    ],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Carry marks, approvers' keys and persons' opaque names from a broker that stood alone into a new fleet.

    Once, with that broker stopped and before the first of the fleet starts. Its database is not changed.
    Transactions, approvals that wait and unused credentials are not carried: they end.
    """
    from stepwrit_broker.wiring.carrying import carry as carried  # noqa: PLC0415  a whole broker comes with it
    from stepwrit_broker.wiring.configured import settings_of  # noqa: PLC0415

    settings = config_of(config)
    if settings is None:
        raise ConfigurationError("there is no broker.toml here to name the fleet; give --config FILE")
    made = asyncio.run(carried(settings_of(settings), source))
    if as_json:
        print_json(asdict(made))
        return
    say(f"carried from {made.origin} ({made.size} entries)")
    say(f"  {made.marks} marks, {made.authenticators} authenticators")
    if made.left:
        say(f"  left behind: {made.left} marks on transactions that end here")


@app.command(epilog=examples("sudo -u stepwrit stepwrit fleet status --config /etc/stepwrit/broker.toml"))
def status(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the fleet's epoch, who carries its streams, how far the ledger is and what waits.

    The engines are asked. As the broker's user, on any broker's machine; no broker needs to run.
    """
    from stepwrit_broker.cli.fleet_status import fleet_status  # noqa: PLC0415

    settings = config_of(config)
    if settings is None or not settings.fleet.is_on:
        say("there is no broker.toml with [fleet] here; give --config FILE")
        raise typer.Exit(USAGE)
    said = asyncio.run(fleet_status(settings))
    if as_json:
        print_json(said)
    else:
        print_pairs({name.replace("_", " "): value for name, value in said.items()})
