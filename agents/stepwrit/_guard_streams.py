"""Answers that take long: while one is under way, the guard hears of every "no" and cuts what it stops.

Whichever answer comes first listens for all of them, once it has taken half a second: a short one costs
nothing. What a feed cannot tell (no connection for two heartbeats, a missing event) cuts too. Only an answer
that has begun to stream is cut: a deed that is under way is left to end.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import anyio
import anyio.lowlevel
from opentelemetry import metrics

from stepwrit._feed import FeedBroken, FeedEvent, FeedReader
from stepwrit._guard_asgi import Message, Send
from stepwrit.errors import StepwritError
from stepwrit.flow import Lost
from stepwrit.wire import Redeemed
from stepwrit.wire_feed import FEED_BEAT_S, MISSED_BEATS, FeedEnded, FeedHello, FeedMark, target_digest

LISTEN_AFTER_S: Final = 0.5
AGAIN_S: Final = 1.0
LOOK_BACK_S: Final = 120.0  # between our clock and the broker's
_log = logging.getLogger("stepwrit.guard")
_cuts = metrics.get_meter("stepwrit").create_counter(
    "stepwrit.guard.cuts", unit="{response}", description="responses cut while they streamed, by reason"
)


@runtime_checkable
class Follows(Protocol):
    """What hearing of revocations needs of a broker; `stepwrit.client.Broker` is one."""

    def revocations(
        self, since: float, silence_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The feed, as bytes. since: seconds since the epoch. silence_s: how long nothing may come.

        Raises StepwritError, Lost.
        """
        ...


def targets_of(redeemed: Redeemed, audience: str) -> frozenset[str]:
    """Digests of everything whose mark stops this go-ahead, as far as the resource knows their names."""
    names = {"everything:all", f"txn:{redeemed.txn}", f"grant:{redeemed.grant}", f"step:{redeemed.step}"}
    names.add(f"resource:{audience}")
    for hop in redeemed.chain:
        names |= {f"step:{hop.step}", *_names_of(hop.initiator), *_names_of(hop.performer)}
        names |= _names_of_tool(hop.tool)
    names |= _names_of_tool(redeemed.tool) | set(_names_of(redeemed.performer))
    if redeemed.requester is not None:
        names.add(f"requester:{redeemed.requester}")
    return frozenset(target_digest(each) for each in names)


def _names_of(workload: str) -> list[str]:
    """A workload's ID, and every pattern that covers it."""
    domain, *path = workload.removeprefix("spiffe://").split("/")
    above = ["/".join((domain, *path[:depth])) for depth in range(len(path))]
    return [
        f"workload:{workload}",
        f"trust_domain:{domain}",
        *(f"workload:spiffe://{each}/*" for each in above),
    ]


def _names_of_tool(tool: str | None) -> set[str]:
    return set() if tool is None else {f"tool:{tool}", f"server:{tool.partition('/')[0]}"}


@dataclass(slots=True, eq=False)
class _Open:
    """One answer under way. began: seconds since the epoch, by our clock; heard_from: by the loop's."""

    targets: frozenset[str]
    began: float
    heard_from: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    streams: bool = False
    cut: str | None = None

    def end(self, why: str) -> None:
        """Now, if it streams; else when it begins to."""
        if self.cut is None:
            self.cut = why
            _cuts.add(1, {"reason": why})
        if self.streams:
            self.scope.cancel()

    def sending(self, send: Send) -> Send:
        """Told when the answer turns out to be a stream."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("more_body", False):
                self.streams = True
                if self.cut is not None:
                    self.scope.cancel()
                    await anyio.lowlevel.checkpoint()
            await send(message)

        return watched


class Streams:
    """The answers under way of one guard. now: seconds since the epoch."""

    def __init__(
        self,
        broker: Follows,
        now: Callable[[], float],
        *,
        listen_after_s: float = LISTEN_AFTER_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._broker: Final = broker
        self._now: Final = now
        self._listen_after_s, self._again_s = listen_after_s, again_s
        self._open: Final[set[_Open]] = set()
        self._listening: Final = anyio.Lock()
        self._patience = FEED_BEAT_S * MISSED_BEATS
        self._heard_at = 0.0  # of the last event: seconds since the epoch
        self._heard = float("-inf")  # the same by the loop's clock

    async def beside(
        self, targets: frozenset[str], run: Callable[[Send], Awaitable[None]], send: Send
    ) -> None:
        """Run the application; one that is cut leaves an answer without its end. Its exceptions come out."""
        own = _Open(targets, self._now(), anyio.current_time())
        failure: Exception | None = None
        self._open.add(own)
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            with own.scope:
                try:
                    await run(own.sending(send))
                except Exception as raised:  # noqa: BLE001  raised again below, outside of the group
                    failure = raised
            self._open.discard(own)
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _listen(self) -> None:
        """For all, while no other answer's task does."""
        await anyio.sleep(self._listen_after_s)
        async with self._listening:
            while True:
                try:
                    await self._follow()
                except FeedBroken as gap:
                    _log.warning("revocations: %s", gap)
                    self._cut(self._open, "gap")
                except (StepwritError, Lost) as down:
                    _log.warning("revocations cannot be followed: %s", down)
                self._cut(self._unheard(), "unheard")
                await anyio.sleep(self._again_s)

    async def _follow(self) -> None:
        """One connection, until it ends or is silent."""
        reader = FeedReader()
        async with self._broker.revocations(self._since(), self._patience) as chunks:
            async for chunk in chunks:
                for event in reader.feed(chunk):
                    self._hear(event)
                if reader.over:
                    return

    def _since(self) -> float:
        """All before it was heard, or concerns no answer that is under way."""
        oldest = min((each.began for each in self._open), default=self._now())
        return max(oldest, self._heard_at) - LOOK_BACK_S

    def _hear(self, event: FeedEvent) -> None:
        self._heard_at, self._heard = self._now(), anyio.current_time()
        if isinstance(event, FeedHello):
            self._patience = event.heartbeat_s * MISSED_BEATS
        elif isinstance(event, FeedEnded) or (isinstance(event, FeedMark) and event.verb != "unfreeze"):
            why = event.state if isinstance(event, FeedEnded) else event.verb
            self._cut([each for each in self._open if event.digest in each.targets], why)

    def _unheard(self) -> list[_Open]:
        """Answers for which nothing was heard for too long."""
        now = anyio.current_time()
        return [each for each in self._open if now - max(self._heard, each.heard_from) >= self._patience]

    @staticmethod
    def _cut(those: Iterable[_Open], why: str) -> None:
        for each in tuple(those):
            each.end(why)
