"""What the two engines say of themselves: read at start and every minute, judged by `promises.judge`.

Each adapter has `async def facts(self)`; a value that could not be read is None, and never a guess: a managed
Redis without CONFIG GET has its settings stated by the operator instead (`[fleet.redis.stated]`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """One primary; of Redis Cluster there is one for each, of Sentinel the one it names. Nothing is secret.

    node: `host:port`. mode: `single`, `sentinel` or `cluster`. role: `master` or `slave`, as INFO says it.
    run_id: with the replication id, its reign. maxmemory: bytes, 0 for no bound. used_memory: bytes.
    replicas: connected and online. sentinels: how many watch it, with the one that was asked; quorum: how
    many must agree. clock_offset_s: its clock minus ours, after half of the round trip. is_tls: of our
    connection.
    user: the ACL user that we are. Settings are as CONFIG GET prints them; None where it may not be asked.
    """

    node: str
    mode: str
    version: str
    role: str
    run_id: str
    replicas: int
    used_memory: int
    clock_offset_s: float
    is_tls: bool
    user: str
    maxmemory: int | None = None
    maxmemory_policy: str | None = None
    appendonly: str | None = None
    appendfsync: str | None = None
    save: str | None = None
    min_replicas_to_write: str | None = None
    min_replicas_max_lag: str | None = None
    sentinels: int | None = None
    quorum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresFacts:
    """The server behind the DSN, on our own session. Nothing is secret.

    node: `host:port` or the socket's path. version: server_version_num, like 150006. is_standby:
    pg_is_in_recovery(). is_read_only: default_transaction_read_only, or a standby. Settings are as SHOW
    prints them on a session of our role. sync_standbys: standbys whose sync_state is `sync` or `quorum` and
    that stream now; None where the role may not see them. clock_offset_s: its clock minus ours, after half
    of the
    round trip. is_superuser: of our role. is_tls: of our connection (a Unix socket counts as one). sslmode:
    how our side makes sure of the server, as the DSN says it; `local` where that names this machine alone.
    """

    node: str
    version: int
    is_standby: bool
    is_read_only: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str
    sync_standbys: int | None
    wal_sync_method: str
    data_checksums: str
    server_encoding: str
    clock_offset_s: float
    is_superuser: bool
    is_tls: bool
    max_connections: int
    sslmode: str = "verify-full"


def surely_off(theirs: float, before: float, after: float) -> float:
    """By how much another clock is off ours at least, seconds; before, after: ours around the question.

    It was read at any moment between the two: a slow answer is no wrong clock.
    """
    offset, either = theirs - (before + after) / 2, (after - before) / 2
    return max(0.0, offset - either) + min(0.0, offset + either)
