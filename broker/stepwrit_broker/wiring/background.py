"""What a broker does beside answering: sweep, sign, watch files, count, and tell how it is."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import structlog

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.flows.advice import AnswerRecorder
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.refusals import RefusalRecorder
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock, Reaped
from stepwrit_broker.wiring import health
from stepwrit_broker.wiring.backing import Backing
from stepwrit_broker.wiring.waiting import Expiries

_log = structlog.get_logger("stepwrit.broker")
RESTART_S: Final = 1.0  # until a worker that died begins again


class Background:
    """Runs work until `stack` is left."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    def every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        """Again and again; what fails is logged, and tried again in its turn."""

        async def forever() -> None:
            while True:
                await asyncio.sleep(seconds)
                await _tried(job)

        self.spawn(forever)

    def when(self, event: asyncio.Event, job: Callable[[], Awaitable[None]]) -> None:
        """Each time that the event is set; it is cleared before the work begins."""

        async def forever() -> None:
            while True:
                await event.wait()
                event.clear()
                await _tried(job)

        self.spawn(forever)

    def keep(self, job: Callable[[], Awaitable[None]], *, pause_s: float = RESTART_S) -> None:
        """A worker that runs until the end; one that dies is logged, and begins again after a pause."""

        async def forever() -> None:
            while True:
                if await _tried(job):
                    return
                await asyncio.sleep(pause_s)

        self.spawn(forever)

    def spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        """Once, from now on; what fails is logged."""
        task = asyncio.ensure_future(_tried(job))

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(stop)


async def _tried(job: Callable[[], Awaitable[None]]) -> bool:
    """Whether it came to its end; what fails is logged by its kind of failure."""
    name = getattr(job, "__qualname__", type(job).__name__)
    try:
        await job()
    except Problem as problem:
        _log.warning("background work", job=name, why=str(problem))
    except Exception:  # noqa: BLE001  whatever it is, the broker goes on; the log has it
        _log.error("background work", job=name, exception=traceback.format_exc())
    else:
        return True
    return False


@dataclass(kw_only=True)
class Chores:
    """The recurring work. svid_ends: the end of our SVID as last seen, seconds since the epoch."""

    clock: Clock
    metrics: Metrics
    backing: Backing
    live: Live
    house: House
    expiries: Expiries
    refusals: RefusalRecorder
    answers: AnswerRecorder
    identity: WorkloadIdentity
    streams: Mapping[str, health.Watched]
    svid_ends: float

    async def reap(self) -> None:
        """End what is over, purge what nobody asks for any more."""
        self._count(await self.backing.reap(self.clock.now()))
        await self.expiries.tell(self.house)

    async def walk(self) -> None:
        """Follow a new revocation at once: what it ends is then on record, and told to those who run it."""
        self._count(await self.backing.store.walk(self.clock.now()))

    def _count(self, done: Reaped) -> None:
        for what, count in (("steps", done.steps), ("grants", done.grants), ("purged", done.purged)):
            self.metrics.reaped.labels(what).inc(count)

    async def flush(self) -> None:
        """What was only counted becomes an entry: callers beyond their rate, and all unattested tries."""
        await self.refusals.flush(self.clock.now())
        await self.answers.flush(self.clock.now())
        untold = self.metrics.untold()
        if untold:
            await self.backing.say("refused.counted", {"unattested": untold})

    async def gauge(self) -> None:
        """Set the gauges that nobody else sets."""
        self._gauge_identity()
        store = self.backing.store
        backlog = await store.approvals.backlog()
        self.metrics.approvals_waiting.set(backlog.waiting)
        waited = 0.0 if backlog.since is None else self.clock.now() - backlog.since
        self.metrics.approvals_oldest.set(round(max(0.0, waited), 1))
        self.metrics.standing.set(len(store.marks()))
        versions = self.live.now_in_force().versions
        for kind in ("policy", "registry", "limits", "bundles"):
            self.metrics.versions.labels(kind).set(getattr(versions, kind))

    def _gauge_identity(self) -> None:
        """Also when there is none: that is when the gauge is looked at."""
        with contextlib.suppress(IdentityUnavailable):
            self.svid_ends = self.identity.snapshot().expires_at
        for (stream, state), is_it in health.states(self.streams).items():
            self.metrics.identity_state.labels(stream, state).set(is_it)
        self.metrics.own_svid.set(round(self.svid_ends - self.clock.now(), 1))
