"""One broker: every port with its adapter, the listeners, and the work in the background."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self

import httpx2
import structlog

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit.wire import CREDENTIAL_MAX_S, STEP_TOKEN_MAX_S
from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.federation.trust import PooledIdentity
from stepwrit_broker.attest.jwt import JwtAttestor
from stepwrit_broker.attest.person import OidcPeople
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core import ids
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.versions import VersionKind
from stepwrit_broker.edge.admin import AdminPorts
from stepwrit_broker.edge.app import BEARER_VERBS, Endpoint, WorkloadApp
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.forwarded import Forwarding
from stepwrit_broker.edge.http import Asgi
from stepwrit_broker.edge.listeners import (
    Listener,
    mtls_listener,
    plain_listener,
    tls_listener,
    unix_listener,
)
from stepwrit_broker.edge.metadata import authorization_server_metadata
from stepwrit_broker.edge.nonces import Nonces
from stepwrit_broker.edge.oauth.introspect_7662 import IntrospectionEndpoint
from stepwrit_broker.edge.oauth.revoke_7009 import RevocationEndpoint
from stepwrit_broker.edge.oauth.token_8693 import TokenEndpoint
from stepwrit_broker.edge.operator import by_socket, by_svid
from stepwrit_broker.edge.proving import ByAssertion, ByCertificate, Proving
from stepwrit_broker.edge.rest import ops_app, rest_app
from stepwrit_broker.edge.verbs import Verbs
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.refusals import RefusalRecorder
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens
from stepwrit_broker.kinds.action_token import ActionToken
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Evidence, Happening
from stepwrit_broker.registry.limits_file import set_rate
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store
from stepwrit_broker.wiring import health
from stepwrit_broker.wiring.documents import OperatorDocuments, document_text
from stepwrit_broker.wiring.federating import FOLDER, Federating, one_source_each
from stepwrit_broker.wiring.identify import identified
from stepwrit_broker.wiring.ledgering import Ledgering, signer
from stepwrit_broker.wiring.settings import BrokerSettings

_log = structlog.get_logger("stepwrit.broker")
FILE_OPERATOR = Operator(name="file")


class Broker:
    """A running broker. `async with Broker(settings) as broker:` serves until left."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.clock, self.entropy, self.metrics = SystemClock(), SystemEntropy(), Metrics()
        self._stack = AsyncExitStack()
        self._ready = False
        self._svid_ends = 0.0
        self._stamps: dict[VersionKind, tuple[tuple[str, int, int], ...]] = {}
        self.identity: WorkloadIdentity
        self.store: SqliteStore
        self.live: Live
        self.house: House
        self.ledger: SqliteLedgerView
        self.mtls: Listener
        self.ops: Listener
        self.tls: Listener | None = None

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
        await self._listen()
        self._work()
        await self._say("broker.started", {"broker": self.settings.broker_id, "epoch": self.store.epoch})
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
        self._pepper_bytes = await self.store.within(self._pepper)
        self.ledger = SqliteLedgerView(settings.store_path)
        self._stack.callback(self.ledger.close)
        self._stack.push_async_callback(self._sign_last)
        self._federate()

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

    def _pepper(self, conn: sqlite3.Connection) -> bytes:
        """The store's own secret for naming persons; made once, never shown."""
        conn.execute(
            "INSERT OR IGNORE INTO meta (name, value) VALUES ('pepper', ?)", (self.entropy.bytes(32).hex(),)
        )
        found: str = conn.execute("SELECT value FROM meta WHERE name = 'pepper'").fetchone()[0]
        return bytes.fromhex(found)

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
            documents=OperatorDocuments(proxy=self.settings.proxy),
            clock=self.clock,
            entropy=self.entropy,
            bundles=generation,
            use=lambda limits: self.store.use(limits, generation),
        )
        await self.live.load()
        for kind in ("registry", "limits", "policy"):
            await self.apply_file(kind)

    def _bundle_generation(self) -> int:
        return self.pooled.generation

    async def apply_file(self, kind: VersionKind) -> None:
        """Apply a file if it changed. A bad one leaves what is in force, and says so."""
        path: Path | None = getattr(self.settings, kind)
        if path is None:
            return
        try:
            text, source = _document(kind, path)
            stored = await self.live.apply(
                kind, text, source=source, by=FILE_OPERATOR, reason="the file changed"
            )
        except (Problem, OSError, UnicodeDecodeError) as bad:
            _log.error("file refused; what was in force stays", kind=kind, path=str(path), why=str(bad))
            self.metrics.file_refused(kind)
            return
        self.metrics.file_good(kind)
        if stored is not None:
            _log.info("applied", kind=kind, version=stored.number, path=str(path))

    def _build(self) -> None:
        settings, now = self.settings, self.clock.now()
        step_ring = Keyring("st", now=now, longest_s=STEP_TOKEN_MAX_S, published=self._published)
        self._rings = (
            step_ring,
            Keyring("at", now=now, longest_s=CREDENTIAL_MAX_S, published=self._published),
        )
        credentials = OwnCredentials(self._rings[1], issuer=settings.issuer)
        http = httpx2.AsyncClient(follow_redirects=False)
        self._stack.push_async_callback(http.aclose)
        action_token = ActionToken(credentials)
        self.refusals = RefusalRecorder(
            store=self.store, clock=self.clock, entropy=self.entropy, heard=self._refused
        )
        self.house = House(
            issuer=settings.issuer,
            trust_domain=settings.trust_domain,
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            settings=self.live,
            step_tokens=OwnStepTokens(step_ring, issuer=settings.issuer, trust_domain=settings.trust_domain),
            credentials=credentials,
            kinds={action_token.name: action_token},
            people=OidcPeople(settings.oidc, http),
            pepper=self._pepper_bytes,
            refusals=self.refusals,
        )

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
        self._spawn(self._say("key.published", {"kid": kid, "thumbprint": thumbprint}))

    async def _listen(self) -> None:
        settings = self.settings
        callers = self._callers(self._by_certificate(), lambda: (self.mtls_url,))
        admin = self._admin_ports()
        quiet = rest_app(
            title="Stepwrit", metadata=self._metadata, jwks=self._jwks, admin=(admin, by_svid(callers))
        )
        self.mtls = mtls_listener(
            settings.mtls.host,
            settings.mtls.port,
            self.pooled,
            on_handshake_refused=self.metrics.handshake_refused,
        )
        await self._serve(self.mtls, self._workloads(callers, quiet))
        self.ops = plain_listener(settings.ops.host, settings.ops.port)
        await self._serve(
            self.ops, ops_app(text=self.metrics.text, ready=self._not_ready, health=self._health)
        )
        uids = settings.admin_uids | {0, os.getuid()}
        settings.admin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._serve(
            unix_listener(settings.admin, mode=0o666 if settings.admin_uids else 0o600),
            rest_app(title="Stepwrit admin", metadata=None, jwks=None, admin=(admin, by_socket(uids))),
        )
        await self._listen_tls()

    async def _listen_tls(self) -> None:
        settings = self.settings
        if settings.tls is None or settings.tls_cert is None or settings.tls_key is None:
            return
        self.tls = tls_listener(
            settings.tls.host,
            settings.tls.port,
            settings.tls_cert,
            settings.tls_key,
            on_handshake_refused=self.metrics.handshake_refused,
        )
        nonces = Nonces(self._pepper_bytes)
        attestor = JwtAttestor(self._authorities(), audience=settings.issuer)
        ignored = partial(self.metrics.forwarded_ignored, "tls")
        callers = self._callers(ByAssertion(attestor, ignored=ignored), lambda: (settings.issuer,), nonces)
        quiet = rest_app(title="Stepwrit", metadata=self._metadata, jwks=self._jwks, admin=None)
        await self._serve(self.tls, self._workloads(callers, quiet, nonces))

    def _by_certificate(self) -> ByCertificate:
        proxy = self.settings.proxy
        return ByCertificate(
            X509Attestor(self.bundles),
            ignored=partial(self.metrics.forwarded_ignored, "mtls"),
            forwarding=None if proxy is None else Forwarding(proxy),
        )

    def _authorities(self) -> AuthoritySource:
        """The JWT authorities, watched from now on."""
        watch = self.jwt_bundles = JwtBundleWatch(self.settings.spiffe_socket)
        self._streams["jwt_bundles"] = watch
        watch.start()
        self._stack.push_async_callback(asyncio.to_thread, watch.close)
        return AuthoritySource(
            watch,
            max_age=self.settings.bundle_max_age_s,
            refuse=self.settings.refused_domains,
            partners=self.federating.federation,
        )

    def _callers(
        self, proving: Proving, bases: Callable[[], tuple[str, ...]], nonces: Nonces | None = None
    ) -> Callers:
        return Callers(
            proving=proving,
            settings=self.live,
            store=self.store,
            clock=self.clock,
            home=self.settings.trust_domain,
            bases=bases,
            seen=self.metrics.caller_seen,
            nonces=nonces,
        )

    def _workloads(self, callers: Callers, rest: Asgi, nonces: Nonces | None = None) -> WorkloadApp:
        """A listener's application; one that gives nonces knows its callers by bearers alone."""
        return WorkloadApp(
            verbs=Verbs(self.house, callers, self.metrics),
            oauth=self._oauth(callers),
            rest=rest,
            metrics=self.metrics,
            only=None if nonces is None else BEARER_VERBS,
            nonce=None if nonces is None else lambda: nonces.fresh(self.clock.now()),
        )

    def _oauth(self, callers: Callers) -> dict[str, tuple[str, Endpoint]]:
        """OAuth's endpoints; all of them stand in the metadata."""
        house, metrics = self.house, self.metrics
        return {
            "/oauth/token": ("token", TokenEndpoint(house, callers, metrics)),
            "/oauth/introspect": ("introspect", IntrospectionEndpoint(house, callers)),
            "/oauth/revoke": ("revoke_token", RevocationEndpoint(house, callers, metrics)),
        }

    async def _serve(self, listener: Listener, app: object) -> None:
        await listener.start(app)
        self._stack.push_async_callback(listener.stop)

    @property
    def mtls_url(self) -> str:
        """Where workloads reach this broker; the base of DPoP's `htu`."""
        return self.settings.mtls_url or self.mtls.url

    def _metadata(self) -> dict[str, object]:
        return authorization_server_metadata(
            issuer=self.settings.issuer,
            mtls_base=self.mtls_url,
            trust_domain=self.settings.trust_domain,
            is_open=self.settings.tls is not None and self.settings.tls_cert is not None,
        )

    def _jwks(self) -> dict[str, object]:
        now = self.clock.now()
        return {"keys": [key for ring in self._rings for key in ring.jwks(now)]}

    def _admin_ports(self) -> AdminPorts:
        async def seal(path: str) -> dict[str, object]:
            ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
            return await self.ledgering.seal(self.store, self.clock, path, ref)

        def rate(doc: str, name: str, wanted: str, burst: int | None) -> tuple[str, str]:
            stored = set_rate(doc, name, wanted, burst)
            return stored.doc, stored.digest

        return AdminPorts(
            house=self.house,
            live=self.live,
            ledger=self.ledger,
            metrics=self.metrics,
            set_rate=rate,
            checkpoint=lambda: self.ledgering.sign(self.store),
            backup=self.store.backup,
            seal=seal,
            about={
                "broker_id": self.settings.broker_id,
                "trust_domain": self.settings.trust_domain,
                "issuer": self.settings.issuer,
                "vkey": self.ledgering.vkey,
            },
        )

    def _not_ready(self) -> str | None:
        return None if self._ready else "starting or stopping"

    def _health(self) -> dict[str, object]:
        """Dependencies in doubt are told here and in metrics, never by unreadiness."""
        return {
            "store": "ok" if self.store.owed == 0 else "in doubt",
            **health.told(self._streams),
            "federation": self.federating.health(),
        }

    # --- in the background

    def _work(self) -> None:
        settings = self.settings
        self._every(settings.reap_every_s, self._reap)
        self._every(settings.checkpoint_every_s, self._checkpoint)
        self._every(settings.watch_every_s, self._watch)
        self._every(10.0, self._flush)
        self._every(2.0, self._gauge)
        self._every(1.0, self.federating.gauge)
        self.federating.say = self._say
        for run in self.federating.runs():
            self._spawn(run)

    def _every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        async def forever() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await job()
                except Problem as problem:
                    _log.warning("background work", job=job.__name__, why=str(problem))
                except Exception:  # noqa: BLE001  the loop must go on; the log has it
                    _log.error("background work", job=job.__name__, exception=traceback.format_exc())

        self._spawn(forever())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(stop)

    async def _reap(self) -> None:
        done = await self.store.reap(self.clock.now())
        for what, count in (("steps", done.steps), ("grants", done.grants), ("purged", done.purged)):
            self.metrics.reaped.labels(what).inc(count)

    async def _checkpoint(self) -> None:
        if self.ledgering.log.size:
            await self.ledgering.sign(self.store)
            self.metrics.ledger_signed.set(self.ledgering.log.size)

    async def _watch(self) -> None:
        await self.live.load()
        for kind in ("registry", "limits", "policy"):
            if self._changed(kind):
                await self.apply_file(kind)

    def _changed(self, kind: VersionKind) -> bool:
        """By size and time of the file, or of any file in the folder."""
        path: Path | None = getattr(self.settings, kind)
        if path is None:
            return False
        stamp, before = _stamp(path), self._stamps.get(kind)
        self._stamps[kind] = stamp
        return stamp != before

    async def _flush(self) -> None:
        """What was only counted becomes an entry: callers beyond their rate, and all unattested tries."""
        await self.refusals.flush(self.clock.now())
        untold = self.metrics.untold()
        if untold:
            await self._say("refused.counted", {"unattested": untold})

    async def _gauge(self) -> None:
        room, now = self.store.headroom(), self.clock.now()
        self.metrics.store_bytes.set(room.used)
        self.metrics.headroom.set(room.free - self.settings.disk_reserve_bytes)
        self.metrics.ledger_entries.set(room.entries)
        self.metrics.ledger_bytes.set(room.ledger)
        self.metrics.standing.set(len(self.store.marks()))
        self._gauge_identity(now)
        versions = self.live.now_in_force().versions
        for kind in ("policy", "registry", "limits", "bundles"):
            self.metrics.versions.labels(kind).set(getattr(versions, kind))

    def _gauge_identity(self, now: float) -> None:
        """Also when there is none: that is when the gauge is looked at."""
        with contextlib.suppress(IdentityUnavailable):
            self._svid_ends = self.identity.snapshot().expires_at
        self.metrics.own_svid.set(round(self._svid_ends - now, 1))
        for (stream, state), is_it in health.states(self._streams).items():
            self.metrics.identity_state.labels(stream, state).set(is_it)

    async def _say(self, kind: str, facts: dict[str, object]) -> None:
        ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
        await self.store.record(
            Happening(
                kind=kind,
                ref=ref,
                tenant=None,
                txn=None,
                evidence=Evidence(facts=facts),
                now=self.clock.now(),
            )
        )


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return tuple((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.exists())


def _document(kind: VersionKind, path: Path) -> tuple[str, str]:
    """A file's text, and the name under which its versions are known."""
    text = document_text(kind, path)
    return text, str(path.resolve())
