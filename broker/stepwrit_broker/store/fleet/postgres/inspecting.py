"""Whether the tables are there and a broker's role has what it needs and no more. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.postgres import schema
from stepwrit_broker.store.fleet.postgres.schema import SCHEMA

_KINDS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_ROLE: Final = "SELECT rolname, rolsuper, rolcanlogin FROM pg_roles WHERE rolname = $1"
_TABLES: Final = """
SELECT c.relname AS name, c.relispartition AS is_part,
    array(SELECT kind FROM unnest($3::text[]) AS kind WHERE has_table_privilege($2, c.oid, kind)) AS has
FROM pg_class AS c WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""
_SCHEMA: Final = (
    "SELECT has_schema_privilege($2, $1, 'USAGE') AS may_use,"
    " has_schema_privilege($2, $1, 'CREATE') AS may_make"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A broker's role. wrong: what it lacks or has too much, one sentence each; empty when it is right."""

    name: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """The database as it stands. version: 0 without tables. shards: None without a fleet."""

    version: int
    shards: int | None
    roles: tuple[Role, ...]


async def inspect(conn: Conn, log: FleetLog, roles: Sequence[str]) -> Inspected:
    """Look at the tables and at these brokers' roles."""
    found = await schema.version(conn)
    shards = await conn.fetchval(f"SELECT shards FROM {SCHEMA}.fleet") if found else None  # noqa: S608
    looked = [Role(name=each, wrong=tuple(await _wrong(conn, log, each, found))) for each in roles]
    return Inspected(version=found, shards=shards, roles=tuple(looked))


async def _wrong(conn: Conn, log: FleetLog, role: str, found: int) -> list[str]:
    row = await conn.fetchrow(_ROLE, role)
    if row is None:
        return ["there is no such role: CREATE ROLE … LOGIN"]
    wrong = [] if row["rolcanlogin"] else ["it may not log in: ALTER ROLE … LOGIN"]
    if row["rolsuper"]:
        return [*wrong, "it is a superuser: take another role for brokers"]
    if not found:
        return wrong
    of_schema = await conn.fetchrow(_SCHEMA, SCHEMA, role)
    tables = await conn.fetch(_TABLES, SCHEMA, role, list(_KINDS))
    return [*wrong, *_of_schema(of_schema), *_of_tables(tables, log.movable)]


def _of_schema(row: Any) -> Iterator[str]:
    if not row["may_use"]:
        yield f"it may not use the schema {SCHEMA}"
    if row["may_make"]:
        yield f"it may make tables in the schema {SCHEMA}: is it a member of the owner's role?"


def _of_tables(rows: Sequence[Any], movable: Sequence[str]) -> Iterator[str]:
    """Partitions are reached through their table: they need no rights, and may have no more than it."""
    for row in rows:
        wanted, has = set(schema.rights(row["name"], movable).split(", ")), set(row["has"])
        lacks = set[str]() if row["is_part"] else wanted - has
        if lacks:
            yield f"it lacks {_named(lacks)} on {row['name']}"
        if has - wanted:
            yield f"it has {_named(has - wanted)} on {row['name']}, which it must not have"


def _named(kinds: set[str]) -> str:
    return ", ".join(each for each in _KINDS if each in kinds)
