"""The rows of a fleet's log; see `ledger.source.LogSource`."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from stepwrit_broker.core.merkle import TILE_LEVELS, Node, root_of
from stepwrit_broker.ledger.postgres.log import Conn
from stepwrit_broker.ledger.postgres.reading import Asking, Reading
from stepwrit_broker.ledger.postgres.schema import month_of
from stepwrit_broker.ledger.report import Span
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.source import MAX_PAGE, Document, Entry, Noted, Subtree, entry_of

# one look-up a row: joined, the planner would hash a month of bodies for a page of them
_BODY: Final = "(SELECT b.body FROM ledger_bodies AS b WHERE b.month = e.month AND b.seq = e.seq)"
_ENTRY: Final = (
    f"SELECT e.seq, e.at, e.kind, e.txn, e.ref, e.tenant, e.leaf, {_BODY} FROM ledger_entries AS e"  # noqa: S608  constants
)
_AFTER: Final = (
    f"{_ENTRY} WHERE e.seq > $1 AND ($3::text[] IS NULL OR e.kind = ANY($3))"
    " AND ($4::text IS NULL OR e.tenant IS NULL OR e.tenant = $4) ORDER BY e.seq LIMIT $2"
)
_ORIGIN: Final = "(SELECT value FROM ledger_meta WHERE name = 'origin')"
_LINES: Final = (
    "coalesce((SELECT string_agg(w.line, '' ORDER BY w.witness COLLATE \"C\") FROM ledger_cosignatures AS w"
    " WHERE w.origin = c.origin AND w.size = c.size), '')"
)
_CHECKPOINT: Final = f"SELECT size, note || {_LINES} FROM ledger_checkpoints AS c WHERE origin = {_ORIGIN}"  # noqa: S608  constants
_QUORUM: Final = (
    "(SELECT count(*) FROM ledger_cosignatures AS w WHERE w.origin = c.origin AND w.size = c.size"
)
_NEXT: Final = f"{_CHECKPOINT} AND size >= $1 AND ($2 = 0 OR {_QUORUM}) >= $2) ORDER BY size LIMIT 1"
_NEWEST: Final = f"{_CHECKPOINT} ORDER BY size DESC LIMIT 1"
_NEWEST_WITH: Final = (
    f"{_CHECKPOINT} AND size <= $1 AND {_QUORUM} AND w.witness = ANY($2::text[])) >= $3"
    " ORDER BY size DESC LIMIT 1"
)
_COSIGNED_AT: Final = (
    f"SELECT at FROM ledger_cosignatures WHERE origin = {_ORIGIN} AND witness = $1"  # noqa: S608  constants
    " ORDER BY size DESC, at DESC LIMIT 1"
)
_COSIGNATURES: Final = (
    "SELECT c.note, w.line, w.size FROM ledger_cosignatures AS w JOIN ledger_checkpoints AS c"
    " ON c.origin = w.origin AND c.size = w.size ORDER BY w.size"
)
_DOCUMENTS: Final = (
    "SELECT d.digest, d.txn, d.doc, s.salt FROM ledger_decisions AS d"
    " LEFT JOIN ledger_salts AS s ON s.txn = d.txn WHERE d.digest = ANY($1::text[])"
)
_LEAVES: Final = "SELECT leaf FROM ledger_entries WHERE seq >= $1 AND seq < $2 ORDER BY seq"
_TOPS: Final = "SELECT hash FROM ledger_nodes WHERE level = $1 AND idx >= $2 AND idx < $3 ORDER BY idx"
_BODIES: Final = f"SELECT {_BODY} FROM ledger_entries AS e WHERE e.seq >= $1 AND e.seq < $2 ORDER BY e.seq"  # noqa: S608  constants
_NODES: Final = (
    "SELECT level, idx, hash FROM ledger_nodes WHERE (level, idx) > ($1, $2) ORDER BY level, idx LIMIT 10000"
)
_RANGES: Final = "unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS w (first, upto, n)"
_SUB_LEAVES: Final = (
    f"SELECT w.n, e.leaf FROM {_RANGES} CROSS JOIN LATERAL (SELECT seq, leaf FROM ledger_entries"  # noqa: S608  constants
    " WHERE seq >= w.first AND seq < w.upto ORDER BY seq LIMIT 128) AS e ORDER BY w.n, e.seq"
)
_SUB_TOPS: Final = (
    "SELECT w.n, t.hash FROM unnest($1::bigint[], $2::bigint[], $3::int[]) WITH ORDINALITY"
    " AS w (first, upto, level, n) CROSS JOIN LATERAL (SELECT idx, hash FROM ledger_nodes"
    " WHERE level = w.level AND idx >= w.first AND idx < w.upto ORDER BY idx LIMIT 128) AS t"
    " ORDER BY w.n, t.idx"
)
_APPROVALS: Final = ("approval.asked", "approval.signed")


class PgSource:
    """The LogSource of the database that is asked."""

    def __init__(self, reading: Reading, *, asking: Asking | None = None) -> None:
        self._reading: Final = reading
        self._asking: Final[Asking] = asking or reading

    def close(self) -> None:
        """Let go of the connections."""
        self._reading.close()

    @contextmanager
    def still(self) -> Generator[PgSource]:
        """One transaction."""
        with self._reading.pinned() as pinned:
            yield PgSource(self._reading, asking=pinned)

    def size(self) -> int:
        """As the head says."""
        size: int = self._value("SELECT size FROM ledger_head")
        return size

    def meta(self, name: str) -> str | None:
        """As stored."""
        found: str | None = self._value("SELECT value FROM ledger_meta WHERE name = $1", name)
        return found

    def by_txn(self, txn: str) -> list[Entry]:
        """By the index of each month."""
        return self._entries(f"{_ENTRY} WHERE e.txn = $1 ORDER BY e.seq", txn)

    def by_ref(self, ref: str) -> list[Entry]:
        """By the index of each month."""
        return self._entries(f"{_ENTRY} WHERE e.ref = $1 ORDER BY e.seq", ref)

    def after(
        self, seq: int, limit: int, kinds: Sequence[str] = (), tenant: str | None = None
    ) -> list[Entry]:
        """A page."""
        return self._entries(_AFTER, seq, limit, list(kinds) or None, tenant)

    def first_from(self, at: float) -> int | None:
        """By the month that a time is in: bodies go a month at a time."""
        found: int | None = self._value(
            "SELECT min(first) FROM ledger_months WHERE month >= $1", month_of(at)
        )
        return found

    def subtrees(self, wanted: Sequence[Subtree]) -> Sequence[bytes]:
        """Two questions, however many are wanted."""
        return self._asking.run(lambda conn: subtrees(conn, wanted))

    def stored(self, height: int, first: int, upto: int) -> Sequence[bytes | None]:
        """As stored."""
        rows = self._rows(_TOPS, height, first, upto) if height else self._rows(_LEAVES, first, upto)
        return [row[0] for row in rows]

    def bodies(self, first: int, upto: int) -> Sequence[bytes | None]:
        """As long as they are here."""
        return [row[0] for row in self._rows(_BODIES, first, upto)]

    def checkpoint(self, *, at_least: int, quorum: int = 0) -> Noted | None:
        """By key."""
        return self._noted(_NEXT, at_least, quorum)

    def newest_checkpoint(self) -> Noted | None:
        """By key."""
        return self._noted(_NEWEST)

    def newest_with(self, witnesses: Sequence[str], quorum: int, at_most: int) -> Noted | None:
        """By key, newest first."""
        return self._noted(_NEWEST_WITH, at_most, list(witnesses), quorum)

    def cosigned_at(self, witness: str) -> int:
        """Of the largest size."""
        return self._value(_COSIGNED_AT, witness) or 0

    def document(self, digest: str) -> Document | None:
        """By key."""
        rows = self._rows(_DOCUMENTS, [digest])
        return Document(*rows[0]) if rows else None

    def salt(self, txn: str) -> bytes | None:
        """By key."""
        found: bytes | None = self._value("SELECT salt FROM ledger_salts WHERE txn = $1", txn)
        return found

    def approvals(self, span: Span) -> Iterator[Document]:
        """A page of entries at a time."""
        page = self.after(span.first - 1, MAX_PAGE, _APPROVALS)
        while page:
            digests = [_decision(each) for each in page if each.seq < span.upto]
            found = {row[0]: Document(*row) for row in self._rows(_DOCUMENTS, digests)}
            yield from (found.pop(digest) for digest in digests if digest in found)
            page = self.after(page[-1].seq, MAX_PAGE, _APPROVALS) if page[-1].seq < span.upto else []

    def every(self) -> Iterator[Entry]:
        """A page at a time."""
        page = self.after(-1, MAX_PAGE)
        while page:
            yield from page
            page = self.after(page[-1].seq, MAX_PAGE)

    def nodes(self) -> Iterable[Node]:
        """A page at a time."""
        page = self._rows(_NODES, -1, -1)
        while page:
            yield from ((level, index, node) for level, index, node in page)
            page = self._rows(_NODES, page[-1][0], page[-1][1])

    def checkpoints(self) -> Iterable[tuple[str, float]]:
        """Of every origin."""
        return [
            (row[0], row[1]) for row in self._rows("SELECT note, at FROM ledger_checkpoints ORDER BY size")
        ]

    def cosignatures(self) -> Iterable[tuple[str, str, int]]:
        """Of every origin."""
        return [(note, line, size) for note, line, size in self._rows(_COSIGNATURES)]

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._asking.run(lambda conn: conn.fetch(query, *values))

    def _value(self, query: str, *values: object) -> Any:
        return self._asking.run(lambda conn: conn.fetchval(query, *values))

    def _entries(self, query: str, *values: object) -> list[Entry]:
        return [entry_of(tuple(row)) for row in self._rows(query, *values)]

    def _noted(self, query: str, *values: object) -> Noted | None:
        rows = self._rows(query, *values)
        return Noted(rows[0][0], rows[0][1]) if rows else None


async def subtrees(conn: Conn, wanted: Sequence[Subtree]) -> list[bytes]:
    """The hashes of these subtrees, in this order. Raises Unavailable for a hole."""
    spans = [(level - level % TILE_LEVELS, *_span(level, index)) for level, index in wanted]
    low = [(first, upto) for stored, first, upto in spans if not stored]
    high = [(first, upto, stored) for stored, first, upto in spans if stored]
    leaves = _grouped(await conn.fetch(_SUB_LEAVES, *_lists(low, 2)) if low else (), len(low))
    tops = _grouped(await conn.fetch(_SUB_TOPS, *_lists(high, 3)) if high else (), len(high))
    found = list[bytes]()
    for stored, first, upto in spans:
        hashes = (tops if stored else leaves).pop(0)
        if len(hashes) != upto - first:
            raise in_doubt(f"hashes are missing in the subtree from {first} to {upto} of level {stored}")
        found.append(root_of(hashes))
    return found


def _span(level: int, index: int) -> tuple[int, int]:
    shift = level % TILE_LEVELS
    return index << shift, (index + 1) << shift


def _lists(rows: Sequence[tuple[int, ...]], width: int) -> list[list[int]]:
    return [[row[at] for row in rows] for at in range(width)]


def _grouped(rows: Iterable[Any], count: int) -> list[list[bytes]]:
    groups: list[list[bytes]] = [[] for _ in range(count)]
    for number, value in rows:
        groups[number - 1].append(value)
    return groups


def _decision(entry: Entry) -> str:
    """The digest that a body names; none where the body is only in an export."""
    said = {} if entry.body is None else json.loads(entry.body)
    return str(said.get("decision"))
