"""Who am I: the workload's X.509-SVID and bundles, kept fresh from the SPIFFE Workload API.

    identity = WorkloadIdentity("unix:///run/spire/agent.sock")
    await identity.start()
    await identity.wait_ready(timeout=10)
    identity.snapshot().spiffe_id

A thread of its own watches the API; everything here may be called from any thread. The watch supervises
itself: after a lost stream it keeps what it has (until the SVID ends) and tries again with capped
backoff; after a denial or an update that makes no sense it stops using what it was given first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from stepwrit._jwt_svids import HeldJwtSvids
from stepwrit._supervise import Clock, Health, Supervisor
from stepwrit._workload_api import X509Update, grpc_target, watch_x509
from stepwrit.errors import IdentityUnavailable

_log = logging.getLogger("stepwrit.identity")

JWT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Snapshot:
    """One coherent state of the Workload API.

    chain: leaf first, DER, as sent to peers. bundles: trust domain -> CA certificates (DER); a domain
    that is absent is unknown, one that is empty is distrusted. generation: grows with each update.
    expires_at: end of the SVID, seconds since the epoch.
    """

    spiffe_id: str
    chain: tuple[bytes, ...] = field(repr=False)
    private_key: PrivateKeyTypes = field(repr=False)
    bundles: Mapping[str, tuple[bytes, ...]] = field(repr=False)
    generation: int
    expires_at: float


class WorkloadIdentity:
    """The supervised identity of this process.

    socket: `unix:///absolute/path` of the Workload API. hint: which SVID, if the API has several for us:
    exactly the one whose hint this is, never another in its place; None takes the first
    (SPIFFE_Workload_API.md section 5.2.1). clock: seconds since the epoch. Raises ConfigurationError for
    another socket shape.
    """

    def __init__(self, socket: str, *, hint: str | None = None, clock: Clock = time.time) -> None:
        grpc_target(socket)
        self._socket, self._hint, self._clock = socket, hint, clock
        self._state = threading.Condition()
        self._snapshot: X509Snapshot | None = None
        self._generation = 0
        self._subscribers: list[Callable[[], None]] = []
        self._jwt_svids = HeldJwtSvids(socket, clock)
        self._supervisor: Supervisor[X509Update] = Supervisor(
            socket,
            lambda: watch_x509(socket, hint),
            publish=self._publish,
            withdraw=self._withdraw,
            clock=clock,
            name="identity",
        )

    def __repr__(self) -> str:
        return f"WorkloadIdentity({self._socket!r}, hint={self._hint!r})"

    @property
    def socket(self) -> str:
        """Of the Workload API that is asked."""
        return self._socket

    async def start(self) -> None:
        """Start to watch and return at once; a socket that is not there yet is waited for."""
        self.start_sync()

    async def wait_ready(self, timeout: float) -> X509Snapshot:  # noqa: ASYNC109  the same promise as the sync one
        """The first usable snapshot, waiting up to `timeout` seconds, else IdentityUnavailable."""
        return await asyncio.to_thread(self.wait_ready_sync, timeout)

    async def close(self) -> None:
        """Stop watching; snapshots are refused from now on."""
        await asyncio.to_thread(self.close_sync)

    def start_sync(self) -> None:
        """`start` without an event loop. A second start of a running identity does nothing."""
        self._supervisor.start()

    def wait_ready_sync(self, timeout: float) -> X509Snapshot:
        """`wait_ready` without an event loop."""
        with self._state:
            self._state.wait_for(self._usable, timeout)
        return self.snapshot()

    def close_sync(self) -> None:
        """`close` without an event loop."""
        self._supervisor.close()
        with self._state:
            self._snapshot = None

    def snapshot(self) -> X509Snapshot:
        """The current state. IdentityUnavailable if there is none, or the SVID has ended."""
        with self._state:
            snapshot = self._snapshot
        if snapshot is None:
            raise IdentityUnavailable(f"no X.509-SVID from {self._supervisor.health.why}")
        if snapshot.expires_at <= self._clock():
            self._supervisor.nudge()
            raise IdentityUnavailable(
                f"the X.509-SVID of {snapshot.spiffe_id} has expired and no newer one came; "
                f"{self._supervisor.health.why}"
            )
        return snapshot

    @property
    def generation(self) -> int:
        """Of the newest update; grows with each, 0 before the first."""
        return self._generation

    def now(self) -> float:
        """Seconds since the epoch, by the clock that snapshots are judged by."""
        return self._clock()

    def lost_at(self) -> float | None:
        """When the stream ended (seconds since the epoch), or None while it stands: how stale we may be."""
        return self._supervisor.lost_at

    def health(self) -> Health:
        """How we are; `expired` from the SVID's end on, whatever the stream does."""
        with self._state:
            snapshot = self._snapshot
        stream = self._supervisor.health
        if snapshot is None or snapshot.expires_at > self._clock():
            return stream
        return replace(stream, state="expired", since=snapshot.expires_at)

    def jwt_svid(self, audience: str, *, timeout: float = JWT_TIMEOUT_S) -> str:
        """A JWT-SVID of ours, for this audience alone; blocks up to `timeout` seconds. It is a secret.

        Asked for at each call (the agent keeps them); while the agent cannot be reached, the last one that it
        gave, as long as that lasts. Raises IdentityUnavailable.
        """
        return self._jwt_svids.get(audience, self.snapshot().spiffe_id, timeout)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each change, also a withdrawal, on the watching thread; returns the undo."""
        with self._state:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._state:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return unsubscribe

    def _usable(self) -> bool:
        return self._snapshot is not None and self._snapshot.expires_at > self._clock()

    def _publish(self, update: X509Update) -> None:
        with self._state:
            if self._supervisor.stopping:
                return
            self._generation += 1
            self._snapshot = _as_snapshot(update, self._generation)
            self._state.notify_all()
        self._tell()

    def _withdraw(self) -> None:
        with self._state:
            had, self._snapshot = self._snapshot, None
        if had is not None:
            self._tell()

    def _tell(self) -> None:
        with self._state:
            subscribers = tuple(self._subscribers)
        for callback in subscribers:
            try:
                callback()
            except Exception:  # noqa: BLE001  a subscriber's fault must not end the watch
                _log.exception("a subscriber of %s failed", self._socket)


def _as_snapshot(update: X509Update, generation: int) -> X509Snapshot:
    return X509Snapshot(
        spiffe_id=update.spiffe_id,
        chain=update.chain,
        private_key=update.private_key,
        bundles=MappingProxyType(dict(update.bundles)),
        generation=generation,
        expires_at=update.expires_at,
    )
