"""What the server says of itself; `promises.judge` says what of it must be refused."""

from __future__ import annotations

from typing import Any, Final

from stepwrit_broker.ports import Clock
from stepwrit_broker.store.fleet.facts import PostgresFacts, surely_off
from stepwrit_broker.store.fleet.log import Conn

_SETTINGS: Final = (
    "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "wal_sync_method",
    "data_checksums", "server_encoding", "max_connections", "server_version_num",
    "default_transaction_read_only",
)  # fmt: skip
_ASK: Final = (
    "SELECT "  # noqa: S608  constants
    + ", ".join(f"current_setting('{name}') AS {name}" for name in _SETTINGS)
    + ", pg_is_in_recovery() AS is_standby,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,"
    " inet_server_addr() IS NULL"
    " OR coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_tls,"
    " host(inet_server_addr()) AS host, inet_server_port() AS port"
)
# a role that may not see them gets rows without a state
_STANDBYS: Final = (
    "SELECT CASE WHEN bool_or(state IS NULL) THEN NULL"
    " ELSE count(*) FILTER (WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')) END"
    " FROM pg_stat_replication"
)
_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def facts(conn: Conn, clock: Clock) -> PostgresFacts:
    """Of this connection's server."""
    row = await conn.fetchrow(_ASK)
    host = row["host"]
    return PostgresFacts(
        node=f"{host}:{row['port']}" if host else "a Unix socket",
        version=int(row["server_version_num"]),
        is_standby=row["is_standby"],
        is_read_only=row["is_standby"] or row["default_transaction_read_only"] == "on",
        sync_standbys=await conn.fetchval(_STANDBYS),
        clock_offset_s=await clock_offset(conn, clock),
        is_superuser=row["is_superuser"],
        is_tls=row["is_tls"],
        max_connections=int(row["max_connections"]),
        **_as_shown(row),
    )


def _as_shown(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in _SETTINGS[:7]}


async def clock_offset(conn: Conn, clock: Clock) -> float:
    """The server's clock minus ours, as far as that is sure; seconds."""
    before = clock.now()
    theirs: float = await conn.fetchval(_TIME)
    return surely_off(theirs, before, clock.now())
