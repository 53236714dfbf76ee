"""One partner's bundle, kept fresh. A poll that fails, or brings what cannot be believed, changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stepwrit.spiffe_id import trust_domain_of
from stepwrit_broker.attest.federation.fetch import fetch
from stepwrit_broker.attest.federation.memory import Memory
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Held, Partner
from stepwrit_broker.attest.federation.reading import read
from stepwrit_broker.core.federation import is_stale, refresh_s, refusal, wait_s

_log = logging.getLogger("stepwrit.federation")
_FIRST_REFRESH_S: Final = 300.0

State = Literal["starting", "ok", "failing", "stale"]
Roots = Callable[[str], Sequence[bytes]]
"""The CA certificates (DER) in force of a trust domain; none: an empty sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedHealth:
    """How one partner's feed is.

    state: `ok`; `starting` (never a bundle); `failing` (the last poll brought nothing, what we hold serves);
    `stale` (what we hold serves no longer). why: the last poll's word, `ok` or what was wrong. detail: for
    people. since: of the state, seconds since the epoch. tries: polls that failed in a row.
    """

    state: State
    why: str
    detail: str
    since: float
    tries: int
    sequence: int | None
    confirmed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a feed needs of its broker.

    now: seconds since the epoch. luck: 0..1, at random. roots: of other domains, for their endpoints. told:
    called after each poll with the partner's domain, its outcome in one word, and whether the keys changed.
    """

    now: Callable[[], float]
    luck: Callable[[], float]
    roots: Roots
    told: Callable[[str, str, bool], Awaitable[None]]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Feed:
    """The bundle of one partner. Everything runs on the event loop."""

    def __init__(self, partner: Partner, memory: Memory, around: Surroundings) -> None:
        self.partner: Final = partner
        self._memory, self._around = memory, around
        self._held: Held | None = None
        self._floor: Held | None = None
        self._outcome, self._detail, self._tries = "starting", "no answer yet", 0
        self._state: State = "starting"
        self._since = around.now()
        self.version = 0

    def load(self) -> None:
        """What was accepted before this start, and the operator's bootstrap bundle.

        The bootstrap bundle is for knowing the endpoint, and bounds what it may serve; callers are not
        believed by it. Raises BundleNotTaken(`unreadable` | `malformed`).
        """
        self._held = self._memory.load()
        self._floor = _newer(self._held, self._bootstrap())
        self.version += 1

    def _bootstrap(self) -> Held | None:
        path = self.partner.bootstrap
        if path is None:
            return None
        try:
            return read(path.read_bytes(), self.partner.trust_domain, self._around.now())
        except OSError as bad:
            raise BundleNotTaken("unreadable", f"{path}: {bad.strerror}") from bad

    @property
    def held(self) -> Held | None:
        """What was accepted last, stale or not."""
        return self._held

    def is_stale(self, now: float) -> bool:
        """Whether what we hold serves no longer at `now` (seconds since the epoch)."""
        return self._held is not None and is_stale(self._held.confirmed_at, now, self.partner.max_age_s)

    def health(self, now: float) -> FeedHealth:
        """How it is at `now` (seconds since the epoch)."""
        held = self._held
        state: State = "stale" if self.is_stale(now) else self._state
        ended = 0.0 if held is None else held.confirmed_at + self.partner.max_age_s
        return FeedHealth(
            state=state,
            why=self._outcome,
            detail=self._detail,
            since=ended if state == "stale" else self._since,
            tries=self._tries,
            sequence=None if held is None else held.revision.sequence,
            confirmed_at=None if held is None else held.confirmed_at,
        )

    async def run(self) -> None:
        """Poll for as long as the broker lives."""
        while True:
            try:
                await self.poll()
            except Exception as fault:  # noqa: BLE001  a fault of ours must not end the watch
                _log.exception("federation with %s", self.partner.trust_domain)
                self._tries += 1
                self._note(self._unwell(), "fault", f"{type(fault).__name__}: the log has it")
            hint = _FIRST_REFRESH_S if self._held is None else self._held.bundle.refresh_s
            refresh = refresh_s(hint, self.partner.max_age_s)
            await self._around.sleep(wait_s(refresh, self._tries, self._around.luck()))

    async def poll(self) -> None:
        """Ask the endpoint once, and take what it gives if it may be believed."""
        try:
            raw = await fetch(self.partner, self._endpoint_roots(), self._around.now)
            offered = read(raw, self.partner.trust_domain, self._around.now())
            self._check(offered)
        except BundleNotTaken as not_taken:
            await self._not_taken(not_taken)
        else:
            await self._take(raw, offered)

    def _endpoint_roots(self) -> Sequence[bytes]:
        partner = self.partner
        if partner.endpoint_id is None:
            return ()
        if not partner.serves_itself:
            return self._around.roots(trust_domain_of(partner.endpoint_id))
        return () if self._floor is None else self._floor.bundle.x509

    def _check(self, offered: Held) -> None:
        held = self._floor
        why = refusal(None if held is None else held.revision, offered.revision)
        if why is not None and held is not None:
            now, was = offered.revision.sequence, held.revision.sequence
            raise BundleNotTaken(why, f"sequence {now} was offered, {was} is held")

    async def _take(self, raw: bytes, offered: Held) -> None:
        """In force first: a key that its owner withdrew must not live on because a disk is full."""
        changed = self._held is None or self._held.revision != offered.revision
        self._held = self._floor = offered
        self.version += 1
        self._note("ok", "ok", "ok")
        self._tries = 0
        try:
            await asyncio.to_thread(self._memory.save, raw, offered.confirmed_at)
        except OSError as bad:
            self._detail = (
                f"{self._memory.path} cannot be written ({bad.strerror}): a restart would forget it"
            )
            _log.error("federation with %s: %s", self.partner.trust_domain, self._detail)
        await self._around.told(self.partner.trust_domain, "ok", changed)

    async def _not_taken(self, not_taken: BundleNotTaken) -> None:
        news = not_taken.reason != self._outcome
        self._tries += 1
        self._note(self._unwell(), not_taken.reason, not_taken.detail)
        if news:
            _log.warning("federation with %s: %s", self.partner.trust_domain, not_taken)
        await self._around.told(self.partner.trust_domain, not_taken.reason, news)

    def _unwell(self) -> State:
        return "starting" if self._held is None else "failing"

    def _note(self, state: State, outcome: str, detail: str) -> None:
        if state != self._state:
            self._state, self._since = state, self._around.now()
        self._outcome, self._detail = outcome, detail


def _newer(held: Held | None, bootstrap: Held | None) -> Held | None:
    """What was accepted, unless the operator's file is of a later sequence: the help after a long outage."""
    if held is None or bootstrap is None:
        return held or bootstrap
    accepted, given = held.revision.sequence, bootstrap.revision.sequence
    return bootstrap if accepted is not None and given is not None and given > accepted else held
