"""The true engine's tables, their version, and the role that brokers have on them.

Migrations go forward only, one transaction for all, under a lock that brokers which start at once share.
Tables that are as they should be are left alone: to make them again, if only they were missing, would lock
them against the brokers that work. Everything is in the schema `stepwrit`: one database serves one fleet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.seams import SHARDS_MAX

VERSION: Final = 1
SCHEMA: Final = "stepwrit"
OLDEST_SERVER: Final = 140000
KEEP_OPS_S: Final = 1800  # as the embedded store keeps answers
_LOCK: Final = 0x53545057  # the application id of the embedded store's file
LOCK_CLASS: Final = _LOCK
"""First half of the locks that are held while something is numbered; the second says what."""
LOCK_ERASING: Final = 1
_FIRST: Final = """
CREATE TABLE fleet (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch text NOT NULL, nth bigint NOT NULL,
    began_at double precision NOT NULL, shards integer NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE epochs (nth bigint PRIMARY KEY, epoch text NOT NULL UNIQUE, began_at double precision NOT NULL);
CREATE TABLE ruling (one boolean PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL)
    WITH (fillfactor = 10);
CREATE TABLE lease (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), holder text NOT NULL, until timestamptz NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE shards (
    shard integer PRIMARY KEY, epoch text NOT NULL, seq bigint NOT NULL,
    high double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
CREATE TABLE works (
    nth bigint NOT NULL, shard integer NOT NULL, last bigint NOT NULL, first bigint NOT NULL,
    digests bytea NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (nth, shard, last)
);
CREATE INDEX works_by_time ON works USING brin (at);
CREATE TABLE txns (txn text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, empty_at double precision)
    WITH (fillfactor = 80);
CREATE INDEX txns_empty ON txns (empty_at) WHERE empty_at IS NOT NULL;
CREATE TABLE rows (
    txn text COLLATE "C" NOT NULL, field text COLLATE "C" NOT NULL, ord bigint NOT NULL, value bytea NOT NULL,
    due double precision, live boolean NOT NULL, epoch text COLLATE "C", PRIMARY KEY (txn, field)
) WITH (fillfactor = 80);
CREATE INDEX rows_due ON rows (due) WHERE due IS NOT NULL;
CREATE INDEX rows_live ON rows (txn) WHERE live;
CREATE INDEX rows_epoch ON rows (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX rows_named ON rows (field) WHERE left(field, 6) IN ('steps:', 'grants', 'approv');
CREATE TABLE approvals (
    id text COLLATE "C" PRIMARY KEY, step text COLLATE "C" NOT NULL, txn text COLLATE "C" NOT NULL,
    tenant text NOT NULL, requester text NOT NULL, initiator text NOT NULL, tool text NOT NULL,
    state text NOT NULL, by text NOT NULL, ended_at double precision NOT NULL,
    asked_at double precision NOT NULL, n bigint NOT NULL GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX approvals_by_requester ON approvals USING hash (requester);
CREATE INDEX approvals_by_time ON approvals (n);
CREATE INDEX approvals_asked ON approvals (n) WHERE state = 'asked';
CREATE TABLE uses (
    grant_id text COLLATE "C" PRIMARY KEY, nth bigint NOT NULL, shard integer NOT NULL, seq bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX uses_by_time ON uses USING brin (at);
CREATE TABLE proofs (key bytea PRIMARY KEY, until double precision NOT NULL);
CREATE INDEX proofs_by_until ON proofs (until);
CREATE TABLE ops (
    key bytea PRIMARY KEY, digest text NOT NULL, answer text NOT NULL, at double precision NOT NULL
);
CREATE INDEX ops_by_time ON ops (at);
CREATE TABLE pins (key bytea PRIMARY KEY, jkt text NOT NULL, until double precision NOT NULL);
CREATE INDEX pins_by_until ON pins (until);
CREATE TABLE marks (
    target text COLLATE "C" PRIMARY KEY, verb text NOT NULL, reason text NOT NULL, by text NOT NULL,
    at double precision NOT NULL, ref text NOT NULL, walked boolean NOT NULL DEFAULT false
);
CREATE TABLE versions (
    kind text NOT NULL, number bigint NOT NULL, digest text NOT NULL, source text NOT NULL, doc text NOT NULL,
    by text NOT NULL, reason text NOT NULL, at double precision NOT NULL, ref text NOT NULL,
    PRIMARY KEY (kind, number)
);
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL, at double precision NOT NULL,
    kind text NOT NULL, txn text, ref text, tenant text
);
CREATE TABLE erasures (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE secrets (name text PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE broker_keys (
    id text PRIMARY KEY CHECK (length(id) <= 200), statement text NOT NULL, until double precision NOT NULL
);
INSERT INTO ruling (number) VALUES (0);
INSERT INTO lease (holder, until) VALUES ('', '-infinity');
"""
# A broker's role cannot delete what says "once". This does, and only what is too old to matter by its own
# clock too.
_PURGE: Final = f"""
CREATE OR REPLACE FUNCTION purge(before double precision, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {SCHEMA}, pg_temp AS $purge$
DECLARE
    gone bigint := 0;
    n bigint;
    upto double precision := least(before, extract(epoch FROM clock_timestamp()));
BEGIN
    DELETE FROM proofs WHERE key IN (SELECT key FROM proofs WHERE until < upto ORDER BY until LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    DELETE FROM pins WHERE key IN (SELECT key FROM pins WHERE until < upto ORDER BY until LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    DELETE FROM ops WHERE key IN (SELECT key FROM ops WHERE at < upto - {KEEP_OPS_S} ORDER BY at LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    DELETE FROM txns WHERE txn IN
        (SELECT txn FROM txns WHERE empty_at < upto - 3600 ORDER BY empty_at LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    DELETE FROM works WHERE ctid IN
        (SELECT ctid FROM works WHERE at < clock_timestamp() - interval '1 hour' LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    DELETE FROM uses WHERE ctid IN
        (SELECT ctid FROM uses WHERE at < clock_timestamp() - interval '2 days' LIMIT most);
    GET DIAGNOSTICS n = ROW_COUNT; gone := gone + n;
    RETURN gone;
END $purge$;
REVOKE ALL ON FUNCTION purge FROM PUBLIC;
"""  # noqa: S608  constants
MIGRATIONS: Final[Mapping[int, str]] = {1: _FIRST + _PURGE}
_RIGHTS: Final = {
    "meta": "SELECT", "fleet": "SELECT, UPDATE", "epochs": "SELECT, INSERT", "ruling": "SELECT, UPDATE",
    "lease": "SELECT, UPDATE", "shards": "SELECT, UPDATE", "works": "SELECT, INSERT",
    "txns": "SELECT, INSERT, UPDATE", "rows": "SELECT, INSERT, UPDATE, DELETE",
    "approvals": "SELECT, INSERT, UPDATE, DELETE", "uses": "SELECT, INSERT", "proofs": "SELECT, INSERT",
    "ops": "SELECT, INSERT", "pins": "SELECT, INSERT", "marks": "SELECT, INSERT, UPDATE, DELETE",
    "versions": "SELECT, INSERT", "outbox": "SELECT, INSERT, UPDATE, DELETE", "secrets": "SELECT, INSERT",
    "erasures": "SELECT, INSERT",
    "broker_keys": "SELECT, INSERT, DELETE",
}  # fmt: skip
_BEGIN: Final = """
INSERT INTO fleet (epoch, nth, began_at, shards)
    SELECT left(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 32), 1,
    extract(epoch FROM clock_timestamp()), $1
    ON CONFLICT DO NOTHING
"""
_SHARDS: Final = (
    "INSERT INTO shards (shard, epoch, seq) SELECT shard, epoch, 0 FROM fleet,"
    " generate_series(0, fleet.shards - 1) AS shard ON CONFLICT DO NOTHING"
)
_EPOCHS: Final = (
    "INSERT INTO epochs (nth, epoch, began_at) SELECT nth, epoch, began_at FROM fleet ON CONFLICT DO NOTHING"
)


def in_doubt(reason: str) -> Unavailable:
    """The error for a database that cannot be this fleet's."""
    return Unavailable("unavailable", reason, rule="store", who_can_change_it="the operator")


async def migrate(
    conn: Conn,
    log: FleetLog,
    *,
    shards: int,
    brokers: Sequence[str] = (),
    migrations: Mapping[int, str] = MIGRATIONS,
) -> None:
    """Make the tables or bring them up, and give the roles `brokers` what a broker needs; as their owner.

    Safe to run from several places at once, and again and again. Raises Unavailable for a newer schema and
    for a fleet of another number of shards.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise in_doubt(f"a fleet has 1 to {SHARDS_MAX} shards, not {shards}")
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await conn.execute(f"SET LOCAL search_path = {SCHEMA}")
        if not await _is_made(conn, log, max(migrations)):
            await _make(conn, log, migrations)
            await _found(conn, shards)
        await _check_shards(conn, shards)
        for role in brokers:
            await _grant(conn, role, log.movable)


async def check(conn: Conn) -> None:
    """Raises Unavailable where the schema's version is not what this broker knows."""
    found = await version(conn)
    if found > VERSION:
        raise _newer(found, VERSION)
    if found < VERSION:
        raise in_doubt(
            f"the database has schema {found}, this broker needs {VERSION}: migrate it as the tables' owner"
        )


async def check_made(conn: Conn, log: FleetLog, *, shards: int) -> None:
    """Raises Unavailable where the tables are not exactly what this broker and its log know."""
    await check(conn)
    if not await _is_made(conn, log, VERSION):
        raise in_doubt("the database lacks tables of the ledger: migrate it as the tables' owner")
    await _check_shards(conn, shards)


async def version(conn: Conn) -> int:
    """The schema's version; 0 where there is none."""
    if await conn.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.meta") is None:
        return 0
    found = await conn.fetchval(f"SELECT value FROM {SCHEMA}.meta WHERE name = 'schema'")  # noqa: S608
    return int(found or 0)


async def may_migrate(conn: Conn) -> bool:
    """Whether this role owns the schema, or may make it."""
    found: bool = await conn.fetchval(
        "SELECT CASE WHEN to_regnamespace($1) IS NULL"
        " THEN has_database_privilege(current_database(), 'CREATE')"
        " ELSE pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = $1), 'USAGE') END",
        SCHEMA,
    )
    return found


async def _is_made(conn: Conn, log: FleetLog, upto: int) -> bool:
    """Whether all of it is there. The log has no versions: what was once run is not run again."""
    if await version(conn) != upto:
        return False
    found: bool = await conn.fetchval(
        f"SELECT EXISTS (SELECT FROM {SCHEMA}.meta WHERE name = $1)",  # noqa: S608
        _name_of(log),
    )
    return found


def _name_of(log: FleetLog) -> str:
    return f"log {hashlib.sha256(log.schema.encode()).hexdigest()}"


async def _make(conn: Conn, log: FleetLog, migrations: Mapping[int, str]) -> None:
    await conn.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    await conn.execute("CREATE TABLE IF NOT EXISTS meta (name text PRIMARY KEY, value text NOT NULL)")
    await _upgrade(conn, migrations)
    await conn.execute(log.schema)
    await conn.execute(f"SET LOCAL search_path = {SCHEMA}")
    await conn.execute(
        "INSERT INTO meta (name, value) VALUES ($1, clock_timestamp()::text) ON CONFLICT DO NOTHING",
        _name_of(log),
    )


async def _upgrade(conn: Conn, migrations: Mapping[int, str]) -> None:
    at, upto = await version(conn), max(migrations)
    if at > upto:
        raise _newer(at, upto)
    for each in range(at + 1, upto + 1):
        await conn.execute(migrations[each])
    await conn.execute(
        "INSERT INTO meta (name, value) VALUES ('schema', $1)"
        " ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value",
        str(upto),
    )


def _newer(found: int, known: int) -> Unavailable:
    return in_doubt(f"the database has schema {found}, this broker knows {known}: a newer broker made it")


async def _found(conn: Conn, shards: int) -> None:
    """The first epoch, and a place for every shard."""
    await conn.execute(_BEGIN, shards)
    await conn.execute(_EPOCHS)
    await conn.execute(_SHARDS)


def rights(table: str, movable: Sequence[str]) -> str:
    """What a broker's role may do with a table, as GRANT takes it. movable: the log's tables that change."""
    return _RIGHTS.get(table, "SELECT, INSERT, UPDATE, DELETE" if table in movable else "SELECT, INSERT")


async def _check_shards(conn: Conn, shards: int) -> None:
    stands = await conn.fetchval(f"SELECT shards FROM {SCHEMA}.fleet")  # noqa: S608
    if stands != shards:
        raise in_doubt(f"this fleet has {stands} shards for good; the configuration says {shards}")


async def _grant(conn: Conn, role: str, movable: Sequence[str]) -> None:
    """Nothing of what says `once` or `was` can be changed by it: SELECT and INSERT only."""
    name = await conn.fetchval("SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = $1", role)
    if name is None:
        raise in_doubt(f"there is no role {role!r} in the database: make it first (CREATE ROLE … LOGIN)")
    tables: list[Any] = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')", SCHEMA
    )
    words = [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}; GRANT EXECUTE ON FUNCTION purge TO {name}"]
    for (table,) in tables:
        words.append(
            f'REVOKE ALL ON "{table}" FROM {name}; GRANT {rights(table, movable)} ON "{table}" TO {name}'
        )
    await conn.execute("; ".join(words))
