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
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from stepwrit._workload_api import Watch, WatchEnded, X509Update, grpc_target
from stepwrit.errors import IdentityUnavailable

_log = logging.getLogger("stepwrit.identity")

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
_STEADY_S: Final = 10.0  # a stream that lived this long starts the backoff afresh

Clock = Callable[[], float]


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

    socket: `unix:///absolute/path` of the Workload API. hint: which SVID, if the API has several for us
    (None: the first). clock: seconds since the epoch. Raises ConfigurationError for another socket shape.
    """

    def __init__(self, socket: str, *, hint: str | None = None, clock: Clock = time.time) -> None:
        grpc_target(socket)
        self._socket = socket
        self._hint = hint
        self._clock = clock
        self._state = threading.Condition()
        self._snapshot: X509Snapshot | None = None
        self._missing = "not started"
        self._lost_at: float | None = None
        self._generation = 0
        self._subscribers: list[Callable[[], None]] = []
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def __repr__(self) -> str:
        return f"WorkloadIdentity({self._socket!r}, hint={self._hint!r})"

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
        with self._state:
            if self._thread is not None:
                return
            self._stopping.clear()
            self._missing = "no answer yet"
            self._thread = threading.Thread(target=self._supervise, name="stepwrit-identity", daemon=True)
            self._thread.start()

    def wait_ready_sync(self, timeout: float) -> X509Snapshot:
        """`wait_ready` without an event loop."""
        with self._state:
            self._state.wait_for(self._usable, timeout)
        return self.snapshot()

    def close_sync(self) -> None:
        """`close` without an event loop."""
        self._stopping.set()
        with self._state:
            thread, self._thread, watch = self._thread, None, self._watch
            self._snapshot, self._missing = None, "closed"
        if watch is not None:
            watch.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def snapshot(self) -> X509Snapshot:
        """The current state. IdentityUnavailable if there is none, or the SVID has ended."""
        with self._state:
            snapshot, missing = self._snapshot, self._missing
        if snapshot is None:
            raise IdentityUnavailable(f"no X.509-SVID from {self._socket}: {missing}")
        if snapshot.expires_at <= self._clock():
            raise IdentityUnavailable(f"the X.509-SVID from {self._socket} has expired: {missing}")
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
        with self._state:
            return self._lost_at

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

    def _supervise(self) -> None:
        backoff = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            began = self._clock()
            ended = self._watch_once()
            if self._stopping.is_set():
                return
            self._note_end(ended)
            if self._clock() - began > _STEADY_S:
                backoff = FIRST_BACKOFF_S
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    def _watch_once(self) -> WatchEnded:
        watch = Watch(self._socket, self._hint)
        with self._state:
            self._watch = watch
        if self._stopping.is_set():  # closed in between: nobody else would cancel this one
            watch.cancel()
        try:
            for update in watch.updates():
                self._publish(update)
                if self._stopping.is_set():
                    break
        except WatchEnded as ended:
            return ended
        finally:
            watch.cancel()
        return WatchEnded("closed", withdrawn=True)

    def _publish(self, update: X509Update) -> None:
        with self._state:
            if self._stopping.is_set():
                return
            self._generation += 1
            self._snapshot = _as_snapshot(update, self._generation)
            self._lost_at, self._missing = None, "no newer one came"
            self._state.notify_all()
        self._tell()

    def _note_end(self, ended: WatchEnded) -> None:
        with self._state:
            had, self._missing = self._snapshot, ended.why
            if self._lost_at is None:
                self._lost_at = self._clock()
            if ended.withdrawn:
                self._snapshot = None
        _log.warning("%s: %s%s", self._socket, ended.why, "; identity withdrawn" if ended.withdrawn else "")
        if ended.withdrawn and had is not None:
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
