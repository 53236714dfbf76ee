"""What is looked up in the truth: transactions, whose a row is, what is due, approvals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepwrit_broker.ports_approval import Sought
from stepwrit_broker.store.fleet.log import Conn
from stepwrit_broker.store.fleet.postgres.session import Connections
from stepwrit_broker.store.fleet.seams import OpDone, Row, Snapshot

_TRANSACTION: Final = (
    "SELECT t.version, r.field, r.ord, r.value FROM txns t LEFT JOIN rows r ON r.txn = t.txn"
    " WHERE t.txn = $1 ORDER BY r.ord, r.field"
)
_WHOSE: Final = (
    "SELECT txn FROM rows WHERE field = $1 AND left(field, 6) IN ('steps:', 'grants', 'approv') LIMIT 1"
)
_USED: Final = "SELECT key FROM proofs WHERE key = ANY($1)"
_OPERATION: Final = "SELECT key, digest, answer, at FROM ops WHERE key = $1"
_DUE: Final = "SELECT txn, due FROM rows WHERE due <= $1 ORDER BY due LIMIT $2"
# two ranges of the index, as an inequality is none
_OF_OLD: Final = (
    "(SELECT txn, due FROM rows WHERE epoch < $1 LIMIT $2) UNION ALL"
    " (SELECT txn, due FROM rows WHERE epoch > $1 LIMIT $2)"
)
_EPOCH: Final = "SELECT epoch FROM fleet"
_LIVE: Final = "SELECT DISTINCT txn FROM rows WHERE live AND txn > $1 ORDER BY txn LIMIT $2"
_SOUGHT: Final = (
    "SELECT id FROM approvals WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR state = $2)"
    " AND ($3::text IS NULL OR requester = $3) AND ($4::text IS NULL OR txn = $4)"
    " AND ($5::text IS NULL OR tool = $5) AND ($6::text IS NULL OR initiator = $6)"
    " ORDER BY n DESC LIMIT $7"
)
_WAITING: Final = (
    "SELECT count(*), (SELECT id FROM approvals WHERE state = 'asked' ORDER BY n LIMIT 1)"
    " FROM approvals WHERE state = 'asked'"
)
_ASKED: Final = """
SELECT count(*) FILTER (WHERE stands), count(*) FILTER (WHERE stands AND initiator = $3),
    coalesce(max(ended_at) FILTER (WHERE state = 'denied' AND initiator = $3 AND tool = $4), 0)
FROM (
    SELECT initiator, tool, state, ended_at,
        state = 'asked' OR (state IN ('cancelled', 'expired') AND by = '' AND ended_at > $5) AS stands
    FROM approvals WHERE requester = $1 AND tenant = $2
) AS of_requester
"""


class Searching:
    """See the `Truth` protocol."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def transaction(self, txn: str) -> Snapshot | None:
        """Its rows as they were first put."""
        async with self._connections.use() as conn:
            found = await conn.fetch(_TRANSACTION, txn)
        if not found:
            return None
        rows = tuple(Row(row["field"], row["ord"], row["value"]) for row in found if row["field"] is not None)
        return Snapshot(txn=txn, version=found[0]["version"], seq=0, rows=rows)

    async def whose(self, field: str) -> str | None:
        """The transaction."""
        async with self._connections.use() as conn:
            found: str | None = await conn.fetchval(_WHOSE, field)
        return found

    async def used(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Those that are."""
        async with self._connections.use() as conn:
            return frozenset(row[0] for row in await conn.fetch(_USED, list(keys)))

    async def operation(self, key: bytes) -> OpDone | None:
        """Its answer."""
        async with self._connections.use() as conn:
            row = await conn.fetchrow(_OPERATION, key)
        return None if row is None else OpDone(*row)

    async def due(self, now: float, limit: int, *, with_old: bool) -> Sequence[str]:
        """Longest due first; an outstanding credential of another epoch is due at once."""
        async with self._connections.glance() as conn:
            epoch: str = await conn.fetchval(_EPOCH)
            rows = limit
            while True:
                rows *= 4
                found = await _due(conn, epoch if with_old else None, now, rows)
                names = list(dict.fromkeys(txn for _, txn in found))
                if len(names) >= limit or len(found) < rows:
                    return names[:limit]

    async def live(self, after: str, limit: int) -> Sequence[str]:
        """In the order of their ids."""
        async with self._connections.use() as conn:
            return [row[0] for row in await conn.fetch(_LIVE, after, limit)]

    async def sought(self, sought: Sought) -> Sequence[str]:
        """Newest first."""
        asked = (
            sought.tenant, sought.state, sought.requester, sought.txn, sought.tool, sought.initiator,
        )  # fmt: skip
        async with self._connections.use() as conn:
            return [row[0] for row in await conn.fetch(_SOUGHT, *asked, sought.most)]

    async def waiting(self) -> tuple[int, str | None]:
        """How many, and the oldest."""
        async with self._connections.use() as conn:
            row = await conn.fetchrow(_WAITING)
        return row[0], row[1]

    async def asked(
        self, who: str, tenant: str, initiator: str, tool: str, since: float
    ) -> tuple[int, int, float]:
        """Of the requester, of them by this initiator, and the last denial."""
        async with self._connections.use() as conn:
            row = await conn.fetchrow(_ASKED, who, tenant, initiator, tool, since)
        return row[0], row[1], row[2]


async def _due(conn: Conn, epoch: str | None, now: float, most: int) -> list[tuple[float, str]]:
    """epoch: whose credentials are not due at once; None: nobody's are."""
    rows = await conn.fetch(_DUE, now, most)
    if epoch is not None:
        rows = [*rows, *await conn.fetch(_OF_OLD, epoch, most)]
    return sorted((row["due"], row["txn"]) for row in rows)
