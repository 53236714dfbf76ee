"""One broker: every port with its adapter, from its identity to its listeners."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.federation.trust import PooledIdentity
from stepwrit_broker.attest.statements import SvidKeyStatements
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.edge.listeners import Listener
from stepwrit_broker.flows.house import House, requester_of
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import LedgerView
from stepwrit_broker.wiring import health
from stepwrit_broker.wiring.background import Background, Chores
from stepwrit_broker.wiring.backing import Backing, BrokerStore
from stepwrit_broker.wiring.documents import OperatorDocuments
from stepwrit_broker.wiring.embedded import EmbeddedBacking
from stepwrit_broker.wiring.federating import FOLDER, Federating, one_source_each
from stepwrit_broker.wiring.files import OperatorFiles
from stepwrit_broker.wiring.housing import Housed, Parts, housed
from stepwrit_broker.wiring.identify import first_authorities, identified
from stepwrit_broker.wiring.listening import Listening
from stepwrit_broker.wiring.opa import opa_of
from stepwrit_broker.wiring.publishing import is_broker, published
from stepwrit_broker.wiring.rehearsing import rehearsal_of
from stepwrit_broker.wiring.serving import served
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.working import Work

if TYPE_CHECKING:
    from stepwrit_broker.wiring.fleet import FleetBacking


class Broker:
    """A running broker. `async with Broker(settings) as broker:` serves until left."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.clock, self.entropy, self.metrics = SystemClock(), SystemEntropy(), Metrics()
        self._stack = AsyncExitStack()
        self._background: Final = Background(self._stack)
        self._ready = False
        self.draining = False
        self._jwt_generation: Callable[[], int] = int
        self.jwt_bundles: JwtBundleWatch | None = None  # only the tls listener asks for them
        self.backing: Backing = self._backing()
        self.identity: WorkloadIdentity
        self.live: Live
        self.housed: Housed
        self.files: OperatorFiles
        self.listening: Listening

    def _backing(self) -> Backing:
        return _backing_of(self.settings)(
            self.settings,
            clock=self.clock,
            entropy=self.entropy,
            metrics=self.metrics,
            stack=self._stack,
        )

    async def __aenter__(self) -> Self:
        """Start everything, or nothing: what was started is stopped again when a part refuses."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Unready from now on, and still serving: what stands before the brokers has so long to notice.

        Whoever is held is answered, and every answer closes its connection. hurry: ends the wait.
        """
        self.draining = True
        self.housed.let_go()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await (hurry or asyncio.Event()).wait()

    async def __aexit__(self, *_: object) -> None:
        """Unready first, then drain, then let go."""
        self._ready = False
        await self._stack.aclose()

    async def _start(self) -> None:
        await self._identify()
        await self.backing.open()
        self._federate()
        await self._settle()
        self.housed = housed(self._parts())
        await self._publish()
        await self.housed.expiries.load(self.house)
        self.listening = Listening(served(self), self._stack)
        await self.listening.start()
        if self.jwt_bundles is not None:
            await first_authorities(self.jwt_bundles)
        self._stack.callback(self.housed.let_go)  # before the listeners drain
        self._work()
        about: dict[str, object] = {"broker": self.settings.broker_id, "epoch": self.store.epoch}
        await self.backing.say("broker.started", about)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        self._ready = True

    async def _identify(self) -> None:
        """Our own SVID, over the Workload API, before anything else."""
        self.identity = WorkloadIdentity(self.settings.spiffe_socket, hint=self.settings.spiffe_hint)
        self._streams: dict[str, health.Watched] = {"identity": self.identity}
        await self.identity.start()
        self._stack.push_async_callback(self.identity.close)
        settings = self.settings
        snapshot = await identified(
            self.identity, settings.broker_id, settings.ready_timeout_s, settings.spiffe_hint
        )
        self._svid_ends = snapshot.expires_at

    def _federate(self) -> None:
        """The partners whose bundles we fetch: what was accepted before this start counts again."""
        settings = self.settings
        one_source_each(settings.partners, self.identity.snapshot().bundles)
        self.federating = Federating(
            settings.partners,
            settings.store_path.parent / FOLDER,
            clock=self.clock,
            entropy=self.entropy,
            metrics=self.metrics,
        )
        self.federating.load()
        self.pooled = PooledIdentity(self.identity, self.federating.federation)

    async def _settle(self) -> None:
        """What the operator set: what the store has in force, then whatever file changed since."""
        self.bundles = self.federating.bundles = BundleSource(
            self.identity,
            max_age=self.settings.bundle_max_age_s,
            refuse=self.settings.refused_domains,
            partners=self.federating.federation,
        )
        generation = self._bundle_generation
        self.live = Live(
            store=self.store,
            documents=OperatorDocuments(
                proxy=self.settings.proxy,
                opa=opa_of(self.settings.opa, self.metrics, self._stack),
                opaque=lambda who: requester_of(self.backing.secret, who.issuer, who.subject).opaque,
            ),
            clock=self.clock,
            entropy=self.entropy,
            bundles=generation,
            use=lambda limits: self.store.use(limits, generation),
        )
        self.rehearsal = rehearsal_of(
            self.settings, self.store, self.live, self.clock, self.entropy, self.metrics
        )
        self._stack.push_async_callback(self.rehearsal.shadow.close)
        await self.live.load()
        self.files = OperatorFiles(self.settings, self.live, self.metrics)
        await self.files.apply_all()

    def _bundle_generation(self) -> int:
        """Of all keys by which callers are believed, those of JWT-SVIDs among them."""
        return self.pooled.generation + self._jwt_generation()

    def _parts(self) -> Parts:
        return Parts(
            settings=self.settings,
            clock=self.clock,
            entropy=self.entropy,
            metrics=self.metrics,
            stack=self._stack,
            backing=self.backing,
            live=self.live,
            published=self._published,
        )

    async def _publish(self) -> None:
        """In a fleet: no key is used before the others know it."""
        board, made = self.backing.board, self.housed
        if board is None:
            return
        statements = SvidKeyStatements(
            self.identity,
            self.bundles,
            home=self.settings.trust_domain,
            issuer=self.settings.issuer,
            is_broker=is_broker(self.live, self.store, self.settings.broker_id),
        )
        self._background.keep(
            (await published(board, statements, made.own_keys, made.others, self.clock)).run
        )

    def _published(self, kid: str, thumbprint: str) -> None:
        told: dict[str, object] = {"kid": kid, "thumbprint": thumbprint}
        self._background.spawn(partial(self.backing.say, "key.published", told))

    def authorities(self) -> AuthoritySource:
        """The JWT authorities, watched from now on."""
        watch = self.jwt_bundles = JwtBundleWatch(self.settings.spiffe_socket)
        self._jwt_generation = lambda: watch.current().generation
        self._streams["jwt_bundles"] = watch
        watch.start()
        self._stack.push_async_callback(asyncio.to_thread, watch.close)
        return AuthoritySource(
            watch,
            max_age=self.settings.bundle_max_age_s,
            refuse=self.settings.refused_domains,
            partners=self.federating.federation,
        )

    @property
    def mtls(self) -> Listener:
        """The listener of workloads with a certificate."""
        return self.listening.mtls

    @property
    def tls(self) -> Listener | None:
        """The listener without client certificates, where there is one."""
        return self.listening.tls

    @property
    def ops(self) -> Listener:
        """The listener of metrics and health."""
        return self.listening.ops

    @property
    def mtls_url(self) -> str:
        """Where workloads reach this broker."""
        return self.listening.mtls_url

    @property
    def store(self) -> BrokerStore:
        """Where everything stands."""
        return self.backing.store

    @property
    def ledger(self) -> LedgerView:
        """Reads what is committed."""
        return self.backing.ledger

    @property
    def house(self) -> House:
        """What the verbs work with."""
        return self.housed.house

    def not_ready(self) -> str | None:
        """Why this process is not, or None."""
        if self.draining:
            return "draining"
        return self.backing.not_ready() if self._ready else "starting or stopping"

    def health(self) -> dict[str, object]:
        """Dependencies in doubt are told here and in metrics, never by unreadiness."""
        return {
            **self.backing.health(),
            **health.told(self._streams),
            "federation": self.federating.health(),
            "notices": self.housed.notifying.health(),
        }

    def _chores(self) -> Chores:
        made = self.housed
        return Chores(
            clock=self.clock,
            metrics=self.metrics,
            backing=self.backing,
            live=self.live,
            house=made.house,
            expiries=made.expiries,
            refusals=made.refusals,
            answers=made.answers,
            identity=self.identity,
            streams=self._streams,
            svid_ends=self._svid_ends,
        )

    def _work(self) -> None:
        self.chores = self._chores()
        self.federating.say = self.backing.say
        Work(
            settings=self.settings,
            background=self._background,
            backing=self.backing,
            live=self.live,
            files=self.files,
            housed=self.housed,
            chores=self.chores,
            federating=self.federating,
            rehearsal=self.rehearsal,
        ).begin()


def _backing_of(settings: BrokerSettings) -> type[EmbeddedBacking | FleetBacking]:
    """The drivers of a fleet's engines are slow to import, and only a fleet needs them."""
    if settings.fleet is None:
        return EmbeddedBacking
    from stepwrit_broker.wiring.fleet import FleetBacking  # noqa: PLC0415

    return FleetBacking
