"""The ledger's part of a broker of a fleet: the log in PostgreSQL, and what this broker has seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.cosignature import Cosigned
from stepwrit_broker.ledger.export import first_from, seal_and_export
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer, keep
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.postgres.sealing import drop_sealed
from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_ledger import Published

Use = Callable[[], AbstractAsyncContextManager[Any]]
"""A connection to the fleet's database, outside a transaction."""


class FleetLedgering:
    """Checkpoints and the anchor of one broker. source: reads the log; use: a connection that may write."""

    def __init__(self, key: NoteSigner, anchor: Path, *, use: Use, source: LogSource, clock: Clock) -> None:
        self.log = PgLog()
        self.key = key
        self.source: Final = source
        self._use, self._clock = use, clock
        self._checkpointer = PgCheckpointer(key, AnchorFile(anchor))
        self._signed: Published | None = None
        self._doubt: str | None = None
        self._signing = asyncio.Lock()

    @property
    def vkey(self) -> str:
        """The public key that verifiers need."""
        return self.key.verifier.vkey

    def signed(self) -> Published | None:
        """The newest checkpoint that is durable and anchored here; None before the first."""
        return self._signed

    def doubt(self) -> str | None:
        """What this broker holds against the database, or None. While it does, nothing may be granted."""
        return self._doubt

    async def admit(self) -> None:
        """Name a new log; refuse one that does not go on from what this broker has seen. Before it serves.

        Raises Unavailable(rule="anchor"), Conflict for a database that contradicts its own checkpoints.
        """
        async with self._use() as conn:
            await self.log.name_log(conn, self.key.name)
            latest = await self._checkpointer.admit(conn)
        if latest is not None:
            self._signed = Published(latest.checkpoint.size, latest.note)

    async def prepare(self) -> None:
        """Make the partitions of this month and the next: at the start, and once a day."""
        async with self._use() as conn:
            await self.log.prepare_months(conn)

    async def sign(self, *, epoch: str = "") -> str:
        """Sign what is committed, or take what another broker signed; anchored when this returns. The note.

        epoch: the fleet's, for the anchor. Raises Unavailable, Conflict; `doubt` then tells of another
        history.
        """
        now = self._clock.now()
        async with self._signing:  # one anchor file
            try:
                async with self._use() as conn:
                    signed = await self._checkpointer.sign(conn, epoch=epoch, high_water=now, at=now)
            except (Unavailable, Conflict) as bad:
                if isinstance(bad, Conflict) or bad.rule == "anchor":
                    self._doubt = bad.reason
                raise
        self._doubt = None
        self._signed = Published(signed.checkpoint.size, signed.note)
        return signed.note

    async def keep(self, size: int, made: Cosigned) -> None:
        """Keep a witness's cosignature on the checkpoint of this size."""
        async with self._use() as conn:
            origin = await conn.fetchval("SELECT value FROM ledger_meta WHERE name = 'origin'")
            await keep(conn, origin, size, made)

    async def seal(self, path: str, ref: str, before: float | None = None) -> dict[str, object]:
        """Export everything signed, or only whole months before a time (seconds since the epoch), to a file
        of this broker, drop the bodies, and sign the entry that says so. Raises Conflict.
        """
        await self.sign()
        signed = 0 if self._signed is None else self._signed.size
        upto = signed if before is None else await asyncio.to_thread(first_from, self.source, before, signed)
        sealed = await asyncio.to_thread(
            lambda: seal_and_export(self.source, upto=upto, path=Path(path), verifier=self.key.verifier)
        )
        async with self._use() as conn:
            dropped = await drop_sealed(conn, self.log, sealed, ref=ref, at=self._clock.now())
        await self.sign()
        return {"path": path, "upto": upto, "dropped": dropped, "ref": ref}

    def guard(self, verb: str) -> None:  # noqa: ARG002  every verb that grants
        """Called before a verb that grants. Raises Unavailable(rule="anchor") while `doubt` stands."""
        if self._doubt is not None:
            raise Unavailable(
                "unavailable",
                "this broker has seen another history of the ledger: the database was set back or forked",
                rule="anchor",
                who_can_change_it="the operator (docs: reference/ledger-postgresql)",
            )
