"""The four doors: `mtls`, `tls`, `ops`, `admin`. Any ASGI application, one event loop, no signal handlers.

    listener = mtls_listener("127.0.0.1", 0, identity)
    await listener.start(app)
    listener.url
    await listener.stop()

Applications are served without lifespan events: whoever starts the listeners owns that. Body limits are
the application's; a request's head is bounded here, in size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from uvicorn.server import ServerState

from stepwrit_broker.edge import connection
from stepwrit_broker.edge.certificates import (
    FileContexts,
    OnRefused,
    ServerIdentity,
    SvidContexts,
    SwappingContext,
)
from stepwrit_broker.edge.sockets import ListenerError, bind_tcp, bind_unix, own_socket_file

OnHandshakeRefused = Callable[[str, str], None]
"""Called as (listener, reason) for each TLS handshake that failed; clients that just vanish are not."""

_SHUTDOWN_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """Seconds, and counts.

    idle: how long a kept-alive connection may wait for its next request. head: for a request's head to
    arrive. body: for the rest of it. handshake: for TLS. grace: for running requests at stop.
    max_connections: beyond it, 503.
    """

    idle: float = 60.0
    head: float = 10.0
    body: float = 30.0
    handshake: float = 10.0
    grace: float = 10.0
    backlog: int = 2048
    max_connections: int | None = None


def mtls_listener(
    host: str,
    port: int,
    identity: ServerIdentity,
    *,
    name: str = "mtls",
    settings: ListenerSettings | None = None,
    on_handshake_refused: OnHandshakeRefused | None = None,
) -> Listener:
    """TLS 1.3 with our SVID; a client certificate is demanded. Port 0 takes a free one."""

    def closes_in(extensions: Mapping[str, object]) -> float | None:
        return connection.until_certificate_ends(extensions, identity.now())

    return Listener(
        name=name,
        bind=lambda: bind_tcp(name, host, port),
        context=lambda: SwappingContext(SvidContexts(_counter(name, on_handshake_refused), identity).current),
        evidence=connection.tls_evidence,
        closes_in=closes_in,
        settings=settings or ListenerSettings(),
    )


def tls_listener(
    host: str,
    port: int,
    certfile: str | Path,
    keyfile: str | Path,
    *,
    name: str = "tls",
    settings: ListenerSettings | None = None,
    on_handshake_refused: OnHandshakeRefused | None = None,
) -> Listener:
    """TLS with PEM files, reloaded on change; no client certificate."""

    def context() -> ssl.SSLContext:
        try:
            files = FileContexts(_counter(name, on_handshake_refused), Path(certfile), Path(keyfile))
        except (OSError, ssl.SSLError) as error:
            raise ListenerError(f"{name}: certificate {certfile}, key {keyfile}: {error}") from error
        return SwappingContext(files.current)

    return Listener(
        name=name,
        bind=lambda: bind_tcp(name, host, port),
        context=context,
        settings=settings or ListenerSettings(),
    )


def plain_listener(
    host: str, port: int, *, name: str = "ops", settings: ListenerSettings | None = None
) -> Listener:
    """HTTP without TLS, for the loopback interface."""
    return Listener(
        name=name, bind=lambda: bind_tcp(name, host, port), settings=settings or ListenerSettings()
    )


def unix_listener(
    path: str | Path,
    *,
    mode: int = 0o600,
    name: str = "admin",
    settings: ListenerSettings | None = None,
) -> Listener:
    """HTTP on a Unix socket. A dead socket file is replaced, a live one refused.

    mode: 0600 keeps others from connecting; a wider one leaves it to the application, which sees the uid.
    """
    return Listener(
        name=name,
        bind=lambda: bind_unix(name, Path(path), mode),
        evidence=connection.unix_evidence,
        settings=settings or ListenerSettings(),
    )


class Listener:
    """One bound socket and the server behind it. `start` once, `stop` once."""

    def __init__(
        self,
        *,
        name: str,
        bind: Callable[[], socket.socket],
        settings: ListenerSettings,
        context: Callable[[], ssl.SSLContext] | None = None,
        evidence: connection.Evidence = connection.no_evidence,
        closes_in: Callable[[Mapping[str, object]], float | None] = lambda _: None,
    ) -> None:
        self.name: Final = name
        self._bind = bind
        self._settings = settings
        self._make_context = context
        self._evidence = evidence
        self._closes_in = closes_in
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None
        self._address: tuple[str, int] | str = ""

    @property
    def address(self) -> tuple[str, int] | str:
        """(host, port) as bound, or the Unix socket's path; empty before `start`."""
        return self._address

    @property
    def url(self) -> str:
        """Where clients find it, as bound."""
        if isinstance(self._address, str):
            return f"unix://{self._address}"
        host, port = self._address
        return f"{'https' if self._make_context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self, app: Any) -> None:
        """Bind and serve the ASGI application. ListenerError if the address or certificate is no good."""
        context = self._make_context() if self._make_context else None
        bound = self._bind()
        config = self._config(app, context)
        self._server = _Server(
            config, lambda state: self._connection(config, state), self._settings.handshake
        )
        await self._server.startup([bound])
        name = bound.getsockname()
        self._address = name if isinstance(name, str) else (name[0], name[1])
        self._running = asyncio.create_task(self._run(self._server, bound), name=f"listener {self.name}")

    async def stop(self) -> None:
        """Stop accepting, let running requests finish within the grace, close the rest."""
        server, running = self._server, self._running
        if server is None or running is None:
            return
        server.leave()
        await running
        self._server = self._running = None

    async def _run(self, server: _Server, bound: socket.socket) -> None:
        forget = own_socket_file(self._address) if isinstance(self._address, str) else None
        await server.main_loop()
        for idle in tuple(filter(_is_idle, server.server_state.connections)):
            idle.transport.abort()  # a peer that does not read never answers TLS's goodbye
        await server.shutdown([bound])
        for left in tuple(server.server_state.connections):
            left.transport.abort()
        if forget is not None:
            forget()

    def _connection(self, config: uvicorn.Config, state: ServerState) -> connection.Connection:
        return connection.Connection(
            config=config,
            server_state=state,
            evidence=self._named_evidence,
            closes_in=self._closes_in,
            head_timeout=self._settings.head,
            body_timeout=self._settings.body,
        )

    def _named_evidence(self, transport: asyncio.Transport) -> Mapping[str, object] | None:
        found = self._evidence(transport)
        return None if found is None else {**found, "stepwrit.listener": self.name}

    def _config(self, app: Any, context: ssl.SSLContext | None) -> uvicorn.Config:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody speaks for a caller's address
            timeout_keep_alive=cast(int, self._settings.idle),  # only ever a delay
            timeout_graceful_shutdown=cast(int, self._settings.grace),
            limit_concurrency=self._settings.max_connections,
            backlog=self._settings.backlog,
            ssl_context_factory=None if context is None else _fixed(context),
        )
        config.load()
        return config


def _is_idle(each: Any) -> bool:
    """Whether a connection has no request under way, and no answer that is still to be sent."""
    is_over = each.cycle is None or each.cycle.response_complete
    return is_over and each.transport is not None and each.transport.get_write_buffer_size() == 0


class _Server(uvicorn.Server):
    """uvicorn's server: connections of ours, TLS deadlines, signals left to the process."""

    def __init__(
        self, config: uvicorn.Config, connect: Callable[[ServerState], asyncio.Protocol], handshake: float
    ) -> None:
        super().__init__(config)
        self._connect = connect
        self._handshake = None if config.ssl is None else handshake
        self._goodbye = None if config.ssl is None else _SHUTDOWN_S
        self._leaving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve sockets that are bound already."""
        self.lifespan = self.config.lifespan_class(self.config)
        self.servers = [await self._serve_socket(bound) for bound in sockets or ()]
        self.started = True

    async def main_loop(self) -> None:
        """Keep the date header fresh until told to leave."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)

    def leave(self) -> None:
        """Ask for the graceful end."""
        self.should_exit = True
        self._leaving.set()

    async def _serve_socket(self, bound: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        return await serve(
            lambda: self._connect(self.server_state),
            sock=bound,
            ssl=self.config.ssl,
            backlog=self.config.backlog,
            ssl_handshake_timeout=self._handshake,
            ssl_shutdown_timeout=self._goodbye,
        )


def _fixed(
    context: ssl.SSLContext,
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    def factory(_: uvicorn.Config, __: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        return context

    return factory


def _counter(name: str, told: OnHandshakeRefused | None) -> OnRefused:
    return (lambda _: None) if told is None else (lambda reason: told(name, reason))
