"""The shadow of the live policy, from its start by an operator to its end, over restarts.

Start and end are audited acts. The candidate is kept beside the store: a restart goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unavailable
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.flows.candidates import Desk, Keeper, Wanted, version_json
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.shadow import QUEUE_MAX, Candidate, Heard, Shadow

RESUME_S: Final = 30.0
_COUNTS: Final = ("compared", "same", "dropped", "errors", "effects")
Json = Mapping[str, Any]


class Watchable(Protocol):
    """The live settings, as far as a shadow sees them."""

    def watch(self, shadow: Shadow | None) -> None:
        """From now on this shadow hears of every decision; None: nobody does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A shadow's start: what, by whom, why; resumed_at: after the broker's last restart."""

    label: str
    digest: str
    by: str
    reason: str
    at: float
    ref: str
    resumed_at: float | None = None


@dataclass(slots=True, kw_only=True)
class _Running:
    shadow: Shadow
    about: About
    work: asyncio.Task[None]


class Shadowing:
    """The one shadow of a broker."""

    def __init__(self, desk: Desk, *, live: Watchable, keeper: Keeper, heard: Heard) -> None:
        self._desk, self._live, self._keeper, self._heard = desk, live, keeper, heard
        self._kept: Json | None = keeper.load() or None
        self._running: _Running | None = None
        self._last: Json | None = None
        self._trouble: str | None = None
        self._turn = asyncio.Lock()

    async def start(self, wanted: Wanted, *, by: Operator, reason: str) -> Json:
        """Run a candidate beside the live policy; its status.

        Raises Malformed with every problem of it, Conflict while there is one, Refused, Unavailable.
        """
        async with self._turn:
            if self._running is not None or self._kept is not None:
                raise Conflict(
                    "wrong_state", "a shadow is running: stop it first (stepwrit policy shadow stop)"
                )
            candidate = await self._desk.open(wanted)
            try:
                about = await self._begun(candidate, wanted.label, by, reason)
            except BaseException:
                await candidate.aclose()
                raise
            self._run(candidate, about)
        return await self.status()

    async def _begun(self, candidate: Candidate, label: str, by: Operator, reason: str) -> About:
        """On record before it runs."""
        about = About(
            label=label,
            digest=candidate.digest,
            by=by.name,
            reason=reason,
            at=self._desk.clock.now(),
            ref=self._desk.ref(),
        )
        await self._desk.say("shadow.started", about.ref, _facts(about))
        await self._keep({**asdict(about), "doc": candidate.doc})
        return about

    def _run(self, candidate: Candidate, about: About) -> None:
        shadow = Shadow(candidate, self._heard)
        work = asyncio.create_task(shadow.run())
        self._running, self._last, self._trouble = _Running(shadow=shadow, about=about, work=work), None, None
        self._live.watch(shadow)
        self._heard.shadow_runs(runs=True)

    async def stop(self, *, by: Operator, reason: str) -> Json:
        """End the shadow; what it found. Raises Refused(`not_found`), Unavailable: then it still runs."""
        async with self._turn:
            running, kept = self._running, self._kept
            if running is None and kept is None:
                raise Refused("not_found", "no shadow is running")
            about = _about(kept or {}) if running is None else running.about
            found = {} if running is None else running.shadow.tally.as_json
            told = {name: found[name] for name in _COUNTS if found}
            facts, now = {**_facts(about, by.name, reason), **told}, self._desk.clock.now()
            await self._desk.say("shadow.stopped", self._desk.ref(), facts)
            await self._keep(None)
            await self._end()
            self._last = {**_told(about), **found, "ended_by": by.name, "ended_at": now}
        return self._last

    async def _end(self) -> None:
        running, self._running, self._trouble = self._running, None, None
        if running is None:
            return
        self._live.watch(None)
        self._heard.shadow_runs(runs=False)
        running.work.cancel()
        await asyncio.gather(running.work, return_exceptions=True)
        await running.shadow.candidate.aclose()

    async def resume(self) -> None:
        """Once, at start: go on with the shadow of before the restart, counting anew. Tries until it can."""
        while self._kept is not None and self._running is None:
            async with self._turn:
                if await self._resumed():
                    return
            await asyncio.sleep(RESUME_S)

    async def _resumed(self) -> bool:
        """Whether there is nothing more to try."""
        kept = self._kept
        if kept is None or self._running is not None:
            return True
        try:
            candidate = await self._desk.workshop.reopen(kept["doc"])
        except Problem as bad:
            self._trouble = bad.reason
            return isinstance(bad, Malformed)
        try:
            about = replace(_about(kept), resumed_at=self._desk.clock.now())
            await self._desk.say("shadow.resumed", self._desk.ref(), _facts(about))
        except Unavailable as doubt:
            await candidate.aclose()
            self._trouble = doubt.reason
            return False
        self._run(candidate, about)
        return True

    async def close(self) -> None:
        """The broker ends; what is kept resumes."""
        await self._end()

    async def status(self) -> Json:
        """What runs, what it found so far; of the last one, what it had found. Bounded."""
        running, current = self._running, await self._desk.in_force()
        return {
            "state": "running" if running else "off" if self._kept is None else "not resumed",
            "trouble": self._trouble,
            "live": version_json(current),
            "shadow": None if running is None else self._shown(running, current),
            "waiting_to_resume": None if running or self._kept is None else _told(_about(self._kept)),
            "last": self._last,
        }

    def _shown(self, running: _Running, current: StoredVersion | None) -> Json:
        shadow = running.shadow
        return {
            **_told(running.about),
            "is_in_force": current is not None and current.digest == running.about.digest,
            "waiting": shadow.waiting,
            "queue": QUEUE_MAX,
            **shadow.tally.as_json,
        }

    def found(self, digest: str, current: StoredVersion | None) -> Json | None:
        """What the shadow has found, if it is of this policy."""
        running = self._running
        is_it = running is not None and running.about.digest == digest
        return self._shown(running, current) if running is not None and is_it else None

    async def _keep(self, shadow: Json | None) -> None:
        await self._keeper.save(shadow or {})
        self._kept = shadow


def _facts(about: About, by: str | None = None, reason: str | None = None) -> Json:
    """For the ledger: the candidate by digest and label, and the act's own author and reason."""
    return {
        "candidate": about.label,
        "digest": about.digest,
        "by": by or about.by,
        "reason": reason or about.reason,
        "started": about.ref,
    }


def _about(kept: Json) -> About:
    return About(**{name: kept[name] for name in ("label", "digest", "by", "reason", "at", "ref")})


def _told(about: About) -> Json:
    return {
        "candidate": about.label,
        "digest": about.digest,
        "by": about.by,
        "reason": about.reason,
        "since": about.at,
        "ref": about.ref,
        "resumed_at": about.resumed_at,
    }
