"""The log as the true engine sees it: it lives in the same database and moves with its transactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from stepwrit_broker.store.fleet.seams import Beside, Kept, Said

Conn = Any  # asyncpg.Connection, or what its pool hands out


class FleetLog(Protocol):
    """An append-only log inside the true engine's own PostgreSQL transactions.

    `schema` runs once per start, as the owner of the tables, under the lock of the migrations; everything
    else is called with a transaction open, by several brokers at once. An error undoes all of it. `append` is
    called last, so that what it locks (the head) is held for a moment only.
    """

    @property
    def schema(self) -> str:
        """Its tables and functions, as one script without parameters that may be run again and again."""
        ...

    @property
    def movable(self) -> Sequence[str]:
        """Its tables whose rows a broker's role may UPDATE and DELETE; on all others SELECT and INSERT only.

        What more is needed (a new month's partition) is a SECURITY DEFINER function of `schema`.
        """
        ...

    async def append(self, conn: Conn, entries: Sequence[Said]) -> None:
        """Number them from the head, hash them, move the head. Raises Contradiction if it moved meanwhile."""
        ...

    async def put_salts(self, conn: Conn, salts: Sequence[tuple[str, bytes]]) -> None:
        """Keep salts by transaction (or ref). The same again is nothing; another one is a Contradiction."""
        ...

    async def put_kept(self, conn: Conn, kept: Sequence[Kept]) -> None:
        """Keep decision documents under their digests. The same again is nothing."""
        ...

    async def beside(self, conn: Conn, name: str) -> Beside:
        """What is kept under this name."""
        ...

    async def erase(self, conn: Conn, name: str) -> tuple[int, int]:
        """Erase its salt and documents for ever; how many of each. What is kept later MUST NOT bring them
        back.
        """
        ...
