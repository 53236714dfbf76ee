"""Secrets that all brokers of a fleet share, by name: the first to be kept stands for good."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.store.fleet.log import Conn

_KEEP: Final = "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_HELD: Final = "SELECT value FROM secrets WHERE name = $1"


async def held(conn: Conn, name: str) -> bytes | None:
    """The one that stands. Raises what asyncpg does."""
    found: bytes | None = await conn.fetchval(_HELD, name)
    return found


async def keep(conn: Conn, name: str, fresh: bytes) -> bytes:
    """`fresh` where there is none yet; the one that stands. Raises what asyncpg does."""
    await conn.execute(_KEEP, name, fresh)
    found: bytes = await conn.fetchval(_HELD, name)
    return found
