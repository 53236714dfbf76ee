"""The listeners of a broker, and what each serves to whom."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.federation.trust import PooledIdentity
from stepwrit_broker.attest.jwt import JwtAttestor
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.edge.admin import AdminPorts
from stepwrit_broker.edge.app import BEARER_VERBS, Endpoint, Routes, WorkloadApp
from stepwrit_broker.edge.approvers import ApproversApp
from stepwrit_broker.edge.authzen.endpoints import AuthzenEndpoints, configuration
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.draining import Draining
from stepwrit_broker.edge.feed import FeedApp
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
from stepwrit_broker.edge.oauth.chaining import Chaining
from stepwrit_broker.edge.oauth.introspect_7662 import IntrospectionEndpoint
from stepwrit_broker.edge.oauth.revoke_7009 import RevocationEndpoint
from stepwrit_broker.edge.oauth.token_8693 import TokenEndpoint
from stepwrit_broker.edge.operator import by_socket, by_svid
from stepwrit_broker.edge.proving import ByAssertion, ByCertificate, Proving
from stepwrit_broker.edge.rest import ops_app, rest_app
from stepwrit_broker.edge.signals import SignalsApp
from stepwrit_broker.edge.tlog import public_tlog, readers_tlog
from stepwrit_broker.edge.verbs import Verbs
from stepwrit_broker.flows.advice import Adviser
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.flows.tiles import Tiles
from stepwrit_broker.keys.keyring import Keys
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_approval import SignIns
from stepwrit_broker.ports_feed import Feed
from stepwrit_broker.ports_peer import PeerGrants
from stepwrit_broker.ports_signal import Signals
from stepwrit_broker.wiring.backing import BrokerStore
from stepwrit_broker.wiring.paging import paged
from stepwrit_broker.wiring.settings import BrokerSettings


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the listeners are made of.

    peers: judges grants of other trust domains' brokers. signals: judges events of identity providers. feed:
    of revocations. authorities: begins to watch the JWT authorities. tiles: the log as its readers see it.
    sign_ins: where persons may sign in besides. ready: why this process is not, or None. health: what
    `/healthz?verbose=true` adds. doubts: what `/readyz` tells beside. draining: whether
    connections are to close.
    """

    settings: BrokerSettings
    clock: Clock
    metrics: Metrics
    store: BrokerStore
    live: Live
    house: House
    adviser: Adviser
    peers: PeerGrants
    signals: Signals | None
    identity: PooledIdentity
    bundles: BundleSource
    authorities: Callable[[], AuthoritySource]
    nonces: Nonces
    feed: Feed
    rings: tuple[Keys, ...]
    admin: AdminPorts
    tiles: Tiles
    sign_ins: SignIns | None
    ready: Callable[[], str | None]
    health: Callable[[], dict[str, object]]
    doubts: Callable[[], list[str]]
    draining: Callable[[], bool]


class Listening:
    """Opens the listeners; `stack` closes them."""

    def __init__(self, served: Served, stack: AsyncExitStack) -> None:
        self._served: Final = served
        self._stack = stack
        self.mtls: Listener
        self.ops: Listener
        self.tls: Listener | None = None

    async def start(self) -> None:
        """Open all of them. Raises ListenerError for an address that cannot be had."""
        await self._open_mtls()
        await self._open_ops()
        await self._open_admin()
        await self._open_tls()

    @property
    def mtls_url(self) -> str:
        """Where workloads reach this broker; the base of DPoP's `htu`."""
        return self._served.settings.mtls_url or self.mtls.url

    async def _open_mtls(self) -> None:
        served, address = self._served, self._served.settings.mtls
        callers = self._callers(self._by_certificate(), lambda: (self.mtls_url,))
        self.mtls = mtls_listener(
            address.host,
            address.port,
            served.identity,
            on_handshake_refused=served.metrics.handshake_refused,
        )
        rest = FeedApp(
            house=served.house,
            callers=callers,
            feed=served.feed,
            metrics=served.metrics,
            rest=self._quiet(callers),
        )
        await self._serve(self.mtls, self._workloads(callers, rest))

    async def _open_ops(self) -> None:
        served = self._served
        self.ops = plain_listener(served.settings.ops.host, served.settings.ops.port)
        app = ops_app(
            text=served.metrics.text, ready=served.ready, health=served.health, doubts=served.doubts
        )
        await self._serve(self.ops, app)

    async def _open_admin(self) -> None:
        settings, admin = self._served.settings, self._served.admin
        uids = settings.admin_uids | {0, os.getuid()}
        settings.admin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._serve(
            unix_listener(settings.admin, mode=0o666 if settings.admin_uids else 0o600),
            rest_app(
                title="Stepwrit admin",
                metadata=None,
                jwks=None,
                admin=(admin, by_socket(uids)),
                tlog=readers_tlog(self._served.tiles, self._served.house),
            ),
        )

    async def _open_tls(self) -> None:
        served, settings = self._served, self._served.settings
        if settings.tls is None or settings.tls_cert is None or settings.tls_key is None:
            return
        self.tls = tls_listener(
            settings.tls.host,
            settings.tls.port,
            settings.tls_cert,
            settings.tls_key,
            on_handshake_refused=served.metrics.handshake_refused,
        )
        callers = self._callers(self._by_assertion(), lambda: (settings.issuer,), served.nonces)
        pages = paged(
            served.house,
            served.metrics,
            self._quiet(None),
            session_s=settings.session_s,
            idp=served.sign_ins,
        )
        rest = self._signalled(self._approvers(pages))
        await self._serve(self.tls, self._workloads(callers, rest, served.nonces))

    def _signalled(self, rest: Asgi) -> Asgi:
        """Where a transmitter is registered, its events."""
        served = self._served
        if served.signals is None:
            return rest
        return SignalsApp(house=served.house, signals=served.signals, metrics=served.metrics, rest=rest)

    def _approvers(self, rest: Asgi) -> Asgi:
        """Approvers with a registered key, before what is open to anyone."""
        served = self._served
        return ApproversApp(
            house=served.house,
            keys=served.admin.keys,
            metrics=served.metrics,
            base=served.settings.issuer,
            nonces=Nonces(served.house.entropy.bytes(32)),  # of this process: see ApproversApp
            rest=rest,
        )

    def _by_certificate(self) -> ByCertificate:
        served, proxy = self._served, self._served.settings.proxy
        return ByCertificate(
            X509Attestor(served.bundles),
            ignored=partial(served.metrics.forwarded_ignored, "mtls"),
            forwarding=None if proxy is None else Forwarding(proxy),
        )

    def _by_assertion(self) -> ByAssertion:
        served = self._served
        attestor = JwtAttestor(served.authorities(), audience=served.settings.issuer)
        return ByAssertion(attestor, ignored=partial(served.metrics.forwarded_ignored, "tls"))

    def _callers(
        self, proving: Proving, bases: Callable[[], tuple[str, ...]], nonces: Nonces | None = None
    ) -> Callers:
        served = self._served
        return Callers(
            proving=proving,
            settings=served.live,
            store=served.store,
            clock=served.clock,
            home=served.settings.trust_domain,
            bases=bases,
            seen=served.metrics.caller_seen,
            nonces=nonces,
        )

    def _workloads(self, callers: Callers, rest: Asgi, nonces: Nonces | None = None) -> WorkloadApp:
        """A listener's application; one that gives nonces knows its callers by bearers alone."""
        served = self._served
        return WorkloadApp(
            verbs=Verbs(served.house, callers, served.metrics),
            oauth=self.oauth(callers),
            rest=rest,
            metrics=served.metrics,
            only=None if nonces is None else BEARER_VERBS,
            nonce=None if nonces is None else lambda: nonces.fresh(served.clock.now()),
            advice=self._advice(callers) if nonces is None else lambda _: None,
        )

    def _advice(self, callers: Callers) -> Routes:
        """For callers with a certificate; where a policy decision point is, its own metadata says."""
        served = self._served
        return AuthzenEndpoints(served.adviser, callers, served.metrics, lambda: self.mtls_url).route

    def oauth(self, callers: Callers) -> dict[str, tuple[str, Endpoint]]:
        """OAuth's endpoints; all of them stand in the metadata."""
        house, metrics = self._served.house, self._served.metrics
        chaining = Chaining(house, metrics, self._served.peers)
        return {
            "/oauth/token": ("token", TokenEndpoint(house, callers, metrics, chaining)),
            "/oauth/introspect": ("introspect", IntrospectionEndpoint(house, callers)),
            "/oauth/revoke": ("revoke_token", RevocationEndpoint(house, callers, metrics)),
        }

    def _quiet(self, operators: Callers | None) -> Asgi:
        """The routes that are not hot. operators: how a listener knows them, if it serves any."""
        served = self._served
        admin = None if operators is None else (served.admin, by_svid(operators))
        public = public_tlog(served.tiles) if served.settings.tiles_for == "everyone" else None
        return rest_app(
            title="Stepwrit",
            metadata=self._metadata,
            jwks=self._jwks,
            admin=admin,
            advice=None if operators is None else lambda: configuration(self.mtls_url),
            tlog=public if operators is None else readers_tlog(served.tiles, served.house),
        )

    async def _serve(self, listener: Listener, app: Asgi) -> None:
        await listener.start(Draining(app, self._served.draining))
        self._stack.push_async_callback(listener.stop)

    def _metadata(self) -> dict[str, object]:
        settings = self._served.settings
        return authorization_server_metadata(
            issuer=settings.issuer,
            mtls_base=self.mtls_url,
            trust_domain=settings.trust_domain,
            is_open=settings.tls is not None and settings.tls_cert is not None,
        )

    def _jwks(self) -> dict[str, object]:
        now = self._served.clock.now()
        return {"keys": [key for ring in self._served.rings for key in ring.jwks(now)]}
