"""The `Truth` protocol on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from asyncpg.exceptions import DeadlockDetectedError, LockNotAvailableError, QueryCanceledError

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_approval import Sought
from stepwrit_broker.store.fleet.facts import PostgresFacts
from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.postgres import facts, schema, shared
from stepwrit_broker.store.fleet.postgres.committing import commit
from stepwrit_broker.store.fleet.postgres.folding import Batch
from stepwrit_broker.store.fleet.postgres.forward import Forward, Seen
from stepwrit_broker.store.fleet.postgres.ruling import Ruling
from stepwrit_broker.store.fleet.postgres.saying import Saying
from stepwrit_broker.store.fleet.postgres.searching import Searching
from stepwrit_broker.store.fleet.postgres.session import Connections, Session, connect, trouble
from stepwrit_broker.store.fleet.seams import (
    Beside,
    Carried,
    EpochOver,
    Kept,
    OpDone,
    RuleChange,
    Rules,
    Said,
    Snapshot,
    Standing,
    Used,
)

_STANDING: Final = (
    "SELECT f.epoch, f.nth AS order, f.began_at, f.shards, r.number AS rules,"
    " (SELECT coalesce(max(high), 0) FROM shards) AS high,"
    " (SELECT coalesce(max(n), 0) FROM erasures) AS erased FROM fleet f, ruling r"
)
_NEXT: Final = (
    "UPDATE fleet SET epoch = $2, nth = nth + 1, began_at = extract(epoch FROM clock_timestamp())"
    " WHERE epoch = $1 RETURNING nth, began_at"
)
_NOTE: Final = "INSERT INTO epochs (nth, epoch, began_at) VALUES ($1, $2, $3)"
_LAST: Final = "SELECT shard, seq FROM shards WHERE epoch = $1"
_ANEW: Final = "UPDATE shards SET epoch = $1, seq = 0"
_POSITIONS: Final = (
    "SELECT s.shard, s.seq, f.epoch = $1 AS stands FROM shards s, fleet f WHERE s.epoch = f.epoch"
)
_CARRIED: Final = (
    "SELECT w.shard, w.first, w.digests FROM fleet f, unnest($2::integer[], $3::bigint[]) AS u(shard, seq)"
    " JOIN works w ON w.shard = u.shard AND w.last >= u.seq WHERE f.epoch = $1 AND w.nth = f.nth"
    " ORDER BY w.shard, w.last LIMIT 1000"
)
_LEAD: Final = (
    "UPDATE lease SET holder = $1, until = clock_timestamp() + $2::interval"
    " WHERE holder = $1 OR until < clock_timestamp()"
)
_LEADER: Final = "SELECT holder FROM lease WHERE until >= clock_timestamp()"
_ERASED: Final = "SELECT n, name FROM erasures WHERE n > $1 ORDER BY n"
_EPOCH_CHARS: Final = 32
MIGRATE_TRIES: Final = 8
MIGRATE_PAUSE_S: Final = 0.5
_CROSSED: Final = (DeadlockDetectedError, LockNotAvailableError, QueryCanceledError)


class PostgresTruth:
    """See the protocol for every promise."""

    def __init__(self, connections: Connections, log: FleetLog, clock: Clock) -> None:
        self._connections, self._log, self._clock = connections, log, clock
        self._ruling, self._saying = Ruling(connections, log), Saying(connections, log)
        self._searching = Searching(connections)
        self._forward = Forward()

    async def standing(self) -> Standing:
        """What stands now. Raises Unavailable where the database is older than it was."""
        seen = self._forward.seen
        async with self._connections.use(vital=True) as conn:
            found = await _standing(conn)
        return self._checked(seen, found)

    async def next_epoch(self, over: str, fresh: str) -> Standing:
        """Waits for a commit under way; after it no commit of the old epoch succeeds."""
        if len(fresh) != _EPOCH_CHARS or not set(fresh) <= set("0123456789abcdef") or fresh == over:
            raise Malformed("invalid_request", "an epoch is 32 hex digits, and a new one")
        seen = self._forward.seen
        async with self._connections.write(vital=True) as conn:
            row = await conn.fetchrow(_NEXT, over, fresh)
            if row is not None:
                last = await conn.fetch(_LAST, over)
                seen.check_positions(over, {each["shard"]: each["seq"] for each in last})
                await conn.execute(_NOTE, row["nth"], fresh, row["began_at"])
                await conn.execute(_ANEW, fresh)
            found = await _standing(conn)
            seen.check_standing(found.order, found.rules)
        return self._checked(seen, found)

    def _checked(self, seen: Seen, found: Standing) -> Standing:
        seen.check_standing(found.order, found.rules)
        self._forward.standing(found.order, found.rules)
        return found

    async def positions(self, epoch: str) -> Mapping[int, int]:
        """Of every shard. Raises EpochOver."""
        seen = self._forward.seen
        async with self._connections.use(vital=True) as conn:
            rows = await conn.fetch(_POSITIONS, epoch)
        if not rows or not rows[0]["stands"]:
            raise EpochOver
        found = {row["shard"]: row["seq"] for row in rows}
        seen.check_positions(epoch, found)
        self._forward.positions(epoch, found)
        return found

    async def carried(self, epoch: str, asks: Mapping[int, int]) -> Sequence[tuple[int, Carried]]:
        """As it was committed, batch by batch."""
        async with self._connections.use(vital=True) as conn:
            rows = await conn.fetch(_CARRIED, epoch, list(asks), list(asks.values()))
        return [(row["shard"], Carried(row["first"], row["digests"])) for row in rows]

    async def commit(self, epoch: str, batch: Batch) -> None:
        """All or nothing; told again it is nothing more."""
        reached = await commit(self._connections, self._log, epoch, batch)
        self._forward.positions(epoch, reached)

    async def lead(self, me: str, for_s: float) -> bool:
        """By the server's clock; 0 seconds give it up."""
        async with self._connections.use(vital=True) as conn:
            done: str = await conn.execute(_LEAD, me, dt.timedelta(seconds=for_s))
        return done == "UPDATE 1"

    async def leader(self) -> str:
        """By the server's clock."""
        async with self._connections.use(vital=True) as conn:
            found: str | None = await conn.fetchval(_LEADER)
        return found or ""

    async def clock_offset(self) -> float:
        """The server's clock minus ours, seconds. Raises Unavailable, also where ours is in doubt itself."""
        async with self._connections.use(vital=True) as conn:
            return await facts.clock_offset(conn, self._clock)

    async def facts(self) -> PostgresFacts:
        """What the server says of itself."""
        async with self._connections.use() as conn:
            return await facts.facts(conn, self._clock)

    async def transaction(self, txn: str) -> Snapshot | None:
        """Its rows."""
        return await self._searching.transaction(txn)

    async def whose(self, field: str) -> str | None:
        """The transaction of a step, a grant or an approval."""
        return await self._searching.whose(field)

    async def used(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Which proofs are used up."""
        return await self._searching.used(keys)

    async def operation(self, key: bytes) -> OpDone | None:
        """The answer to a root's operation, or a rule's."""
        return await self._searching.operation(key)

    async def due(self, now: float, limit: int, *, with_old: bool = True) -> Sequence[str]:
        """Longest due first."""
        return await self._searching.due(now, limit, with_old=with_old)

    async def live(self, after: str, limit: int) -> Sequence[str]:
        """In the order of their ids."""
        return await self._searching.live(after, limit)

    async def sought(self, sought: Sought) -> Sequence[str]:
        """Newest first."""
        return await self._searching.sought(sought)

    async def waiting(self) -> tuple[int, str | None]:
        """How many, and the oldest."""
        return await self._searching.waiting()

    async def asked(
        self, who: str, tenant: str, initiator: str, tool: str, since: float
    ) -> tuple[int, int, float]:
        """What stands against one more approval."""
        return await self._searching.asked(who, tenant, initiator, tool, since)

    async def rules(self) -> Rules:
        """What is in force."""
        return await self._ruling.rules()

    async def rule(self, change: RuleChange) -> int:
        """Its number."""
        return await self._ruling.rule(change)

    async def walked(self, targets: Sequence[str]) -> None:
        """Followed down."""
        await self._ruling.walked(targets)

    async def version(self, kind: VersionKind, number: int) -> StoredVersion | None:
        """One version."""
        return await self._ruling.version(kind, number)

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """Oldest first."""
        return await self._ruling.history(kind)

    async def say(
        self, said: Sequence[Said], kept: Sequence[Kept], salts: Sequence[tuple[str, bytes]]
    ) -> None:
        """For the sequencer to append."""
        await self._saying.say(said, kept, salts)

    async def pin(self, key: bytes, jkt: str, until: float, proofs: Sequence[Used]) -> str:
        """The thumbprint that stands."""
        return await self._saying.pin(key, jkt, until, proofs)

    async def beside(self, name: str) -> Beside:
        """Beside the log."""
        async with self._connections.use() as conn:
            return await self._log.beside(conn, name)

    async def erased(self, after: int) -> Sequence[tuple[int, str]]:
        """In order."""
        async with self._connections.use() as conn:
            return [(row[0], row[1]) for row in await conn.fetch(_ERASED, after)]

    async def secret(self, fresh: bytes) -> bytes:
        """`fresh` at first."""
        async with self._connections.write(vital=True) as conn:
            return await shared.keep(conn, "fleet", fresh)

    async def purge(self, now: float, limit: int) -> int:
        """By the server's clock too: what is too old by ours alone stays."""
        async with self._connections.use() as conn:
            gone: int = await conn.fetchval("SELECT purge($1, $2)", now, limit)
        return gone

    async def close(self) -> None:
        """Let go of all connections."""
        await self._connections.close()


async def _standing(conn: Conn) -> Standing:
    return Standing(**dict(await conn.fetchrow(_STANDING)))


async def open_truth(session: Session, log: FleetLog, clock: Clock, *, shards: int) -> PostgresTruth:
    """Connect, bring the tables up where the role may, and see that they are what this broker knows.

    Tables that are made while others work may have to wait for them, or be what ends a deadlock: then they
    are made again, MIGRATE_TRIES times. Raises Unavailable: no server, one too old, a standby, a newer
    schema, another number of shards.
    """
    with trouble():
        for left in reversed(range(MIGRATE_TRIES)):
            try:
                await _ready(session, log, shards)
                break
            except _CROSSED:
                if not left:
                    raise
                await asyncio.sleep(MIGRATE_PAUSE_S)
    connections = Connections(session)
    await connections.open()
    return PostgresTruth(connections, log, clock)


async def _ready(session: Session, log: FleetLog, shards: int) -> None:
    conn = await connect(session)
    try:
        await _migrated(conn, log, shards)
    finally:
        conn.terminate()


async def _migrated(conn: Conn, log: FleetLog, shards: int) -> None:
    if conn.get_server_version()[:1] < (schema.OLDEST_SERVER // 10000,):
        raise schema.in_doubt("the fleet's database must be PostgreSQL 14 or newer")
    if await conn.fetchval("SELECT pg_is_in_recovery()"):
        raise schema.in_doubt("the fleet's database is a standby: name its primary in the DSN")
    if await schema.may_migrate(conn):
        await schema.migrate(conn, log, shards=shards)
    await schema.check_made(conn, log, shards=shards)
