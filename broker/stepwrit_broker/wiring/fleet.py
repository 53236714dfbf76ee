"""The backing of one of several brokers: Redis orders, PostgreSQL remembers, and the log is there too."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.keys.board import PgKeyBoard, open_board
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.postgres.reading import Reading
from stepwrit_broker.ledger.postgres.source import PgSource
from stepwrit_broker.ledger.tiles import LogTiles
from stepwrit_broker.ledger.view import LogView
from stepwrit_broker.observe import Metrics
from stepwrit_broker.observe_fleet import FleetMetrics, FleetNow
from stepwrit_broker.ports import Clock, Entropy, Reaped
from stepwrit_broker.ports_ended import Tell
from stepwrit_broker.store.fleet.postgres import shared
from stepwrit_broker.store.fleet.postgres.session import Connections
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.promises import Judged
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.redis.engine import RedisSwift
from stepwrit_broker.store.fleet.seams import EpochOver
from stepwrit_broker.store.fleet.store import FleetStore
from stepwrit_broker.wiring.backing import Recorder
from stepwrit_broker.wiring.fleet_engines import judged, redis_of, session_of
from stepwrit_broker.wiring.ledgering import signer
from stepwrit_broker.wiring.ledgering_fleet import FleetLedgering
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.witnessing import Witnessing, quorum_of

HOUSE: Final = "house"  # the row of the secret that was carried over
PREPARE_EVERY_S: Final = 3600.0
JUDGE_EVERY_S: Final = 60.0
_log = structlog.get_logger("stepwrit.fleet")


class FleetBacking:
    """The `Backing` of a broker among others."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> None:
        if settings.fleet is None:
            raise Malformed("invalid_request", "fleet: its engines are not named")
        self._settings, self._fleet = settings, settings.fleet
        self._clock, self._entropy = clock, entropy
        self._metrics, self._stack = metrics, stack
        self._fleet_metrics = FleetMetrics(metrics.registry)
        self.judged: Judged
        self.store: FleetStore
        self.ledger: LogView
        self.tiles: LogTiles
        self.say: Recorder
        self.secret: bytes
        self.board: PgKeyBoard | None = None
        self.ledgering: FleetLedgering
        self.witnessing: Witnessing
        self._swift: RedisSwift
        self._truth: PostgresTruth

    async def open(self) -> None:
        """Both engines keep their promise, the log goes on from what we have seen, the epoch is ours."""
        fleet = self._fleet
        self._truth = await open_truth(session_of(fleet), PgLog(), self._clock, shards=fleet.shards)
        self._stack.push_async_callback(self._truth.close)
        self._swift = redis_of(fleet)
        self._stack.push_async_callback(self._swift.close)
        self.judged = await self._judge()
        self.judged.check()
        rates = Rates(self._swift)
        self.store = FleetStore(
            self._swift, self._truth, rates, self._entropy, me=fleet.me, now=self._clock.now
        )
        self.store.durable.waited = self._fleet_metrics.truth.observe
        self.store.sequencer.took = self._fleet_metrics.commit.observe
        self._stack.push_async_callback(rates.close)
        self.say = Recorder(store=self.store, clock=self._clock, entropy=self._entropy)
        self.board = await open_board(fleet.postgres, server_settings={"search_path": "stepwrit"})
        self._stack.push_async_callback(self.board.close)
        await self._open_log()
        await self.store.start()
        await self.witnessing.first()
        await self.say("fleet.promises", {"broker": fleet.me, **self.judged.facts()})

    async def _open_log(self) -> None:
        settings = self._settings
        settings.anchor_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.store_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connections = Connections(session_of(self._fleet, connections=2))
        await connections.open()
        self._stack.push_async_callback(connections.close)
        reading = Reading(self._fleet.postgres)
        self._stack.push_async_callback(asyncio.to_thread, reading.close)
        source = PgSource(reading)
        self.ledgering = FleetLedgering(
            signer(settings.ledger_key, settings.ledger_origin, self._entropy),
            settings.anchor_path,
            use=connections.use,
            source=source,
            clock=self._clock,
        )
        self.secret = await self._secret(connections)
        await self.ledgering.admit()
        await self.ledgering.prepare()
        self.ledger = LogView(source, quorum=quorum_of(settings))
        self.witnessing = Witnessing(
            settings, log=self.ledgering, clock=self._clock, metrics=self._metrics, stack=self._stack
        )
        self.witnessing.say = self.say
        self.tiles = LogTiles(source, self.witnessing.published)
        self.store.set_guard(self._guard)

    async def _secret(self, connections: Connections) -> bytes:
        """The fleet's own, or that of the broker whose place it took: persons keep their opaque names."""
        own = await self._truth.secret(self._entropy.bytes(32))
        async with connections.use() as conn:
            carried = await shared.held(conn, HOUSE)
        return carried or hmac.digest(own, b"stepwrit: persons, nonces, sealed texts", hashlib.sha256)

    def _guard(self, verb: str) -> None:
        self.ledgering.guard(verb)
        self.witnessing.guard(verb)

    async def _judge(self) -> Judged:
        """What the settings of both engines promise now."""
        redis = await self._swift.facts(self._clock)
        return judged(self._fleet, redis, await self._truth.facts())

    @property
    def eraser(self) -> FleetStore:
        """The store itself."""
        return self.store

    def heed(self, *, ended: Tell, marked: Callable[[], None], ruled: Callable[[], None]) -> None:
        """From now on these are told, of what other brokers do too."""

        async def changed() -> None:
            ruled()

        self.store.heed(ended=ended, marked=marked)
        self.store.set_ruled(changed)

    def catch_up(self, load: Callable[[], Awaitable[None]]) -> None:
        """As soon as something was decided on versions that another broker replaced."""
        self.store.set_catch_up(load)

    async def reap(self, now: float) -> Reaped:
        """Everything, where this broker carries the streams; what is late, where another does."""
        return await self.store.reap_in_turn(now)

    @property
    def vkey(self) -> str:
        """The public key of the log."""
        return self.ledgering.vkey

    async def sign(self) -> str:
        """Sign what is committed; the note."""
        return await self.ledgering.sign(epoch=self.store.epoch)

    async def checkpoint(self) -> None:
        """Sign what is committed, or take what another broker signed."""
        await self.sign()
        signed = self.ledgering.signed()
        size = 0 if signed is None else signed.size
        self._metrics.ledger_signed.set(size)
        self._metrics.ledger_entries.set(size)

    async def seal(self, path: str, ref: str, before: float | None) -> dict[str, object]:
        """Export whole months to a file of this broker, and drop their bodies."""
        return await self.ledgering.seal(path, ref, before)

    async def gauge(self) -> None:
        """Set the metrics; what the engines are like comes first, as they may fail all else."""
        store, lead = self.store, self.store.sequencer
        self._fleet_metrics.told(
            FleetNow(
                waiting=store.queued,
                waiting_s=store.durable.oldest_s,
                backlog=await self._backlog(),
                leads=lead.leads,
                committed=lead.committed,
                idle_s=lead.idle_s,
                blind_s=store.hearing.blind_s,
                epochs=store.epochs.standing.order,
                ended=store.epochs.ended,
                retries=store.retries,
                rules_here=store.rules,
                rules_there=store.hearing.rules_there,
                forged=store.forged,
                clock_s=store.clock.offset_s,
            )
        )
        self._fleet_metrics.accepted(self.judged.metrics)
        self._metrics.headroom.set(math.inf)  # the engines' disks are their own
        await self.witnessing.gauge()

    async def _backlog(self) -> int | None:
        try:
            epoch = self.store.epoch
            return sum([await self._swift.backlog(epoch, shard) for shard in range(self._fleet.shards)])
        except EpochOver:
            return 0  # what it had is nobody's any more
        except Problem:
            return None

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """The store's workers, the witnesses', and two of our own."""
        return [*self.store.runs(), *self.witnessing.runs(), self._prepare, self._watch]

    async def _prepare(self) -> None:
        """Next month's partitions are there before it begins."""
        while True:
            await asyncio.sleep(PREPARE_EVERY_S)
            await self.ledgering.prepare()

    async def _watch(self) -> None:
        """Settings that were changed while we serve are told; they stop nothing that they did not before."""
        while True:
            await asyncio.sleep(JUDGE_EVERY_S)
            try:
                self.judged = await self._judge()
            except Problem as down:
                _log.warning("the fleet's engines cannot be asked for their settings", why=str(down))

    def not_ready(self) -> str | None:
        """A ledger that contradicts what was seen of it serves nobody, nor does a clock that is off."""
        other = self.witnessing.contradiction()
        if other is not None:
            return f"the ledger is in doubt: witness {other}"
        doubt = self.ledgering.doubt()
        return self.store.clock.doubt() if doubt is None else f"the ledger is in doubt: {doubt}"

    def doubts(self) -> list[str]:
        """Of the witnesses, and settings that keep no promise or are lived with."""
        judged = self.judged
        return [
            *self.witnessing.doubts(),
            *(each.text for each in judged.refused),
            *(f"accepted: {each.name} ({each.node})" for each in judged.accepted),
        ]

    def health(self) -> dict[str, object]:
        """Of the store, the fleet and the witnesses."""
        store = self.store
        return {
            "store": "ok" if store.owed == 0 else "in doubt",
            "fleet": {
                "broker": self._fleet.me,
                "epoch": store.epoch,
                "waiting": store.queued,
                "leads": store.sequencer.leads,
                **self.judged.readyz(),
            },
            "witnesses": self.witnessing.told(),
        }

    def witnesses(self) -> dict[str, object]:
        """Who was asked, and what they doubt."""
        return {"asked": self.witnessing.told(), "doubts": self.witnessing.doubts()}
