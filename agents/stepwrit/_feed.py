"""The feed of revocations, read: bytes of an event stream in, typed events out. No I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from stepwrit._reply import Garbled, answer, json_object, local, refusal
from stepwrit.errors import RefusedError, UnavailableError
from stepwrit.wire_feed import FeedBeat, FeedEnded, FeedHello, FeedMark

EVENT_MAX: Final = 65_536  # bytes
OK: Final = 200
FeedEvent: TypeAlias = FeedHello | FeedMark | FeedEnded | FeedBeat
_KINDS: Final[dict[str, type[FeedHello | FeedMark | FeedEnded | FeedBeat]]] = {
    "hello": FeedHello,
    "mark": FeedMark,
    "ended": FeedEnded,
    "beat": FeedBeat,
}


class FeedBroken(Exception):  # noqa: N818  reads as a state
    """What came is no feed, or an event of it is missing."""


@dataclass(slots=True)
class FeedReader:
    """One connection's events, in order. Events of unknown names are passed over, `bye` is the end."""

    over: bool = False
    _rest: bytes = field(default=b"", repr=False)
    _seen: int | None = None

    def feed(self, more: bytes) -> Iterator[FeedEvent]:
        """What these bytes complete. Raises FeedBroken."""
        *whole, self._rest = (self._rest + more).split(b"\n\n")
        if len(self._rest) > EVENT_MAX:
            raise FeedBroken("an event is too long")
        for each in whole:
            event = self._event(each)
            if event is not None:
                yield event

    def _event(self, raw: bytes) -> FeedEvent | None:
        fields = {name: value for name, _, value in (line.partition(b": ") for line in raw.split(b"\n"))}
        name = fields.get(b"event", b"").decode("latin-1")
        self.over = self.over or name == "bye"
        kind = _KINDS.get(name)
        if kind is None or self.over:
            return None
        try:
            event: FeedEvent = answer(kind, json_object(fields.get(b"data", b"")))
        except Garbled as bad:
            raise FeedBroken(f"{name}: {bad}") from None
        self._count(event)
        return event

    def _count(self, event: FeedEvent) -> None:
        """From hello on, no number is missing."""
        if isinstance(event, FeedHello):
            self._seen = 0
            return
        expected = self._seen if isinstance(event, FeedBeat) or self._seen is None else self._seen + 1
        if event.n != expected:
            raise FeedBroken(f"event {expected} is missing")
        self._seen = event.n


async def refused_stream(chunks: AsyncIterator[bytes]) -> RefusedError:
    """What a broker says that gives no feed."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > EVENT_MAX:
            break
    try:
        return RefusedError(refusal(body))
    except Garbled:
        return UnavailableError(local("unavailable", "the broker gives no feed of revocations"))
