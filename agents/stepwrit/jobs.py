"""Jobs that outlive their call: a worker resumes a deferred step with nothing but its id.

    async with broker.resumed(step_id) as job:
        async with httpx2.AsyncClient(auth=job.credential("https://bank.example")) as http:
            await http.post("https://bank.example/v1/transfers", json={"cents": job.args["amount"] * 100})

A job runs at most once. While it runs nobody else gets it; it is alive by heartbeats, and a worker that is
lost ends the step. `stepwrit.client.SyncBroker` does the same for threads, with `with`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from stepwrit._alive import StoppedError
from stepwrit._blocking import Blocking, now
from stepwrit._credential import Credential, SyncCredential
from stepwrit._reply import local
from stepwrit.errors import IdentityUnavailable, RefusedError, StepwritError, UnavailableError
from stepwrit.lineage import Performs, Step, entered
from stepwrit.wire import Outcome
from stepwrit.wire_deferred import StepResumed

if TYPE_CHECKING:
    from stepwrit.client import Broker, SyncBroker

_log = logging.getLogger("stepwrit.jobs")
CLOSE_S: Final = 5.0
J = TypeVar("J", bound="Job")


class Job(Step):
    """One run of a deferred step. `args`: what it was opened with."""

    def __init__(self, broker: Performs, resumed: StepResumed) -> None:
        super().__init__(broker, resumed)
        self.args: Final = resumed.args

    def credential(self, audience: str) -> Credential:
        """The right to ask for credentials at this audience, for an httpx2 client's `auth=`."""
        return Credential(audience, self)


class AsyncJob(Job):
    """A run in an event loop."""

    def __init__(self, broker: Broker, resumed: StepResumed) -> None:
        super().__init__(broker, resumed)
        self._broker: Final = broker

    async def park(self) -> None:
        """No more for now: the step waits, without heartbeats, until somebody resumes it with the same id.

        Raises:
            RefusedError: it has ended.
        """
        self.check()
        await self._broker.wait(self.id, self.round)
        self.end("waiting")


class SyncJob:
    """A run in a thread. `step`: what `stepwrit.lineage.current_step` gives; all else as of `Job`."""

    def __init__(self, broker: SyncBroker, resumed: StepResumed) -> None:
        self._broker: Final = broker
        self.step: Final = Job(Blocking(broker), resumed)
        self.args: Final = resumed.args

    def __repr__(self) -> str:
        return f"Sync{self.step!r}"

    @property
    def id(self) -> str:
        """The step's id; opens nothing."""
        return self.step.id

    @property
    def ref(self) -> str:
        """What `stepwrit explain` takes; belongs into every log line."""
        return self.step.ref

    @property
    def ended(self) -> str | None:
        """How it ended; None while it runs. A body that runs for long looks at it."""
        return self.step.ended

    def credential(self, audience: str) -> SyncCredential:
        """The right to ask for credentials at this audience, for an httpx2 client's `auth=`."""
        return SyncCredential(audience, self.step)

    def defer(
        self, tool: str, args: dict[str, object] | None = None, *, wait_for_approval: float = 0.0
    ) -> str:
        """As `stepwrit.lineage.Step.defer`."""
        return now(self.step.defer(tool, args, wait_for_approval=wait_for_approval))

    def park(self) -> None:
        """As `AsyncJob.park`."""
        self.step.check()
        self._broker.wait(self.id, self.step.round)
        self.step.end("waiting")


@asynccontextmanager
async def running(broker: Broker, resumed: StepResumed) -> AsyncGenerator[AsyncJob]:
    """One run of a job, as the current step."""
    async with alive(broker, AsyncJob(broker, resumed)) as job:
        yield job


@asynccontextmanager
async def alive(broker: Broker, job: J) -> AsyncGenerator[J]:
    """The body, beside heartbeats; the step ends as the body does."""
    outcome = _failed()
    try:
        async with broker.alive.during(job):
            with entered(job):
                yield job
        outcome = "done"
    except StoppedError as stopped:
        if job.ended != "waiting":
            raise _over(job, stopped.how) from None
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        is_over = job.ended is not None
        job.end(outcome)
        if not is_over:
            await _close(broker, job, outcome)


async def _close(broker: Broker, job: Job, outcome: Outcome) -> None:
    """Also while being cancelled. What cannot be closed now is ended by its missing heartbeat."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        try:
            await broker.close_step(job.id, outcome)
        except StepwritError as failed:
            _log.warning("job %s was not closed: %s", job.ref, failed)


@contextmanager
def running_sync(broker: SyncBroker, resumed: StepResumed) -> Generator[SyncJob]:
    """The same in a thread, with heartbeats from another. A body that others end is not stopped: what it asks
    of the broker is refused, and so is its end.
    """
    job, outcome = SyncJob(broker, resumed), _failed()
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(broker, job.step, over), name="stepwrit-job", daemon=True)
    try:
        beat.start()
        with entered(job.step):
            yield job
        outcome = "done"
    finally:
        over.set()
        how = job.ended
        job.step.end(outcome)
        if how is None:
            _close_sync(broker, job, outcome)
    if how not in (None, "waiting"):
        raise _over(job.step, str(how))


def _close_sync(broker: SyncBroker, job: SyncJob, outcome: Outcome) -> None:
    try:
        broker.close_step(job.id, outcome)
    except StepwritError as failed:
        _log.warning("job %s was not closed: %s", job.ref, failed)


def _beat(broker: SyncBroker, step: Step, over: threading.Event) -> None:
    """Until the body is over, or the broker says that the step is; doubt is no end."""
    while not over.wait(step.accepted.heartbeat_s):
        try:
            state = broker.heartbeat(step.id).state
        except (UnavailableError, IdentityUnavailable) as doubt:
            _log.warning("job %s: no heartbeat: %s", step.ref, doubt)
            continue
        except RefusedError as no:
            state = no.code
        if state != "accepted":
            step.end(state)
            return


def _over(step: Step, how: str) -> RefusedError:
    """What is told of a job whose step others ended while it ran."""
    code = how if how in ("revoked", "expired", "frozen") else "closed"
    reason = "the step was ended while the job ran; what it had done by then stands"
    return RefusedError(local(code, reason, ref=step.ref))


def _failed() -> Outcome:
    return "failed"
