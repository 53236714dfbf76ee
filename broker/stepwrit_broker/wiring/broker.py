"""One broker: every port with its adapter, from its identity to its listeners."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self

import httpx2

from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit.wire import CREDENTIAL_MAX_S, STEP_TOKEN_MAX_S
from stepwrit.wire_chain import GRANT_S
from stepwrit_broker.approvals.oidc import OidcSignIns
from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.federation.trust import PooledIdentity
from stepwrit_broker.attest.peers import OverMtls, PeerKeys
from stepwrit_broker.attest.person import OidcPeople
from stepwrit_broker.attest.signals import OidcSignals
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.edge.listeners import Listener
from stepwrit_broker.edge.nonces import Nonces
from stepwrit_broker.flows.advice import Adviser, AnswerRecorder
from stepwrit_broker.flows.house import House, requester_of
from stepwrit_broker.flows.refusals import RefusalRecorder
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.flows.tiles import Tiles
from stepwrit_broker.keys.grants import OwnGrants
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.sealing import AesSealer
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens
from stepwrit_broker.kinds.action_token import ActionToken
from stepwrit_broker.kinds.id_jag import IdJag
from stepwrit_broker.ledger.tiles import SqliteTiles
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_approval import Notice
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store, own_secret
from stepwrit_broker.wiring import health
from stepwrit_broker.wiring.administering import admin_ports
from stepwrit_broker.wiring.background import Background, Chores, Recorder
from stepwrit_broker.wiring.documents import OperatorDocuments
from stepwrit_broker.wiring.ending import Endings
from stepwrit_broker.wiring.federating import FOLDER, Federating, one_source_each
from stepwrit_broker.wiring.files import OperatorFiles
from stepwrit_broker.wiring.identify import first_authorities, identified
from stepwrit_broker.wiring.ledgering import Ledgering, signer
from stepwrit_broker.wiring.listening import Listening, Served
from stepwrit_broker.wiring.notifying import Notifying
from stepwrit_broker.wiring.opa import opa_of
from stepwrit_broker.wiring.rehearsing import rehearsal_of
from stepwrit_broker.wiring.settings import BrokerSettings
from stepwrit_broker.wiring.waiting import Bells, Decisions, Expiries, Told
from stepwrit_broker.wiring.witnessing import Witnessing, quorum_of


class Broker:
    """A running broker. `async with Broker(settings) as broker:` serves until left."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.clock, self.entropy, self.metrics = SystemClock(), SystemEntropy(), Metrics()
        self._stack = AsyncExitStack()
        self._background: Final = Background(self._stack)
        self._ready = False
        self._jwt_generation: Callable[[], int] = int
        self.identity: WorkloadIdentity
        self.store: SqliteStore
        self.live: Live
        self.house: House
        self.ledger: SqliteLedgerView
        self.files: OperatorFiles
        self.listening: Listening

    async def __aenter__(self) -> Self:
        """Start everything, or nothing: what was started is stopped again when a part refuses."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unready first, then drain, then let go."""
        self._ready = False
        await self._stack.aclose()

    async def _start(self) -> None:
        await self._identify()
        await self._open_store()
        await self._settle()
        self._build()
        await self.expiries.load(self.house)
        self.listening = Listening(self._served(), self._stack)
        await self.listening.start()
        await first_authorities(self.jwt_bundles)
        self._stack.callback(self.endings.close)  # before the listeners drain
        self._work()
        await self.say("broker.started", {"broker": self.settings.broker_id, "epoch": self.store.epoch})
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

    async def _open_store(self) -> None:
        settings = self.settings
        key = signer(settings.ledger_key, settings.ledger_origin, self.entropy)
        self.ledgering = Ledgering(key, settings.anchor_path)
        settings.store_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.anchor_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = open_store(
            settings.store_path,
            log=self.ledgering.log,
            entropy=self.entropy,
            disk=Disk(settings.store_path, reserve=settings.disk_reserve_bytes),
            prepared=self.ledgering.admit,
        )
        self._stack.push_async_callback(self.store.close)
        self.store.set_anchor(self.ledgering.anchoring(self.store))
        self._pepper = await self.store.within(partial(own_secret, made=self.entropy.bytes(32)))
        self.say = Recorder(store=self.store, clock=self.clock, entropy=self.entropy)
        self.ledger = SqliteLedgerView(settings.store_path, quorum=quorum_of(settings))
        self._stack.callback(self.ledger.close)
        await self._witness()
        self._stack.push_async_callback(self._sign_last)
        self._federate()

    async def _witness(self) -> None:
        """Nothing is served before the witnesses had their chance to object to this database."""
        self.witnessing = Witnessing(
            self.settings,
            store=self.store,
            ledgering=self.ledgering,
            clock=self.clock,
            metrics=self.metrics,
            stack=self._stack,
        )
        self.witnessing.say = self.say
        self.store.set_guard(self.witnessing.guard)
        self._tile_log = SqliteTiles(self.settings.store_path, self.witnessing.published)
        self._stack.callback(self._tile_log.close)
        await self.witnessing.first()

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

    async def _sign_last(self) -> None:
        """Nothing that was served stays outside a checkpoint at a clean end."""
        if self.ledgering.log.size:
            await self.ledgering.sign(self.store)

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
                opaque=lambda who: requester_of(self._pepper, who.issuer, who.subject).opaque,
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

    def _build(self) -> None:
        settings, now = self.settings, self.clock.now()
        step_ring = Keyring("st", now=now, longest_s=STEP_TOKEN_MAX_S, published=self._published)
        self._rings = (
            step_ring,
            Keyring("at", now=now, longest_s=CREDENTIAL_MAX_S, published=self._published),
            Keyring("gr", now=now, longest_s=GRANT_S, published=self._published),
        )
        credentials = OwnCredentials(self._rings[1], issuer=settings.issuer)
        http = httpx2.AsyncClient(follow_redirects=False)
        self._stack.push_async_callback(http.aclose)
        self._sign_ins = (
            None
            if settings.sign_in is None
            else OidcSignIns(settings.sign_in, http, self.clock, self.entropy)
        )
        made = (ActionToken(credentials), IdJag(OwnGrants(self._rings[2])))
        self.refusals = RefusalRecorder(
            store=self.store, clock=self.clock, entropy=self.entropy, heard=self._refused
        )
        self.expiries = Expiries()
        self.endings = Endings(self.store.epoch)
        self.notifying = Notifying(
            settings.hooks,
            settings.mail,
            registry=lambda: self.live.now_in_force().registry,
            clock=self.clock,
            metrics=self.metrics,
            stack=self._stack,
        )
        self.answers = AnswerRecorder(store=self.store, clock=self.clock, entropy=self.entropy)
        people = OidcPeople(settings.oidc, http)
        self._signals = OidcSignals(settings.transmitters, people) if settings.transmitters else None
        self.house = House(
            issuer=settings.issuer,
            trust_domain=settings.trust_domain,
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            settings=self.live,
            step_tokens=OwnStepTokens(step_ring, issuer=settings.issuer, trust_domain=settings.trust_domain),
            credentials=credentials,
            kinds={each.name: each for each in made},
            people=people,
            pepper=self._pepper,
            refusals=self.refusals,
            approvals=self.store.approvals,
            sealer=AesSealer(self._pepper, self.entropy),
            notices=Told(self.metrics.approval, [*self._measures(), *self.notifying.channels]),
            bell=Bells(),
            ends=self.endings,
        )

    def _measures(self) -> list[Callable[[Notice], None]]:
        """What hears of approvals for our own sake."""
        return [Decisions(self.metrics, self.clock), self.expiries]

    def _refused(self, verb: str, code: str, rule: str, tool: str, ref: str) -> None:  # noqa: ARG002  the log has it
        self.metrics.refused(verb, code, rule, tool if self._is_registered(tool) else "")

    def _is_registered(self, tool: str) -> bool:
        """Labels are bounded by the registry, not by what callers write."""
        server, _, name = tool.partition("/")
        try:
            entry = self.live.now_in_force().registry.server(server)
        except Unavailable:
            return False
        return entry is not None and name in entry.tools

    def _published(self, kid: str, thumbprint: str) -> None:
        self._background.spawn(partial(self.say, "key.published", {"kid": kid, "thumbprint": thumbprint}))

    def _served(self) -> Served:
        return Served(
            settings=self.settings,
            clock=self.clock,
            metrics=self.metrics,
            store=self.store,
            live=self.live,
            house=self.house,
            signals=self._signals,
            peers=PeerKeys(OverMtls(self.pooled), self.metrics.peer_keys),
            adviser=Adviser(house=self.house, recorder=self.answers),
            identity=self.pooled,
            bundles=self.bundles,
            authorities=self._authorities,
            nonces=Nonces(self._pepper),
            rings=self._rings,
            admin=admin_ports(
                self.settings,
                self.store,
                self.house,
                self.live,
                self.ledger,
                self.metrics,
                self.ledgering,
                self.witnessing,
                self.rehearsal,
            ),
            tiles=Tiles(self._tile_log),
            sign_ins=self._sign_ins,
            ready=self._not_ready,
            health=self._health,
            doubts=self.witnessing.doubts,
        )

    def _authorities(self) -> AuthoritySource:
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

    def _not_ready(self) -> str | None:
        if not self._ready:
            return "starting or stopping"
        other = self.witnessing.contradiction()
        return None if other is None else f"the ledger is in doubt: witness {other}"

    def _health(self) -> dict[str, object]:
        """Dependencies in doubt are told here and in metrics, never by unreadiness."""
        return {
            "store": "ok" if self.store.owed == 0 else "in doubt",
            **health.told(self._streams),
            "federation": self.federating.health(),
            "notices": self.notifying.health(),
            "witnesses": self.witnessing.told(),
        }

    def _work(self) -> None:
        settings, background = self.settings, self._background
        chores = self.chores = Chores(
            disk_reserve=settings.disk_reserve_bytes,
            clock=self.clock,
            metrics=self.metrics,
            store=self.store,
            ledgering=self.ledgering,
            live=self.live,
            house=self.house,
            expiries=self.expiries,
            refusals=self.refusals,
            answers=self.answers,
            say=self.say,
            identity=self.identity,
            streams=self._streams,
            svid_ends=self._svid_ends,
        )
        background.every(settings.reap_every_s, chores.reap)
        marked = asyncio.Event()
        self.store.heed(ended=self.endings.tell, marked=marked.set)
        background.when(marked, chores.walk)
        background.every(settings.checkpoint_every_s, chores.checkpoint)
        background.every(settings.watch_every_s, self.files.watch)
        background.every(10.0, chores.flush)
        background.every(2.0, chores.gauge)
        background.every(1.0, self.federating.gauge)
        self.federating.say = self.say
        background.every(1.0, self.witnessing.gauge)
        for run in (*self.witnessing.runs(), *self.federating.runs(), *self.notifying.runs()):
            background.keep(run)
        background.spawn(self.rehearsal.shadow.resume)
