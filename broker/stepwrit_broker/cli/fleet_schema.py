"""The fleet's tables and the brokers' role, looked at and brought up as their owner."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from asyncpg.exceptions import PostgresError

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.fleet import BROKER
from stepwrit_broker.config_fleet import FleetTable, with_password
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.where import is_dsn, redacted
from stepwrit_broker.store.fleet.log import Conn
from stepwrit_broker.store.fleet.postgres import schema
from stepwrit_broker.store.fleet.postgres.inspecting import Inspected, inspect
from stepwrit_broker.store.fleet.postgres.session import Session, connect, trouble

_HINTS: Final = {
    "28P01": "the password is wrong",
    "28000": "pg_hba.conf does not let this role in from here",
    "3D000": "there is no such database: CREATE DATABASE … OWNER …",
    "42501": "this role may not: connect as the tables' owner",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be there. dsn: with its password, a secret."""

    dsn: str = field(repr=False)
    roles: tuple[str, ...]
    shards: int

    @classmethod
    def of(
        cls,
        dsn: str,
        password_file: Path | None,
        fleet: FleetTable | None,
        roles: Sequence[str] | None,
        shards: int | None,
    ) -> Wanted:
        """What is not given comes from `[fleet]`. Raises ConfigurationError."""
        if not is_dsn(dsn):
            raise ConfigurationError("--dsn is a DSN such as postgresql://stepwrit_owner@host/stepwrit")
        parts = urlsplit(dsn)
        if ":" in parts.netloc.rpartition("@")[0] or "password=" in parts.query:
            raise ConfigurationError(
                "--dsn must hold no password, all users of the machine see it: use --password-file"
            )
        secret = "" if password_file is None else password_file.read_text(encoding="utf-8").strip()
        table = fleet or FleetTable()
        login = unquote(urlsplit(table.postgres).netloc.rpartition("@")[0])
        return cls(
            dsn=with_password(dsn, secret),
            roles=tuple(roles or [login or BROKER]),
            shards=shards or table.shards,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found and done. before: the schema's version then; wrong: what stays to be done."""

    database: str
    before: int
    now: Inspected
    wanted: Wanted
    is_check: bool

    @property
    def is_good(self) -> bool:
        """Whether nothing is left to do."""
        return all(good for good, _ in self.lines())

    def lines(self) -> Iterator[tuple[bool, str]]:
        """Each with whether it is good."""
        now = self.now
        yield now.version == schema.VERSION, f"tables   {self._version()} in {self.database}"
        if now.shards is not None:
            yield now.shards == self.wanted.shards, f"shards   {self._shards(now.shards)}"
        for role in now.roles:
            said = "; ".join(role.wrong) or "has what a broker needs and no more"
            yield not role.wrong, f"role     {role.name}: {said}"

    def _version(self) -> str:
        at, known = self.now.version, schema.VERSION
        if at != known:
            return f"{'none' if not at else f'version {at}'}, to be {known}"
        return f"version {at}" if self.before == at else f"version {at}, was {self.before or 'none'}"

    def _shards(self, there: int) -> str:
        wanted = self.wanted.shards
        return (
            str(there)
            if there == wanted
            else f"{there} for good, but {wanted} are said: set [fleet] shards = {there}"
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        now = self.now
        return {
            "ok": self.is_good,
            "check": self.is_check,
            "database": self.database,
            "schema": {"before": self.before, "now": now.version, "known": schema.VERSION},
            "shards": now.shards,
            "roles": {role.name: list(role.wrong) for role in now.roles},
        }


async def brought_up(wanted: Wanted, *, is_check: bool) -> Report:
    """Look, migrate unless this is a check, and look again.

    Raises Unavailable for a server that does not answer, a standby, a newer schema, another number of shards,
    a role that is not there or an owner that is not.
    """
    with _hinted():
        conn = await connect(Session(dsn=wanted.dsn, statement_s=60.0))
        try:
            with trouble():
                return await _brought_up(conn, wanted, is_check=is_check)
        finally:
            await conn.close()


async def _brought_up(conn: Conn, wanted: Wanted, *, is_check: bool) -> Report:
    log = PgLog()
    before = await schema.version(conn)
    if not is_check:
        if not await schema.may_migrate(conn):
            raise schema.in_doubt(
                "this role neither owns the tables nor may make them: connect as their owner"
            )
        await schema.migrate(conn, log, shards=wanted.shards, brokers=wanted.roles)
    elif before > schema.VERSION:
        await schema.check(conn)
    return Report(
        database=redacted(wanted.dsn),
        before=before,
        now=await inspect(conn, log, wanted.roles),
        wanted=wanted,
        is_check=is_check,
    )


@contextmanager
def _hinted() -> Generator[None]:
    """What the server's own code says of the way there."""
    try:
        yield
    except Unavailable as bad:
        cause = bad.__cause__
        hint = _HINTS.get(str(getattr(cause, "sqlstate", ""))) if isinstance(cause, PostgresError) else None
        if hint is None:
            raise
        raise schema.in_doubt(f"{bad.reason}: {hint}") from cause
