"""Steps that run: each beats, and all of one client's hear together when others end them.

A heartbeat every 20 seconds is the truth, and enough. One request that the broker holds, for all running
steps of the client, makes it quick: it names those that were ended, and where it may have missed some, every
running step beats at once. Whichever step comes first asks, once it has run for half a second: a short call
costs nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import anyio

from stepwrit.errors import IdentityUnavailable, RefusedError, UnavailableError
from stepwrit.wire import StepAccepted, StepStatus
from stepwrit.wire_ended import EndedSteps

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
LISTEN_AFTER_S: Final = 0.5
HOLD_S: Final = 25  # the broker's longest is 30
AGAIN_S: Final = 1.0  # a broker that holds nothing back is not asked more often than this
REMEMBERED: Final = 1_024
_log = logging.getLogger("stepwrit.mcp")


class Asks(Protocol):
    """What is asked of a broker; `stepwrit.client.Broker` is one."""

    async def heartbeat(self, step: str) -> StepStatus:
        """The step still runs."""
        ...

    async def ended(self, after: str | None, hold_s: int = 0) -> EndedSteps:
        """What was ended by others."""
        ...


class Runs(Protocol):
    """A step that runs; `stepwrit.lineage.Step` is one."""

    @property
    def accepted(self) -> StepAccepted:
        """As the broker told it."""
        ...

    def end(self, how: str) -> None:
        """It has ended."""
        ...


class StoppedError(Exception):
    """The step was ended by others while its body ran. how: the state it ended in, or a refusal's code."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the step was ended while it ran: {how}")
        self.how: Final = how


@dataclass(slots=True, eq=False)
class _Running:
    step: Runs
    stop: Callable[[], None]
    how: str | None = None

    @property
    def id(self) -> str:
        return self.step.accepted.step

    def end(self, how: str) -> None:
        """Once."""
        if self.how is None:
            self.how = how
            self.step.end(how)
            self.stop()


class Alive:
    """The running steps of one client. listen_after_s: how long one runs before it is listened for."""

    def __init__(self, broker: Asks, *, listen_after_s: float = LISTEN_AFTER_S) -> None:
        self._broker: Final = broker
        self.listen_after_s = listen_after_s
        self._running: Final[dict[str, _Running]] = {}
        self._heard: Final[OrderedDict[str, str]] = OrderedDict()  # of steps that did not run here yet
        self._asking: Final = anyio.Lock()
        self._after: str | None = None

    async def beside(
        self, step: Runs, body: Callable[[], Awaitable[T]], *, sleep: Sleep = anyio.sleep, stops: bool = True
    ) -> T:
        """The body's answer. Its exception comes out as it is, not in a group.

        sleep: seconds, between heartbeats. stops: cancel the body when others end the step; without it, the
        body goes on, and everything it asks of the broker is refused.

        Raises:
            StoppedError: others ended the step before the body did; only with `stops`.
        """
        answers: list[T] = []
        async with self.during(step, sleep=sleep, stops=stops):
            answers.append(await body())
        return answers[0]

    @asynccontextmanager
    async def during(
        self, step: Runs, *, sleep: Sleep = anyio.sleep, stops: bool = True
    ) -> AsyncGenerator[None]:
        """`beside`, for a body that is a block."""
        failure: Exception | None = None
        scope = anyio.CancelScope()
        own = self._enter(step, scope.cancel if stops else _go_on)
        async with anyio.create_task_group() as group:
            with scope:
                group.start_soon(self._beat, own, sleep)
                group.start_soon(self._listen, own)
                try:
                    yield
                except Exception as raised:  # noqa: BLE001  raised again below, outside of the group
                    failure = raised
                finally:
                    self._running.pop(own.id, None)
            group.cancel_scope.cancel()
        if stops and own.how is not None:
            raise StoppedError(own.how)
        if failure is not None:
            raise failure

    def _enter(self, step: Runs, stop: Callable[[], None]) -> _Running:
        own = _Running(step, stop)
        self._running[own.id] = own
        told = self._heard.pop(own.id, None)
        if told is not None:
            own.end(told)
        return own

    async def _beat(self, own: _Running, sleep: Sleep) -> None:
        """Until the body ends, or the broker says that the step has."""
        while own.how is None:
            await sleep(own.step.accepted.heartbeat_s)
            await self._look(own)

    async def _look(self, own: _Running) -> None:
        """One heartbeat; doubt is no end."""
        try:
            status = await self._broker.heartbeat(own.id)
        except (UnavailableError, IdentityUnavailable) as doubt:
            _log.warning("step %s: no heartbeat: %s", own.step.accepted.ref, doubt)
        except RefusedError as no:
            own.end(no.code)
        else:
            if status.state != "accepted":
                own.end(status.state)

    async def _listen(self, own: _Running) -> None:
        """Ask for all, while no other step of this client does."""
        await anyio.sleep(self.listen_after_s)
        async with self._asking:
            while own.how is None:
                began = anyio.current_time()
                if not await self._ask(own):
                    await anyio.sleep(max(0.0, began + AGAIN_S - anyio.current_time()))

    async def _ask(self, own: _Running) -> bool:
        """Whether there was something to hear, and it is worth asking again at once."""
        try:
            told = await self._broker.ended(self._after, HOLD_S)
        except (RefusedError, IdentityUnavailable):
            await anyio.sleep(own.step.accepted.heartbeat_s)
            return False
        fresh, self._after = told.after != self._after, told.after
        for each in told.steps:
            self._hear(each.step, each.state)
        if not told.complete:
            for runs in tuple(self._running.values()):
                await self._look(runs)
        return fresh

    def _hear(self, step: str, state: str) -> None:
        running = self._running.get(step)
        if running is not None:
            running.end(state)
            return
        self._heard[step] = state  # accepted there, and not yet known here
        while len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)


def _go_on() -> None:
    """The body is not stopped."""
