"""A log by where it is: a SQLite file, or a PostgreSQL database by its DSN."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader

_SCHEMES: Final = ("postgresql://", "postgres://")


def is_dsn(where: str) -> bool:
    """Whether this names a PostgreSQL database and not a file."""
    return where.startswith(_SCHEMES)


def redacted(dsn: str) -> str:
    """A DSN that may be shown: no password, and no parameters, which may hold one."""
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def open_source(where: str) -> LogSource:
    """Its rows; whoever opens closes. Raises Unavailable for a file that cannot be opened."""
    if not is_dsn(where):
        return SqliteSource(open_reader(Path(where)))
    from stepwrit_broker.ledger.postgres.reading import Reading  # noqa: PLC0415  a driver that few commands need
    from stepwrit_broker.ledger.postgres.source import PgSource  # noqa: PLC0415

    return PgSource(Reading(where))
