"""The log's writing side in PostgreSQL, inside the store's own transactions; any broker, any number at once.

The head is one row: size, root and the compact range to go on from. Whoever appends locks it, numbers its
entries from it, and moves it from the size and root that it saw: if they are not there any more, nothing was
appended. Entries, bodies, completed tile tops and the head are one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import asyncpg

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.merkle import HASH_BYTES, Frontier, Node
from stepwrit_broker.ledger.postgres.schema import MOVABLE, SCHEMA, month_of, next_month
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.sqlite_log import MAX_BODY_BYTES
from stepwrit_broker.ports_ledger import Beside, Contradiction, Kept, Said

Conn = Any  # asyncpg.Connection, or what its pool hands out
_TODAY: Final = (
    "SELECT (extract(year FROM at) * 100 + extract(month FROM at))::int"
    " FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS at) AS clock"
)
_LOCK: Final = f"SELECT size, root, frontier, month, ({_TODAY}) AS today FROM ledger_head FOR UPDATE"  # noqa: S608  a constant
_OPEN: Final = "INSERT INTO ledger_months (month, first) VALUES ($1, $2)"
_APPEND: Final = """
WITH said AS (
    SELECT * FROM unnest($1::int[], $2::bigint[], $3::float8[], $4::text[], $5::text[], $6::text[],
        $7::text[], $8::bytea[], $9::bytea[]) AS s (month, seq, at, kind, txn, ref, tenant, leaf, body)
), entries AS (
    INSERT INTO ledger_entries (month, seq, at, kind, txn, ref, tenant, leaf)
    SELECT month, seq, at, kind, txn, ref, tenant, leaf FROM said
), bodies AS (
    INSERT INTO ledger_bodies (month, seq, body) SELECT month, seq, body FROM said
), nodes AS (
    INSERT INTO ledger_nodes (level, idx, hash)
    SELECT * FROM unnest($10::int[], $11::bigint[], $12::bytea[])
)
UPDATE ledger_head SET size = $13, root = $14, frontier = $15, month = $16 WHERE size = $17 AND root = $18
"""
_PUT_SALTS: Final = (
    "INSERT INTO ledger_salts (txn, salt) SELECT * FROM unnest($1::text[], $2::bytea[])"
    " ON CONFLICT (txn) DO NOTHING"
)
_OTHER_SALTS: Final = (
    "SELECT count(*) FROM unnest($1::text[], $2::bytea[]) AS given (txn, salt)"
    " JOIN ledger_salts AS kept ON kept.txn = given.txn AND kept.salt IS DISTINCT FROM given.salt"
)
_PUT_KEPT: Final = (
    "INSERT INTO ledger_decisions (digest, txn, doc)"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) AS kept (digest, txn, doc)"
    " WHERE NOT EXISTS (SELECT FROM ledger_salts AS s WHERE s.txn = kept.txn AND s.salt IS NULL)"
    " ON CONFLICT (digest) DO NOTHING"
)
_BESIDE: Final = (
    "SELECT EXISTS (SELECT FROM ledger_salts WHERE txn = $1 AND salt IS NOT NULL),"
    " (SELECT count(*) FROM ledger_decisions WHERE txn = $1)"
)


class Head(NamedTuple):
    """The head as it was locked. today: this month, by the database's clock."""

    frontier: Frontier
    root: bytes
    month: int
    today: int


class PgLog:
    """The `FleetLog` of a store in the same database. It holds no state: every call reads what stands."""

    @property
    def schema(self) -> str:
        """Tables and functions; may be run again and again."""
        return SCHEMA

    @property
    def movable(self) -> Sequence[str]:
        """The tables whose rows a broker's role may change."""
        return MOVABLE

    async def append(self, conn: Conn, entries: Sequence[Said]) -> None:
        """Add entries to the caller's transaction. Raises Contradiction when the head moved or the numbers
        are taken; Malformed for a body over 65,535 bytes; Unavailable for a head that makes no tree.
        """
        if not entries:
            return
        if any(len(each.body) > MAX_BODY_BYTES for each in entries):
            raise Malformed("invalid_request", f"a ledger entry has at most {MAX_BODY_BYTES} bytes")
        head = await lock_head(conn)
        first, months = head.frontier.size, _months(head, entries)
        await _open_months(conn, head.month, first, months)
        leaves = [sha256(b"\x00" + each.body).digest() for each in entries]
        grown = head.frontier.copy()
        tops = grown.extend(leaves)
        seqs = list(range(first, grown.size))
        rows = [months, seqs, *_columns(entries), leaves, [each.body for each in entries], *_of(tops)]
        moved = (grown.size, grown.root, b"".join(grown.peaks), months[-1])
        try:
            done = await conn.execute(_APPEND, *rows, *moved, first, head.root)
        except asyncpg.UniqueViolationError as taken:
            raise Contradiction(f"entries from {first} on are there already") from taken
        if done != "UPDATE 1":
            raise Contradiction(f"the log's head is not at {first} any more")

    async def put_salts(self, conn: Conn, salts: Sequence[tuple[str, bytes]]) -> None:
        """Keep salts. Raises Contradiction where another one is kept, or an erased one."""
        if not salts:
            return
        given = [txn for txn, _ in salts], [salt for _, salt in salts]
        done = await conn.execute(_PUT_SALTS, *given)
        if done != f"INSERT 0 {len(salts)}" and await conn.fetchval(_OTHER_SALTS, *given):
            raise Contradiction("a transaction has another salt, or an erased one")

    async def put_kept(self, conn: Conn, kept: Sequence[Kept]) -> None:
        """Keep documents; none of a transaction that was erased."""
        if kept:
            digests, names, docs = zip(*kept, strict=True)
            await conn.execute(_PUT_KEPT, digests, names, docs)

    async def name_log(self, conn: Conn, origin: str) -> None:
        """Give a new, empty log its name. Raises Unavailable when it has another."""
        await conn.execute(
            "INSERT INTO ledger_meta (name, value) SELECT 'origin', $1 FROM ledger_head WHERE size = 0"
            " ON CONFLICT (name) DO NOTHING",
            origin,
        )
        named = await conn.fetchval("SELECT value FROM ledger_meta WHERE name = 'origin'")
        if named != origin and not (named or "").startswith(f"{origin}/"):
            raise in_doubt("this log has another origin, or entries without one")

    async def erase(self, conn: Conn, name: str) -> tuple[int, int]:
        """Erase a transaction's salt and documents for ever: how many of each. In the caller's transaction.

        The old bytes leave the tables with the next VACUUM; write-ahead logs and backups are the operator's.
        """
        salts = await conn.execute(
            "UPDATE ledger_salts SET salt = NULL WHERE txn = $1 AND salt IS NOT NULL", name
        )
        documents = await conn.execute("DELETE FROM ledger_decisions WHERE txn = $1", name)
        return _count(salts), _count(documents)

    async def beside(self, conn: Conn, name: str) -> Beside:
        """What is kept under this name."""
        return Beside(*await conn.fetchrow(_BESIDE, name))

    async def prepare_months(self, conn: Conn) -> None:
        """Make the partitions of this month and the next, by the database's clock: ahead of their entries."""
        today: int = await conn.fetchval(_TODAY)
        for month in (today, next_month(today)):
            await conn.fetchval("SELECT ledger_prepare_month($1)", month)


async def lock_head(conn: Conn) -> Head:
    """The head, locked until the caller's transaction ends. Raises Unavailable for one that makes no tree."""
    row = await conn.fetchrow(_LOCK)
    if row is None:
        raise in_doubt("the log has no head")
    size, root, peaks, month, today = row
    frontier = Frontier(size, [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)])
    if frontier.root != root:
        raise in_doubt("the log's head is not the root of its own tree")
    return Head(frontier, root, month, today)


def _months(head: Head, entries: Sequence[Said]) -> list[int]:
    """The partition of each: its own month, but never back, and never ahead of the database's clock."""
    found, month = list[int](), head.month
    for each in entries:
        month = max(month, min(month_of(each.at), head.today))
        found.append(month)
    return found


async def _open_months(conn: Conn, last: int, first: int, months: Sequence[int]) -> None:
    for at, month in enumerate(months):
        if month != last:
            await conn.fetchval("SELECT ledger_prepare_month($1)", month)
            await conn.execute(_OPEN, month, first + at)
            last = month


def _columns(entries: Sequence[Said]) -> list[list[Any]]:
    rows = [(each.at, each.kind, each.txn, each.ref, each.tenant) for each in entries]
    return [list(column) for column in zip(*rows, strict=True)]


def _of(tops: Sequence[Node]) -> tuple[list[int], list[int], list[bytes]]:
    return [top[0] for top in tops], [top[1] for top in tops], [top[2] for top in tops]


def _count(done: str) -> int:
    return int(done.rpartition(" ")[2])
