"""Run a flow with a transport, and count how it ended. The only loops round `stepwrit.flow`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from stepwrit import telemetry
from stepwrit._transport import SyncTransport, Transport
from stepwrit.clock import Clock
from stepwrit.errors import IdentityUnavailable, OutcomeUnknownError, RefusedError, UnavailableError
from stepwrit.flow import Flow, Lost, Request, Response, Wait

T = TypeVar("T")


class Count:
    """Requests sent for one verb."""

    def __init__(self) -> None:
        self.requests = 0


async def drive(
    flow: Flow[T], transport: Transport, sleep: Callable[[float], Awaitable[None]], count: Count
) -> T:
    """The flow's answer, by a transport and a sleep that yield to the event loop."""
    step = _Stepper(flow)
    while step.todo is not None:
        if isinstance(step.todo, Wait):
            await sleep(step.todo.seconds)
            step.go(None)
            continue
        count.requests += 1
        try:
            response = await transport.send(step.todo)
        except Lost as lost:
            step.lose(lost)
        else:
            step.go(response)
    return step.result()


def drive_sync(flow: Flow[T], transport: SyncTransport, sleep: Callable[[float], None], count: Count) -> T:
    """The same by a transport and a sleep that block."""
    step = _Stepper(flow)
    while step.todo is not None:
        if isinstance(step.todo, Wait):
            sleep(step.todo.seconds)
            step.go(None)
            continue
        count.requests += 1
        try:
            response = transport.send(step.todo)
        except Lost as lost:
            step.lose(lost)
        else:
            step.go(response)
    return step.result()


@contextmanager
def counted(verb: str, clock: Clock, count: Count) -> Generator[None]:
    """Tell telemetry how a verb ended."""
    began = clock.now()
    outcome, code = "cancelled", "none"
    try:
        yield
        outcome = "ok"
    except UnavailableError as doubt:
        outcome, code = "unavailable", doubt.code
        raise
    except RefusedError as no:
        outcome, code = "refused", no.code
        raise
    except OutcomeUnknownError:
        outcome, code = "unknown", "outcome_unknown"
        raise
    except IdentityUnavailable:
        outcome = "identity"
        raise
    finally:
        telemetry.verb_ended(verb, outcome, code, clock.now() - began, count.requests)


class _Stepper(Generic[T]):
    """A flow between two of its effects, so that StopIteration stays away from coroutines."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow: Final = flow
        self._result: Final[list[T]] = []
        self.todo: Request | Wait | None = None
        self.go(None)

    def go(self, answer: Response | None) -> None:
        try:
            self.todo = self._flow.send(answer)
        except StopIteration as stop:
            self._end(stop)

    def lose(self, lost: Lost) -> None:
        try:
            self.todo = self._flow.throw(lost)
        except StopIteration as stop:
            self._end(stop)

    def result(self) -> T:
        return self._result[0]

    def _end(self, stop: StopIteration) -> None:
        self._result.append(stop.value)
        self.todo = None
