"""The embedded backing: everything in one SQLite file of this process, and an anchor outside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from stepwrit_broker.ledger.cosignature import Cosigned
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader
from stepwrit_broker.ledger.tiles import SqliteTiles
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ledger.witness.kept import keep
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock, Entropy, Reaped
from stepwrit_broker.ports_ended import Tell
from stepwrit_broker.ports_fleet import KeyBoard
from stepwrit_broker.ports_ledger import Published
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store, own_secret
from stepwrit_broker.wiring.backing import Recorder
from stepwrit_broker.wiring.ledgering import Ledgering, signer
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.witnessing import Witnessing, quorum_of


@dataclass(frozen=True, kw_only=True)
class EmbeddedLog:
    """The embedded log, as witnesses are shown it."""

    store: SqliteStore
    ledgering: Ledgering
    source: SqliteSource

    def signed(self) -> Published | None:
        """The newest checkpoint."""
        return self.ledgering.signed()

    async def sign(self) -> str:
        """Sign what is committed; the note."""
        return await self.ledgering.sign(self.store)

    async def keep(self, size: int, made: Cosigned) -> None:
        """In a transaction of its own."""
        origin = self.ledgering.log.origin or ""
        await self.store.within(partial(keep, origin=origin, size=size, made=made))


class EmbeddedBacking:
    """The `Backing` of a broker that stands alone."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> None:
        self._settings, self._clock, self._entropy = settings, clock, entropy
        self._metrics, self._stack = metrics, stack
        self.board: KeyBoard | None = None
        self.store: SqliteStore
        self.ledger: SqliteLedgerView
        self.tiles: SqliteTiles
        self.say: Recorder
        self.secret: bytes
        self.ledgering: Ledgering
        self.witnessing: Witnessing

    async def open(self) -> None:
        """Nothing is served before the witnesses had their chance to object to this database."""
        await self._open_store()
        settings, store = self._settings, self.store
        self.say = Recorder(store=store, clock=self._clock, entropy=self._entropy)
        self.ledger = SqliteLedgerView(settings.store_path, quorum=quorum_of(settings))
        self._stack.callback(self.ledger.close)
        self.witnessing = Witnessing(
            settings,
            log=self._witnessed(),
            clock=self._clock,
            metrics=self._metrics,
            stack=self._stack,
        )
        self.witnessing.say = self.say
        store.set_guard(self.witnessing.guard)
        self.tiles = SqliteTiles(settings.store_path, self.witnessing.published)
        self._stack.callback(self.tiles.close)
        await self.witnessing.first()
        self._stack.push_async_callback(self._sign_last)

    def _witnessed(self) -> EmbeddedLog:
        source = SqliteSource(open_reader(self._settings.store_path))
        self._stack.callback(source.close)
        return EmbeddedLog(store=self.store, ledgering=self.ledgering, source=source)

    async def _open_store(self) -> None:
        settings = self._settings
        key = signer(settings.ledger_key, settings.ledger_origin, self._entropy)
        self.ledgering = Ledgering(key, settings.anchor_path)
        settings.store_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.anchor_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = open_store(
            settings.store_path,
            log=self.ledgering.log,
            entropy=self._entropy,
            disk=Disk(settings.store_path, reserve=settings.disk_reserve_bytes),
            prepared=self.ledgering.admit,
        )
        self._stack.push_async_callback(self.store.close)
        self.store.set_anchor(self.ledgering.anchoring(self.store))
        self.secret = await self.store.within(partial(own_secret, made=self._entropy.bytes(32)))

    async def _sign_last(self) -> None:
        """Nothing that was served stays outside a checkpoint at a clean end."""
        if self.ledgering.log.size:
            await self.sign()

    @property
    def eraser(self) -> SqliteStore:
        """The store itself."""
        return self.store

    def heed(self, *, ended: Tell, marked: Callable[[], None], ruled: Callable[[], None]) -> None:
        """From now on these are told."""
        self.store.heed(ended=ended, marked=marked, ruled=ruled)

    def catch_up(self, load: Callable[[], Awaitable[None]]) -> None:
        """Nobody else applies anything."""

    async def reap(self, now: float) -> Reaped:
        """Everything."""
        return await self.store.reap(now)

    @property
    def vkey(self) -> str:
        """The public key of the log."""
        return self.ledgering.vkey

    async def sign(self) -> str:
        """Sign what is committed; the note."""
        return await self.ledgering.sign(self.store)

    async def checkpoint(self) -> None:
        """Sign what is committed, if there is anything."""
        if self.ledgering.log.size:
            await self.sign()
            self._metrics.ledger_signed.set(self.ledgering.log.size)

    async def seal(self, path: str, ref: str, before: float | None) -> dict[str, object]:
        """Export and drop bodies. Raises Conflict when there is nothing to seal."""
        return await self.ledgering.seal(self.store, self._clock, path, ref, before)

    async def gauge(self) -> None:
        """Set the metrics of the disk and of the witnesses."""
        metrics, room = self._metrics, self.store.headroom()
        metrics.store_bytes.set(room.used)
        metrics.headroom.set(room.free - self._settings.disk_reserve_bytes)
        metrics.ledger_entries.set(room.entries)
        metrics.ledger_bytes.set(room.ledger)
        await self.witnessing.gauge()

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """One worker for each witness."""
        return self.witnessing.runs()

    def not_ready(self) -> str | None:
        """A ledger that a witness contradicts serves nobody."""
        other = self.witnessing.contradiction()
        return None if other is None else f"the ledger is in doubt: witness {other}"

    def doubts(self) -> list[str]:
        """Those of the witnesses."""
        return self.witnessing.doubts()

    def health(self) -> dict[str, object]:
        """Store and witnesses."""
        return {
            "store": "ok" if self.store.owed == 0 else "in doubt",
            "witnesses": self.witnessing.told(),
        }

    def witnesses(self) -> dict[str, object]:
        """Who was asked, and what they doubt."""
        return {"asked": self.witnessing.told(), "doubts": self.witnessing.doubts()}
