"""The ledger's part of a broker: its key, its anchor, and signing between the store's transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.merkle import root_at
from stepwrit_broker.ledger import keys as ledger_keys
from stepwrit_broker.ledger.anchor import (
    AnchorFile,
    AnchorHolds,
    AnchorMismatch,
    AnchorMissing,
    DatabaseOlder,
    Reached,
    check,
)
from stepwrit_broker.ledger.checkpoint import Checkpointer
from stepwrit_broker.ledger.export import drop_bodies, first_from, seal_and_export, sealed_body
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.schema import node_getter
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.sqlite_source import SqliteSource
from stepwrit_broker.ports import Clock, Entropy
from stepwrit_broker.ports_ledger import Published
from stepwrit_broker.store.sqlite import SqliteStore


def signer(path: Path, origin: str, entropy: Entropy) -> NoteSigner:
    """The log's one long-lived key: loaded, or made at the very first start."""
    if path.exists():
        return ledger_keys.load(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ledger_keys.create(path, origin=origin, seed=entropy.bytes(32))


class Ledgering:
    """Checkpoints and anchors of one store's log."""

    def __init__(self, key: NoteSigner, anchor: Path) -> None:
        self.log = SqliteLog()
        self.key = key
        self._anchor = AnchorFile(anchor)
        self._checkpointer = Checkpointer(key, self._anchor)
        self._signed: Published | None = None

    def signed(self) -> Published | None:
        """The newest checkpoint that is durable and anchored; None before the first."""
        return self._signed

    @property
    def vkey(self) -> str:
        """The public key that verifiers need."""
        return self.key.verifier.vkey

    def admit(self, conn: sqlite3.Connection) -> None:
        """Refuse a database that its anchor has outrun; name a new log. Called before the epoch begins."""
        reached = Reached(
            origin=self.log.origin, size=self.log.size, root_at=lambda size: root_at(size, node_getter(conn))
        )
        verdict = check(reached, self._anchor.read())
        if not isinstance(verdict, AnchorHolds):
            raise _outrun(verdict)
        if verdict.anchor is not None and verdict.anchor.note is not None:
            self._signed = Published(verdict.anchor.size, verdict.anchor.note)
        if self.log.origin is None:
            self.log.name_log(conn, self.key.name)

    async def sign(self, store: SqliteStore) -> str:
        """Sign what is committed, durable and anchored when this returns; the note."""

        def between(conn: sqlite3.Connection) -> str:
            signed = self._checkpointer.sign(
                conn, self.log, epoch=store.epoch, high_water=store.high_water, at=store.high_water
            )
            self._signed = Published(signed.checkpoint.size, signed.note)
            return signed.note

        return await store.between(between)

    def anchoring(self, store: SqliteStore) -> Callable[[], Awaitable[None]]:
        """What a "no" waits for before it is acknowledged."""

        async def anchor() -> None:
            await self.sign(store)

        return anchor

    async def seal(
        self, store: SqliteStore, clock: Clock, path: str, ref: str, before: float | None = None
    ) -> dict[str, object]:
        """Export everything signed, or only what is older than `before` (seconds since the epoch), drop the
        bodies, and sign the entry that says so. Raises Conflict when there is nothing to seal.
        """
        await self.sign(store)
        signed = self.log.size
        upto = (
            signed
            if before is None
            else await store.between(lambda conn: first_from(SqliteSource(conn), before, signed))
        )
        sealed = await store.between(
            lambda conn: seal_and_export(
                SqliteSource(conn), upto=upto, path=Path(path), verifier=self.key.verifier
            )
        )
        now = clock.now()

        def drop(conn: sqlite3.Connection) -> int:
            body = sealed_body(sealed, ref=ref, at=now)
            self.log.append(conn, body=body, at=now, kind="log.sealed", txn=None, ref=ref, tenant=None)
            return drop_bodies(conn, sealed)

        dropped = await store.within(drop)
        await self.sign(store)
        return {"path": path, "upto": upto, "dropped": dropped, "ref": ref}


def _outrun(verdict: DatabaseOlder | AnchorMissing | AnchorMismatch) -> Unavailable:
    said = {
        DatabaseOlder: "the database is older than its anchor: it was restored, or entries were lost",
        AnchorMissing: "the database has entries but there is no anchor to hold it to",
        AnchorMismatch: "the database tells another story than its anchor",
    }[type(verdict)]
    return Unavailable(
        "unavailable",
        said,
        rule="anchor",
        who_can_change_it="the operator (stepwrit store check, stepwrit store adopt)",
    )
