"""The ledger's files, found and read without a broker: database, anchor, key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.locate import config_of, dev_folder
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.notes import parse_vkey
from stepwrit_broker.ledger.where import is_dsn, redacted

Database = Annotated[
    Path | None,
    typer.Option(
        "--db",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="The broker's database. Default: that of broker.toml, then that of a development broker.",
    ),
]
Dsn = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="DSN",
        help="A fleet's database instead of a file: postgresql://reader@host/stepwrit. Keep the password in "
        "PGPASSFILE: what stands on a command line is seen by all. A role that may only read is enough.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="VKEY|FILE",
        help="The log's public key (`stepwrit ledger key` prints it), or a file with it. Keep it elsewhere "
        "than the log: a key that lies beside a forged log is forged too.",
    ),
]


class Files(NamedTuple):
    """Where a broker on this machine keeps its log."""

    db: Path
    anchor: Path
    key: Path


def local_files() -> Files | None:
    """Those of broker.toml, else of a development broker that ran here; None without either."""
    config = config_of(None)
    if config is not None:
        return Files(config.store.path, config.store.anchor, config.ledger.key_file)
    dev = dev_folder()
    db = dev / "store" / "stepwrit.db"
    return Files(db, dev / "anchor" / "anchor.json", dev / "ledger.key") if db.exists() else None


def database(given: Path | None) -> Path:
    """The database to read. Raises ConfigurationError when nobody names one."""
    files = local_files() if given is None else None
    found = given or (files.db if files else None)
    if found is None:
        raise ConfigurationError("say which database: --db FILE (there is no broker.toml here to name it)")
    if not found.exists():
        raise ConfigurationError(f"there is no database at {found}")
    return found


def place(given: Path | None, dsn: str | None) -> str:
    """The file or the DSN to read, for `open_source`; a secret. By default that of broker.toml.

    Raises ConfigurationError.
    """
    if dsn is None:
        return (_fleet() if given is None else None) or str(database(given))
    if given is not None:
        raise ConfigurationError("give --db for a file or --database for a fleet's, not both")
    if not is_dsn(dsn):
        raise ConfigurationError("--database is a DSN such as postgresql://reader@host/stepwrit")
    return dsn


def _fleet() -> str | None:
    """The DSN of [fleet] in broker.toml with its password; None for a broker that stands alone."""
    config = config_of(None)
    if config is None or not config.fleet.is_on:
        return None
    from stepwrit_broker.wiring.fleet_settings import fleet_of  # noqa: PLC0415  few commands need it

    fleet = fleet_of(config.fleet)
    return None if fleet is None else fleet.postgres


def named(where: str) -> str:
    """A file or a DSN as it may be shown: without what opens it."""
    return redacted(where) if is_dsn(where) else where


def public_key(given: str | None) -> str:
    """The vkey in an option, in a file with a public or a private key, or of the broker on this machine.

    Raises ConfigurationError when nobody names one, Problem for what is no key.
    """
    if given is None:
        files = local_files()
        if files is None or not files.key.exists():
            raise ConfigurationError(
                "say which key signs the log: --key VKEY or --key FILE (`stepwrit ledger key` prints it)"
            )
        return keys.load(files.key).verifier.vkey
    path = Path(given)
    if not path.is_file():
        return parse_vkey(given).vkey
    text = path.read_text(encoding="utf-8").strip()
    return keys.load(path).verifier.vkey if text.startswith("PRIVATE+KEY+") else parse_vkey(text).vkey
