"""Keep one watch of the Workload API alive, on a thread of its own, and say how it is.

A lost stream is opened again with capped backoff for as long as the process lives; nothing here ever ends it
or asks for a restart.

A stream that gave something and then says that nothing is ours is asked again, on a new stream and at once:
while SPIRE's agent replaces what a tainted authority signed, its open streams can be told so although the
entry stands, and a new stream waits for the successor. What a new stream says first, counts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from stepwrit._workload_api import WatchEnded

_log = logging.getLogger("stepwrit.identity")

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
_STEADY_S: Final = 10.0  # a stream that lived this long starts the backoff afresh

U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)
Clock = Callable[[], float]
State = Literal["not_started", "starting", "ok", "stale", "expired", "withdrawn", "closed"]


class WatchOf(Protocol[U_co]):
    """One attempt at a stream."""

    def updates(self) -> Iterator[U_co]:
        """Every update; ends only by `WatchEnded`."""
        ...

    def cancel(self) -> None:
        """End it, from any thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a watch is.

    state: `ok`; `starting` (no answer yet); `stale` (the stream is lost, what it gave still serves);
    `expired` (what it gave has ended); `withdrawn` (the API said that nothing is ours any more);
    `not_started`; `closed`. since: seconds since the epoch. why: one sentence that names the socket. tries:
    attempts that failed since it was last well.
    """

    state: State
    since: float
    why: str
    tries: int = 0


class Supervisor(Generic[U]):
    """Runs `watch` again and again. `publish` gets each update, `withdraw` is told when all that was given is
    void.

    socket: for messages. clock: seconds since the epoch.
    """

    def __init__(
        self,
        socket: str,
        watch: Callable[[], WatchOf[U]],
        *,
        publish: Callable[[U], None],
        withdraw: Callable[[], None],
        clock: Clock,
        name: str,
    ) -> None:
        self._socket, self._make, self._clock, self._name = socket, watch, clock, name
        self._publish_to, self._withdraw_from = publish, withdraw
        self._lock = threading.Lock()
        self._health = Health(state="not_started", since=clock(), why=f"{socket}: not started")
        self._watch: WatchOf[U] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lost_at: float | None = None
        self._gave = False  # whether the stream of this moment gave anything yet
        self._nudged_at = clock()

    def start(self) -> None:
        """Start to watch and return at once. A second start of a running one does nothing."""
        with self._lock:
            if self._thread is not None:
                return
            self._stopping.clear()
            self._set("starting", "no answer yet")
            self._thread = threading.Thread(target=self._run, name=f"stepwrit-{self._name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; blocks until the thread is gone."""
        self._stopping.set()
        with self._lock:
            thread, self._thread, watch = self._thread, None, self._watch
            self._set("closed", "closed")
        if watch is not None:
            watch.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def nudge(self) -> None:
        """What was given has ended and nothing newer came: hang up and ask again, now and then."""
        now = self._clock()
        with self._lock:
            if self._thread is None or 0 <= now - self._nudged_at < MAX_BACKOFF_S:
                return
            self._nudged_at, watch = now, self._watch
        if watch is not None:
            watch.cancel()

    @property
    def health(self) -> Health:
        """How the stream is; whether what it gave has ended is its owner's to know."""
        with self._lock:
            return self._health

    @property
    def lost_at(self) -> float | None:
        """When the stream ended (seconds since the epoch), or None while it stands."""
        with self._lock:
            return self._lost_at

    @property
    def stopping(self) -> bool:
        """Whether nothing may be published any more."""
        return self._stopping.is_set()

    def _set(self, state: State, why: str, tries: int = 0) -> None:
        since = self._health.since if self._health.state == state else self._clock()
        self._health = Health(state=state, since=since, why=f"{self._socket}: {why}", tries=tries)

    def _run(self) -> None:
        backoff, doubtful = FIRST_BACKOFF_S, False
        while not self._stopping.is_set():
            began, before = self._clock(), doubtful
            ended = self._watch_once()
            if self._stopping.is_set():
                return
            doubtful = ended.kind == "denied" and self._gave
            self._note_end(ended, withdrawn=ended.kind != "lost" and not doubtful)
            if self._clock() - began > _STEADY_S:
                backoff = FIRST_BACKOFF_S
            if doubtful and not before:
                continue  # at once, but only once: one that always gives and then denies is asked with pauses
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    def _watch_once(self) -> WatchEnded:
        self._gave = False
        watch = self._make()
        with self._lock:
            self._watch = watch
        if self._stopping.is_set():  # closed in between: nobody else would cancel this one
            watch.cancel()
        try:
            for update in watch.updates():
                if self._stopping.is_set():
                    break
                self._well()
                self._gave = True
                self._publish_to(update)
        except WatchEnded as ended:
            return ended
        finally:
            watch.cancel()
        return WatchEnded("closed", "unusable")

    def _well(self) -> None:
        with self._lock:
            if self._health.tries:
                _log.warning("%s: well again after %d tries", self._socket, self._health.tries)
            self._lost_at, self._nudged_at = None, self._clock()
            self._set("ok", "the stream stands")

    def _note_end(self, ended: WatchEnded, *, withdrawn: bool) -> None:
        with self._lock:
            if self._lost_at is None:
                self._lost_at = self._clock()
            before = self._health
            self._set("withdrawn" if withdrawn else self._after_loss(), ended.why, before.tries + 1)
            news = (before.state, before.why) != (self._health.state, self._health.why)
        level = logging.WARNING if news else logging.DEBUG  # an outage is told once, not at every try
        _log.log(level, "%s: %s%s", self._socket, ended.why, "; withdrawn" if withdrawn else "")
        if withdrawn:
            self._withdraw_from()

    def _after_loss(self) -> State:
        return self._health.state if self._health.state in ("starting", "withdrawn") else "stale"
