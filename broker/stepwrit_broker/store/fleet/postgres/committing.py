"""Works into the truth: all of a batch or nothing, each number once, in one transaction with the log.

The order of locks: the epoch (shared), the shards by number, rows, the head of the log. Who moves the epoch
on waits for a commit under way; every commit after it finds that the epoch is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.postgres.folding import (
    DIGEST_BYTES,
    Batch,
    Fold,
    Stretch,
    check_follows,
    digest,
    stretches,
)
from stepwrit_broker.store.fleet.postgres.schema import LOCK_CLASS, LOCK_ERASING
from stepwrit_broker.store.fleet.postgres.session import Connections
from stepwrit_broker.store.fleet.seams import Contradiction, EpochOver, Numbered, Said

DRAIN_MAX: Final = 1000
_FENCE: Final = "SELECT epoch, nth FROM fleet FOR SHARE"
_PLACES: Final = (
    "SELECT shard, CASE WHEN epoch = $1 THEN seq ELSE 0 END AS seq FROM shards WHERE shard = ANY($2)"
    " ORDER BY shard FOR UPDATE"
)
_DIGESTS: Final = (
    "SELECT first, digests FROM works WHERE nth = $1 AND shard = $2 AND last >= $3 ORDER BY last"
)
_WRITE: Final = """
WITH moved AS (
    UPDATE txns t SET version = u.upto, empty_at = NULL
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS u(txn, at, upto)
    WHERE t.txn = u.txn AND t.version = u.at AND u.at > 0 RETURNING t.txn
), fresh AS (
    INSERT INTO txns (txn, version)
    SELECT u.txn, u.upto FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS u(txn, at, upto)
    WHERE u.at = 0
), put AS (
    INSERT INTO rows (txn, field, ord, value, due, live, epoch)
    SELECT * FROM unnest($4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::float8[], $9::boolean[],
        $10::text[])
    ON CONFLICT (txn, field) DO UPDATE SET ord = EXCLUDED.ord, value = EXCLUDED.value, due = EXCLUDED.due,
        live = EXCLUDED.live, epoch = EXCLUDED.epoch
), gone AS (
    DELETE FROM rows r USING unnest($11::text[], $12::text[]) AS u(txn, field)
    WHERE r.txn = u.txn AND r.field = u.field
), placed AS (
    UPDATE shards s SET epoch = $13, seq = u.last, high = greatest(s.high, $28)
    FROM unnest($14::integer[], $15::bigint[]) AS u(shard, last) WHERE s.shard = u.shard
), noted AS (
    INSERT INTO works (nth, shard, first, last, digests)
    SELECT $16::bigint, * FROM unnest($14::integer[], $17::bigint[], $15::bigint[], $18::bytea[])
), spent AS (
    INSERT INTO uses (grant_id, nth, shard, seq)
    SELECT u.grant_id, $16, u.shard, u.seq
    FROM unnest($19::text[], $20::integer[], $21::bigint[]) AS u(grant_id, shard, seq)
), shown AS (
    INSERT INTO proofs (key, until) SELECT * FROM unnest($22::bytea[], $23::float8[])
), done AS (
    INSERT INTO ops (key, digest, answer, at)
    SELECT * FROM unnest($24::bytea[], $25::text[], $26::text[], $27::float8[])
)
SELECT txn FROM moved
"""
_PUT_APPROVALS: Final = """
INSERT INTO approvals (id, step, txn, tenant, requester, initiator, tool, state, by, ended_at, asked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state, by = EXCLUDED.by, ended_at = EXCLUDED.ended_at
"""
_DROP_APPROVALS: Final = "DELETE FROM approvals WHERE id = ANY($1)"
_DROP_MARKS: Final = "DELETE FROM marks WHERE target = ANY($1)"
_EMPTY: Final = (
    "UPDATE txns SET empty_at = $2 WHERE txn = ANY($1)"
    " AND NOT EXISTS (SELECT 1 FROM rows WHERE rows.txn = txns.txn)"
)
_DRAIN: Final = (
    "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)"
    " RETURNING id, body, at, kind, txn, ref, tenant"
)
_IN_ORDER: Final = "SELECT pg_advisory_xact_lock($1, $2)"
_ERASED: Final = "INSERT INTO erasures (name) SELECT * FROM unnest($1::text[])"
_ONCE: Final = {
    "uses_pkey": "a grant was used before",
    "proofs_pkey": "a proof was used before",
    "ops_pkey": "a root's operation was done before",
    "txns_pkey": "a new transaction is there already",
}


async def commit(connections: Connections, log: FleetLog, epoch: str, batch: Batch) -> Mapping[int, int]:
    """See the `Truth` protocol; where the batch's shards are now.

    Raises EpochOver, Contradiction, Unavailable.
    """
    whole = stretches(numbered for numbered, _ in batch)
    async with connections.write(vital=True) as conn:
        nth = await fence(conn, epoch)
        try:
            reached = await _commit(conn, log, (epoch, nth), batch, whole)
        except asyncpg.UniqueViolationError as error:
            raise _named(error) from error
        except _NEVER as error:
            raise Contradiction(f"what cannot be kept: SQLSTATE {error.sqlstate}") from error
    return reached


# A work of this kind would be tried for ever: the stream cannot be right.
_NEVER: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)


async def fence(conn: Conn, epoch: str) -> int:
    """Hold the epoch where it is until this transaction ends; its place. Raises EpochOver."""
    row = await conn.fetchrow(_FENCE)
    if row is None or row["epoch"] != epoch:
        raise EpochOver
    return int(row["nth"])


async def _commit(
    conn: Conn, log: FleetLog, stands: tuple[str, int], batch: Batch, whole: dict[int, Stretch]
) -> Mapping[int, int]:
    positions = await _positions(conn, stands[0], whole) if batch else {}
    check_follows(whole, positions)
    await _check_told(conn, stands[1], [numbered for numbered, _ in batch], positions)
    fresh = [(each, work) for each, work in batch if each.seq > positions[each.shard]]
    fold = Fold()
    for numbered, work in fresh:
        fold.add(numbered, work)
    if fresh:
        await _write(conn, fold, stretches(each for each, _ in fresh), stands)
        if fold.salts:
            await log.put_salts(conn, fold.salts)
        if fold.kept:
            await log.put_kept(conn, fold.kept)
        if fold.erased:
            await _erase(conn, log, fold.erased)
    await _append(conn, log, fold.entries)
    return {shard: max(stretch.last, positions[shard]) for shard, stretch in whole.items()}


async def _positions(conn: Conn, epoch: str, whole: Mapping[int, Stretch]) -> dict[int, int]:
    """Where the shards are, and nobody else moves them until this transaction ends."""
    rows = await conn.fetch(_PLACES, epoch, sorted(whole))
    return {row["shard"]: row["seq"] for row in rows}


async def _check_told(conn: Conn, nth: int, batch: list[Numbered], positions: Mapping[int, int]) -> None:
    """What is told again must be what was told. What is no longer known cannot be."""
    again = [each for each in batch if each.seq <= positions[each.shard]]
    known: dict[tuple[int, int], bytes] = {}
    for shard in {each.shard for each in again}:
        first = min(each.seq for each in again if each.shard == shard)
        for row in await conn.fetch(_DIGESTS, nth, shard, first):
            raw = row["digests"]
            for at in range(0, len(raw), DIGEST_BYTES):
                known[shard, row["first"] + at // DIGEST_BYTES] = raw[at : at + DIGEST_BYTES]
    for each in again:
        if known.get((each.shard, each.seq)) != digest(each):
            raise Contradiction(f"number {each.seq} of shard {each.shard} was another work")


async def _write(conn: Conn, fold: Fold, fresh: dict[int, Stretch], stands: tuple[str, int]) -> None:
    moved = await conn.fetch(_WRITE, *_arrays(fold, fresh, stands))
    expected = {txn for txn, (at, _) in fold.versions.items() if at > 0}
    missing = expected - {row["txn"] for row in moved}
    if missing:
        one = min(missing)
        raise Contradiction(f"version {fold.versions[one][0]} of {one} does not follow")
    if fold.approvals:
        await conn.executemany(_PUT_APPROVALS, fold.approvals)
    if fold.approvals_gone:
        await conn.execute(_DROP_APPROVALS, fold.approvals_gone)
    if fold.marks_gone:
        await conn.execute(_DROP_MARKS, fold.marks_gone)
    if fold.perhaps_empty:
        await conn.execute(_EMPTY, fold.perhaps_empty, fold.at)


def _arrays(fold: Fold, fresh: Mapping[int, Stretch], stands: tuple[str, int]) -> list[object]:
    """The arguments of _WRITE."""
    epoch, nth = stands
    versions, puts, drops = fold.versions, fold.puts, fold.drops
    return [
        list(versions), [at for at, _ in versions.values()], [upto for _, upto in versions.values()],
        [txn for txn, _, _ in puts], [row.field for _, row, _ in puts], [row.ord for _, row, _ in puts],
        [row.value for _, row, _ in puts], [of.due for _, _, of in puts], [of.live for _, _, of in puts],
        [of.epoch for _, _, of in puts], [txn for txn, _ in drops], [name for _, name in drops],
        epoch, list(fresh), [each.last for each in fresh.values()], nth,
        [each.first for each in fresh.values()], [bytes(each.digests) for each in fresh.values()],
        [grant for grant, _, _ in fold.uses], [shard for _, shard, _ in fold.uses],
        [seq for _, _, seq in fold.uses], [each.key for each in fold.proofs],
        [each.until for each in fold.proofs], [each.key for each in fold.ops],
        [each.digest for each in fold.ops], [each.answer for each in fold.ops],
        [each.at for each in fold.ops], fold.at,
    ]  # fmt: skip


async def _erase(conn: Conn, log: FleetLog, names: list[str]) -> None:
    """Numbered in the order in which they are committed: nobody who looks for later ones misses one."""
    for name in names:
        await log.erase(conn, name)
    await conn.execute(_IN_ORDER, LOCK_CLASS, LOCK_ERASING)
    await conn.execute(_ERASED, names)


async def _append(conn: Conn, log: FleetLog, entries: list[Said]) -> None:
    """The works' entries, then what was said outside of any."""
    rows = sorted(await conn.fetch(_DRAIN, DRAIN_MAX))
    said = [*entries, *(Said(*row[1:]) for row in map(tuple, rows))]
    if said:
        await log.append(conn, said)


def _named(error: asyncpg.UniqueViolationError) -> Contradiction:
    name, detail = getattr(error, "constraint_name", ""), getattr(error, "detail", "")
    return Contradiction(f"{_ONCE.get(name, f'{name} holds it already')}: {detail}"[:300])
