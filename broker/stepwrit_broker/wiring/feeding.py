"""The feed of revocations in this process: what changed in the standing marks, and which steps ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final

from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports_ended import Ended
from stepwrit_broker.ports_feed import News

KEPT_MAX: Final = 8_192  # news, for whoever comes back
FOLLOWERS_MAX: Final = 1_024  # each a connection
EACH_MAX: Final = 64  # of one workload, however many processes it has
BUSY_S: Final = 20.0


class Newsroom:
    """The `Feed` port in memory. marks: those that stand, a live view. is_known: whether it is what stands;
    who does not know that tells nobody that nothing happened.
    """

    def __init__(
        self, marks: Callable[[], Mapping[str, Mark]], is_known: Callable[[], bool] = lambda: True
    ) -> None:
        self._marks, self._is_known = marks, is_known
        self._known: dict[str, Mark] = dict(marks())
        self._news: deque[News] = deque(maxlen=KEPT_MAX)
        self._count = 0
        self._following: Counter[SpiffeId] = Counter()
        self._fresh = asyncio.Event()
        self.closed = False

    @property
    def followers(self) -> int:
        """How many follow now."""
        return self._following.total()

    def ruled(self) -> None:
        """Marks may have changed: tell what did. A revocation that is only forgotten is no news."""
        before, now = self._known, dict(self._marks())
        self._known = now
        changed = [mark for target, mark in now.items() if _is_news(before.get(target), mark)]
        self._tell([_marked(mark, mark.verb) for mark in changed])
        gone = [mark for target, mark in before.items() if target not in now and mark.verb == "freeze"]
        self._tell([_marked(mark, "unfreeze") for mark in gone])

    def ended(self, ended: Sequence[Ended]) -> None:
        """These steps ended."""
        self._tell(
            [News(what="ended", target=f"step:{each.step}", at=0.0, detail=each.state) for each in ended]
        )

    def follow(self, who: SpiffeId, since: float | None) -> Follower:
        """As the port has it."""
        if self._following.total() >= FOLLOWERS_MAX or self._following[who] >= EACH_MAX:
            raise Refused("slow_down", "too many follow already", rule="interval", retry_after=BUSY_S)
        if not self._is_known():
            raise Unavailable(
                "unavailable", "which marks stand cannot be told now", rule="store", retry_after=1.0
            )
        self._following[who] += 1
        self.ruled()
        standing = () if since is None else [each for each in self._known.values() if each.at >= since]
        return Follower(self, who, self._count, [_marked(mark, mark.verb) for mark in standing])

    @property
    def is_silent(self) -> bool:
        """Whether those who follow are better off elsewhere."""
        return self.closed or not self._is_known()

    def close(self) -> None:
        """Let go of all who follow: their connections are to end."""
        self.closed = True
        self._wake()

    def since(self, seen: int) -> Sequence[News] | None:
        """What came after that number; None where some of it is forgotten."""
        missing = self._count - seen
        if missing > len(self._news):
            return None
        return tuple(islice(self._news, len(self._news) - missing, None))

    def left(self, who: SpiffeId) -> None:
        """One follower less."""
        self._following[who] -= 1
        if self._following[who] <= 0:
            del self._following[who]

    async def wait(self, seconds: float) -> None:
        """Until there is something new, or the time is over."""
        fresh = self._fresh
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self.closed else seconds):
                await fresh.wait()

    def _tell(self, news: Sequence[News]) -> None:
        if news:
            self._news.extend(news)
            self._count += len(news)
            self._wake()

    def _wake(self) -> None:
        self._fresh.set()
        self._fresh = asyncio.Event()


class Follower:
    """The `Following` port. first: what it is told before all else."""

    def __init__(self, room: Newsroom, who: SpiffeId, seen: int, first: Sequence[News]) -> None:
        self._room, self._who, self._seen, self._first = room, who, seen, first
        self._left = False

    async def next(self, seconds: float) -> Sequence[News] | None:
        """As the port has it."""
        if self._first:
            first, self._first = self._first, ()
            return first
        found = self._room.since(self._seen)
        if not found and found is not None:
            await self._room.wait(seconds)
            found = self._room.since(self._seen)
        if found is None or (not found and self._room.is_silent):
            return None
        self._seen += len(found)
        return found

    def close(self) -> None:
        """Once."""
        if not self._left:
            self._left = True
            self._room.left(self._who)


def _is_news(before: Mark | None, now: Mark) -> bool:
    return before is None or (before.verb, before.ref) != (now.verb, now.ref)


def _marked(mark: Mark, what: str) -> News:
    kind = "unfreeze" if what == "unfreeze" else mark.verb
    return News(what=kind, target=mark.target, at=mark.at, detail=mark.ref)
