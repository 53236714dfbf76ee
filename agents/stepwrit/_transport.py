"""HTTP to the broker over mutual TLS, and who we are while we do it."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

import anyio
import httpx2

from stepwrit._tls import NOT_EXPECTED, Identity, client_context
from stepwrit.errors import ConfigurationError, IdentityUnavailable
from stepwrit.flow import Lost, Request, Response
from stepwrit.identity import WorkloadIdentity
from stepwrit.spiffe_id import check_workload_id, trust_domain_of

TIMEOUT_S: Final = 10.0
READY_S: Final = 10.0
READY_AGAIN_S: Final = 1.0  # once it was known, its loss is news to act on and not to wait out
P = TypeVar("P")


class Transport(Protocol):
    """One way to the broker. Another implementation (a fake, a proxy) may stand in for HTTP."""

    async def send(self, request: Request) -> Response:
        """The reply, whatever its status. Raises `stepwrit.flow.Lost` when there is none."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """An answer whose body comes bit by bit."""

    status: int
    chunks: AsyncIterator[bytes]


@runtime_checkable
class Streaming(Protocol):
    """A transport that can also hold an answer that goes on; not every one can."""

    def stream(self, request: Request, silence_s: float) -> AbstractAsyncContextManager[Streamed]:
        """The answer, whatever its status. Raises `stepwrit.flow.Lost`, also after `silence_s` of nothing."""
        ...


class SyncTransport(Protocol):
    """`Transport` without an event loop."""

    def send(self, request: Request) -> Response:
        """The reply, whatever its status. Raises `stepwrit.flow.Lost` when there is none."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Who(Protocol):
    """Who this process is."""

    def start(self) -> None:
        """Begin to find out; a second start does nothing."""
        ...

    def wait(self, seconds: float) -> None:
        """Block until it is known; raises IdentityUnavailable."""
        ...

    @property
    def known(self) -> bool:
        """Whether `spiffe_id` would answer now."""
        ...

    @property
    def spiffe_id(self) -> str:
        """Our SPIFFE ID. Raises IdentityUnavailable."""
        ...

    @property
    def expires_at(self) -> float | None:
        """End of the SVID, seconds since the epoch; None if there is nothing that ends."""
        ...

    def stop(self) -> None:
        """Let go; blocks briefly."""
        ...


class Named:
    """A name without proof: for transports that prove it themselves, and for tests."""

    def __init__(self, spiffe_id: str) -> None:
        try:
            self.spiffe_id: Final = check_workload_id(spiffe_id)
        except ValueError as bad:
            raise ConfigurationError(str(bad)) from None
        self.known: Final = True
        self.expires_at: Final = None

    def start(self) -> None:
        """Nothing to find out."""

    def wait(self, seconds: float) -> None:
        """Nothing to wait for."""

    def stop(self) -> None:
        """Nothing to let go."""


class Attested:
    """The identity that the Workload API gives us."""

    def __init__(self, identity: WorkloadIdentity) -> None:
        self.identity: Final = identity

    def start(self) -> None:
        """Start to watch the Workload API."""
        self.identity.start_sync()

    def wait(self, seconds: float) -> None:
        """Block until there is a usable SVID. Raises IdentityUnavailable."""
        self.identity.wait_ready_sync(seconds)

    @property
    def known(self) -> bool:
        """Whether there is a usable SVID."""
        try:
            self.identity.snapshot()
        except IdentityUnavailable:
            return False
        return True

    @property
    def spiffe_id(self) -> str:
        """The SVID's SPIFFE ID."""
        return self.identity.snapshot().spiffe_id

    @property
    def expires_at(self) -> float | None:
        """End of the SVID, seconds since the epoch."""
        return self.identity.snapshot().expires_at

    def stop(self) -> None:
        """Stop watching."""
        self.identity.close_sync()


class Borrowed:
    """Another client's identity: looked at, and neither started nor stopped here."""

    def __init__(self, who: Who) -> None:
        self._who: Final = who

    def start(self) -> None:
        """Whose it is has started it."""

    def wait(self, seconds: float) -> None:
        """As its owner."""
        self._who.wait(seconds)

    @property
    def known(self) -> bool:
        """As its owner."""
        return self._who.known

    @property
    def spiffe_id(self) -> str:
        """As its owner."""
        return self._who.spiffe_id

    @property
    def expires_at(self) -> float | None:
        """As its owner."""
        return self._who.expires_at

    def stop(self) -> None:
        """Whose it is stops it."""


def broker_judge(identity: Identity, broker_id: str | None) -> Callable[[str], bool]:
    """Whether a TLS server is our broker: `broker_id`, else the usual one of our own trust domain."""

    def accepts(peer: str) -> bool:
        own = trust_domain_of(identity.snapshot().spiffe_id)
        return peer == (broker_id or f"spiffe://{own}/stepwrit/broker")

    return accepts


class _Lane(Generic[P]):
    """A connection pool made under one generation of our identity, and how many requests are using it."""

    def __init__(self, pool: P, generation: int) -> None:
        self.pool: Final = pool
        self.generation: Final = generation
        self.users = 0


class _Lanes(Generic[P]):
    """After a rotation new requests take a new pool.

    A connection shows the certificate it was opened with for as long as it lives, and the broker judges that
    certificate again at each request.
    """

    def __init__(self, make: Callable[[], P], generation: Callable[[], int]) -> None:
        self._make: Final = make
        self._generation: Final = generation
        self._lock: Final = threading.Lock()
        self._lanes: list[_Lane[P]] = []

    def take(self) -> _Lane[P]:
        """The lane of this moment. Raises IdentityUnavailable."""
        generation = self._generation()
        with self._lock:
            if not self._lanes or self._lanes[-1].generation != generation:
                self._lanes.append(_Lane(self._make(), generation))
            self._lanes[-1].users += 1
            return self._lanes[-1]

    def give_back(self, lane: _Lane[P]) -> list[P]:
        """End of use. The answer is to be closed: pools of earlier generations that nobody uses any more."""
        with self._lock:
            lane.users -= 1
            over = [each for each in self._lanes[:-1] if each.users == 0]
            self._lanes = [each for each in self._lanes if each not in over]
            return [each.pool for each in over]

    def all(self) -> list[P]:
        """Every pool, to be closed."""
        with self._lock:
            lanes, self._lanes = self._lanes, []
            return [lane.pool for lane in lanes]


class _Opened:
    """The connections that one request opened.

    The pool forgets one whose TLS handshake was cancelled, and a request that is held is cancelled often.
    """

    def __init__(self) -> None:
        self._streams: Final[list[Any]] = []

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """As the pool tells of what it does (httpcore's `trace` extension)."""
        if event == "connection.connect_tcp.complete":
            self._streams.append(info["return_value"])

    async def close(self) -> None:
        """Also while being cancelled."""
        with anyio.CancelScope(shield=True):
            for stream in self._streams:
                await stream.aclose()


class HttpTransport:
    """httpx2 over mutual TLS; redirects and the environment's proxies are not followed."""

    def __init__(self, base_url: str, identity: Identity, broker_id: str | None = None) -> None:
        tls = client_context(identity, broker_judge(identity, broker_id))
        self._base_url: Final = base_url.rstrip("/")
        self._lanes: Final = _Lanes(
            lambda: httpx2.AsyncHTTPTransport(verify=tls, trust_env=False),
            lambda: identity.snapshot().generation,
        )

    async def send(self, request: Request) -> Response:
        """One exchange. Raises Lost, IdentityUnavailable."""
        lane, opened = self._lanes.take(), _Opened()
        try:
            outgoing = _outgoing(self._base_url, request)
            if request.hold_s:
                outgoing.extensions["trace"] = opened.note
            reply = await lane.pool.handle_async_request(outgoing)
            return _response(reply, await reply.aread())
        except httpx2.RequestError as failed:
            raise _lost(failed) from failed
        except anyio.get_cancelled_exc_class():
            await opened.close()
            raise
        finally:
            for pool in self._lanes.give_back(lane):
                await pool.aclose()

    @asynccontextmanager
    async def stream(self, request: Request, silence_s: float) -> AsyncGenerator[Streamed]:
        """An answer that goes on. Raises Lost, also after `silence_s` of nothing; IdentityUnavailable."""
        lane = self._lanes.take()
        outgoing = _outgoing(self._base_url, request)
        outgoing.extensions["timeout"] = httpx2.Timeout(silence_s).as_dict()
        try:
            reply = await lane.pool.handle_async_request(outgoing)
            async with aclosing(reply):
                yield Streamed(status=reply.status_code, chunks=reply.aiter_raw())
        except httpx2.RequestError as failed:
            raise _lost(failed) from failed
        finally:
            for pool in self._lanes.give_back(lane):
                await pool.aclose()

    async def close(self) -> None:
        """Close the connections."""
        for pool in self._lanes.all():
            await pool.aclose()


class SyncHttpTransport:
    """`HttpTransport` without an event loop."""

    def __init__(self, base_url: str, identity: Identity, broker_id: str | None = None) -> None:
        tls = client_context(identity, broker_judge(identity, broker_id))
        self._base_url: Final = base_url.rstrip("/")
        self._lanes: Final = _Lanes(
            lambda: httpx2.HTTPTransport(verify=tls, trust_env=False),
            lambda: identity.snapshot().generation,
        )

    def send(self, request: Request) -> Response:
        """One exchange. Raises Lost, IdentityUnavailable."""
        lane = self._lanes.take()
        try:
            reply = lane.pool.handle_request(_outgoing(self._base_url, request))
            return _response(reply, reply.read())
        except httpx2.RequestError as failed:
            raise _lost(failed) from failed
        finally:
            for pool in self._lanes.give_back(lane):
                pool.close()

    def close(self) -> None:
        """Close the connections."""
        for pool in self._lanes.all():
            pool.close()


_NOT_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
)


def _lost(failed: httpx2.RequestError) -> Lost:
    hint = "; STEPWRIT_BROKER_ID says who is" if NOT_EXPECTED in str(failed) else ""
    return Lost(f"{type(failed).__name__}: {failed}{hint}", sent=not isinstance(failed, _NOT_SENT))


def _outgoing(base_url: str, request: Request) -> httpx2.Request:
    """What httpx2's client would send; its redirects, cookies, hooks and merged URLs, of no use here, are
    a quarter of the CPU that a request takes.
    """
    timeout = httpx2.Timeout(TIMEOUT_S + request.hold_s).as_dict()
    return httpx2.Request(
        request.method,
        base_url + request.path,
        headers=dict(request.headers),
        content=request.body,
        extensions={"timeout": timeout},
    )


def _response(reply: httpx2.Response, body: bytes) -> Response:
    headers = {name.lower(): value for name, value in reply.headers.items()}
    return Response(status=reply.status_code, headers=headers, body=body)
