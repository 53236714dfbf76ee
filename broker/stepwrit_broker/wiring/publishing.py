"""The keys of a fleet: ours are stated before they are used, others' are believed by their statements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from stepwrit_broker.core.errors import Problem, Unproven
from stepwrit_broker.core.marks import standing, subjects_of_workload
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.union import StatedKeys
from stepwrit_broker.ports import Clock, Store
from stepwrit_broker.ports_fleet import KeyBoard, KeyStatements, OwnKey, Posted, Stated

POLL_S: Final = 1.0
SETTLE_S: Final = 1.5  # after a first post: whoever polls has read it
_log = structlog.get_logger("stepwrit.keys")


class KeyPublishing:
    """Posts and reads."""

    def __init__(
        self,
        *,
        board: KeyBoard,
        statements: KeyStatements,
        rings: Sequence[Keyring],
        others: StatedKeys,
        clock: Clock,
    ) -> None:
        self._board, self._statements, self._rings = board, statements, rings
        self._others, self._clock = others, clock
        self._posted: dict[str, float] = {}  # statements of ours, until when
        self._told_of: set[str] = set()
        self.refused = 0
        self.known = 0

    async def first(self, settle_s: float = SETTLE_S) -> None:
        """Before anything is served: ours are known to all, and all others to us. Raises Unavailable."""
        await self.round()
        await asyncio.sleep(settle_s)
        await self.round()

    async def run(self) -> None:
        """Forever; what fails is tried again, and until then what is known stays, to its end."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.round()
            except Problem as problem:
                _log.warning("keys of the fleet", why=str(problem))

    async def round(self) -> None:
        """Post what is to be posted, then read everything."""
        now = self._clock.now()
        for ring in self._rings:
            for key in ring.stated(now):
                await self._post(key, now)
                ring.release(key.kid)
        self._posted = {name: until for name, until in self._posted.items() if until > now}
        await self._read(now)

    async def _post(self, key: OwnKey, now: float) -> None:
        """Once, and again by each new SVID of ours."""
        posted = self._statements.state(key, now)
        if posted.id not in self._posted:
            await self._board.post(posted, now)
            self._posted[posted.id] = posted.until

    async def _read(self, now: float) -> None:
        own = {key.kid for ring in self._rings for key in ring.stated(now)}
        judged = [self._judged(each, now) for each in await self._board.posted(now)]
        stated = [each for each in judged if each is not None and each.kid not in own]
        self.refused, self.known = judged.count(None), len({each.kid for each in stated})
        self._others.replace(stated)

    def _judged(self, posted: Posted, now: float) -> Stated | None:
        try:
            return self._statements.judge(posted, now)
        except Unproven as no:
            if posted.id not in self._told_of and len(self._told_of) < 1000:
                self._told_of.add(posted.id)
                _log.warning("a key's statement is not believed", id=posted.id[:100], rule=no.rule)
            return None


def is_broker(live: Live, store: Store, me: str) -> Callable[[SpiffeId], bool]:
    """Whose keys are a broker's of this fleet: of our own SPIFFE ID or of role `broker`, and not stopped."""

    def judge(who: SpiffeId) -> bool:
        entry = live.now_in_force().registry.entry_for(who)
        stops = [each for each in subjects_of_workload(who) if each != "everything:all"]
        is_one = who == me or (entry is not None and entry.role == "broker")
        return is_one and standing(store.marks(), stops) is None

    return judge


async def published(
    board: KeyBoard, statements: KeyStatements, own: Sequence[Keyring], others: StatedKeys, clock: Clock
) -> KeyPublishing:
    """Ours are known to all now. Raises Unavailable."""
    made = KeyPublishing(board=board, statements=statements, rings=own, others=others, clock=clock)
    await made.first()
    return made
