"""Marks and versions: one change of the rules at a time, each with its number, with or without an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from stepwrit_broker.core.errors import Conflict, Malformed, Refused
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.postgres.saying import put_words, spend
from stepwrit_broker.store.fleet.postgres.session import Connections
from stepwrit_broker.store.fleet.seams import OpDone, RuleChange, Rules
from stepwrit_broker.store.rows import mark_of, version_of

_COLUMNS: Final = "kind, number, digest, source, doc, by, reason, at, ref"
_LOCK: Final = "SELECT number FROM ruling FOR UPDATE"
_NEXT: Final = "UPDATE ruling SET number = number + 1 RETURNING number"
_NUMBER: Final = "SELECT number FROM ruling"
_MARKS: Final = "SELECT target, verb, reason, by, at, ref FROM marks"
_UNWALKED: Final = "SELECT target FROM marks WHERE NOT walked AND verb = 'revoke' ORDER BY at, target"
_IN_FORCE: Final = f"SELECT DISTINCT ON (kind) {_COLUMNS} FROM versions ORDER BY kind, number DESC"  # noqa: S608
_LAST: Final = "SELECT coalesce(max(number), 0) FROM versions WHERE kind = $1"
_ONE: Final = f"SELECT {_COLUMNS} FROM versions WHERE kind = $1 AND number = $2"  # noqa: S608
_ALL: Final = f"SELECT {_COLUMNS} FROM versions WHERE kind = $1 ORDER BY number"  # noqa: S608
_PUT_VERSION: Final = f"INSERT INTO versions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"  # noqa: S608
_PUT_MARK: Final = """
INSERT INTO marks (target, verb, reason, by, at, ref) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (target) DO UPDATE SET verb = EXCLUDED.verb, reason = EXCLUDED.reason, by = EXCLUDED.by,
    at = EXCLUDED.at, ref = EXCLUDED.ref, walked = false
WHERE marks.verb <> 'revoke'
"""
_LIFT: Final = "DELETE FROM marks WHERE target = ANY($1) AND verb = 'freeze'"
_WALKED: Final = "UPDATE marks SET walked = true WHERE target = ANY($1)"
_OP: Final = "SELECT key, digest, answer, at FROM ops WHERE key = $1"
_PUT_OP: Final = "INSERT INTO ops (key, digest, answer, at) VALUES ($1, $2, $3, $4)"


class Ruling:
    """See the `Truth` protocol."""

    def __init__(self, connections: Connections, log: FleetLog) -> None:
        self._connections, self._log = connections, log

    async def rules(self) -> Rules:
        """All of one moment."""
        async with self._connections.glance(vital=True) as conn:
            number: int = await conn.fetchval(_NUMBER)
            marks = [mark_of(tuple(row)) for row in await conn.fetch(_MARKS)]
            versions = [version_of(tuple(row)) for row in await conn.fetch(_IN_FORCE)]
            unwalked = tuple(row[0] for row in await conn.fetch(_UNWALKED))
        return Rules(
            number=number,
            marks={each.target: each for each in marks},
            versions={each.kind: each for each in versions},
            unwalked=unwalked,
        )

    async def rule(self, change: RuleChange) -> int:
        """The number that it has; an operation that was done has changed nothing more."""
        async with self._connections.write(vital=True) as conn:
            number: int = await conn.fetchval(_LOCK)
            if change.op is not None and await _is_done(conn, change.op):
                return number
            try:
                await self._change(conn, change)
            except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
                raise Malformed("invalid_request", "a text that cannot be stored") from error
            fresh: int = await conn.fetchval(_NEXT)
            return fresh

    async def _change(self, conn: Conn, change: RuleChange) -> None:
        if change.version is not None:
            await _put_version(conn, change.version, change.expected)
        if change.lift:
            await _lift(conn, change.lift)
        for mark in change.put:
            await conn.execute(_PUT_MARK, *_mark(mark))
        await spend(conn, change.proofs)
        if change.op is not None:
            await conn.execute(_PUT_OP, *change.op)
        await put_words(conn, self._log, change.said, change.kept, ())

    async def walked(self, targets: Sequence[str]) -> None:
        """Followed down."""
        async with self._connections.use(vital=True) as conn:
            await conn.execute(_WALKED, list(targets))

    async def version(self, kind: VersionKind, number: int) -> StoredVersion | None:
        """One version."""
        async with self._connections.use() as conn:
            row = await conn.fetchrow(_ONE, kind, number)
        return None if row is None else version_of(tuple(row))

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """Oldest first."""
        async with self._connections.use() as conn:
            rows = await conn.fetch(_ALL, kind)
        return [version_of(tuple(row)) for row in rows]


async def _is_done(conn: Conn, op: OpDone) -> bool:
    row = await conn.fetchrow(_OP, op.key)
    if row is not None and row["digest"] != op.digest:
        raise Conflict("operation_reused", "this operation id was used for another request")
    return row is not None


async def _put_version(conn: Conn, version: StoredVersion, expected: int | None) -> None:
    last: int = await conn.fetchval(_LAST, version.kind)
    if last != (expected or 0) or version.number != last + 1:
        raise Conflict("stale_version", f"version {last} of the {version.kind} is in force")
    row: tuple[Any, ...] = (
        version.kind, version.number, version.digest, version.source, version.doc, version.by,
        version.reason, version.at, version.ref,
    )  # fmt: skip
    await conn.execute(_PUT_VERSION, *row)


async def _lift(conn: Conn, targets: Sequence[str]) -> None:
    done: str = await conn.execute(_LIFT, list(targets))
    if int(done.rpartition(" ")[2]) != len(set(targets)):
        raise Refused("not_found", "no freeze stands on that target")


def _mark(mark: Mark) -> tuple[str, str, str, str, float, str]:
    return (mark.target, mark.verb, mark.reason, mark.by, mark.at, mark.ref)
