"""What is written outside the streams: entries for the sequencer to append, and bearers' first keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from stepwrit_broker.core.errors import Conflict, Malformed, Refused
from stepwrit_broker.store.fleet.log import Conn, FleetLog
from stepwrit_broker.store.fleet.postgres.grouping import Group
from stepwrit_broker.store.fleet.postgres.session import Connections
from stepwrit_broker.store.fleet.seams import Contradiction, Kept, Said, Used

_PUT: Final = """
INSERT INTO outbox (body, at, kind, txn, ref, tenant)
SELECT * FROM unnest($1::bytea[], $2::float8[], $3::text[], $4::text[], $5::text[], $6::text[])
"""
_SPEND: Final = """
INSERT INTO proofs (key, until)
SELECT DISTINCT ON (key) * FROM unnest($1::bytea[], $2::float8[]) AS u(key, until)
ORDER BY key ON CONFLICT DO NOTHING
"""
_PIN: Final = "INSERT INTO pins (key, jkt, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_PINNED: Final = "SELECT jkt FROM pins WHERE key = $1"


class _Words(NamedTuple):
    said: Sequence[Said]
    kept: Sequence[Kept]
    salts: Sequence[tuple[str, bytes]]


class _Pin(NamedTuple):
    key: bytes
    jkt: str
    until: float
    proofs: Sequence[Used]


class Saying:
    """See the `Truth` protocol."""

    def __init__(self, connections: Connections, log: FleetLog) -> None:
        self._connections, self._log = connections, log
        self._words: Group[_Words, None] = Group(self._say)
        self._pins: Group[_Pin, str] = Group(self._pin)

    async def say(
        self, said: Sequence[Said], kept: Sequence[Kept], salts: Sequence[tuple[str, bytes]]
    ) -> None:
        """Durable, and appended by the sequencer's next commit."""
        await self._words.submit(_Words(said, kept, salts))

    async def pin(self, key: bytes, jkt: str, until: float, proofs: Sequence[Used]) -> str:
        """The thumbprint that stands."""
        return await self._pins.submit(_Pin(key, jkt, until, proofs))

    async def _say(self, words: Sequence[_Words]) -> Sequence[None]:
        async with self._connections.write() as conn:
            await put_words(
                conn,
                self._log,
                [each for word in words for each in word.said],
                [each for word in words for each in word.kept],
                [each for word in words for each in word.salts],
            )
        return [None] * len(words)

    async def _pin(self, pins: Sequence[_Pin]) -> Sequence[str]:
        async with self._connections.write() as conn:
            # in the order of their keys, so that two brokers never wait for each other
            order = sorted(range(len(pins)), key=lambda at: pins[at].key)
            answers = {at: await _pin(conn, pins[at]) for at in order}
        return [answers[at] for at in range(len(pins))]


async def _pin(conn: Conn, wanted: _Pin) -> str:
    await conn.execute(_PIN, wanted.key, wanted.jkt, wanted.until)
    stands: str = await conn.fetchval(_PINNED, wanted.key)
    if stands == wanted.jkt:
        await spend(conn, wanted.proofs)
    return stands


async def spend(conn: Conn, proofs: Sequence[Used]) -> None:
    """Use each up. Raises Refused(`replay`) where one was, this very call included."""
    if not proofs:
        return
    done: str = await conn.execute(_SPEND, [each.key for each in proofs], [each.until for each in proofs])
    if int(done.rpartition(" ")[2]) != len(proofs):
        raise Refused("replay", "this proof was used before", rule="proof")


async def put_words(
    conn: Conn,
    log: FleetLog,
    said: Sequence[Said],
    kept: Sequence[Kept],
    salts: Sequence[tuple[str, bytes]],
) -> None:
    """Salts and documents at once, entries for later. Raises Malformed for what cannot be stored."""
    try:
        if salts:
            await log.put_salts(conn, salts)
        if kept:
            await log.put_kept(conn, kept)
        if said:
            await conn.execute(_PUT, *(list(column) for column in zip(*said, strict=True)))
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
        raise Malformed("invalid_request", "a text that cannot be stored") from error
    except Contradiction as error:
        raise Conflict("wrong_state", "this has another salt already") from error
