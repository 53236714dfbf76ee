"""Letting a month's bodies go, once an export that proves itself has them."""

from __future__ import annotations

from typing import Final

import asyncpg

from stepwrit_broker.core.errors import Conflict
from stepwrit_broker.ledger.export import KIND, Sealed, sealed_body
from stepwrit_broker.ledger.postgres.log import Conn, PgLog
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ports_ledger import Said

_PATIENCE_S: Final = 600.0  # a month that goes in part is deleted row by row
_SETTINGS: Final = f"SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '{_PATIENCE_S:.0f}s'"
_DROP: Final = "SELECT ledger_drop_bodies($1, $2)"


async def drop_sealed(conn: Conn, log: PgLog, sealed: Sealed, *, ref: str, at: float) -> int:
    """Append the entry that records the export and let its bodies go, in one transaction; how many went.

    Whole months are truncated: nobody who appends waits for that. Raises Conflict when something was dropped
    since the export, or no checkpoint covers it; Unavailable when a reader does not let go of a month.
    """
    body = sealed_body(sealed, ref=ref, at=at)
    try:
        async with conn.transaction():
            await conn.execute(_SETTINGS)
            gone: int = await conn.fetchval(_DROP, *sealed.span, timeout=_PATIENCE_S)
            await log.append(conn, [Said(body, at, KIND, None, ref, None)])
    except asyncpg.LockNotAvailableError as busy:
        raise in_doubt("a reader holds a month's bodies; try again") from busy
    except asyncpg.ObjectNotInPrerequisiteStateError as moved:
        raise Conflict("wrong_state", str(moved)) from moved
    return gone
