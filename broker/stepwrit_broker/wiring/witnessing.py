"""The broker's witnesses: each is asked about every new checkpoint, beside the hot path and never in it.

What they answer decides three things: which checkpoint is published (the newest with its quorum), whether
anything is still opened and reserved (not for longer than the bound without a quorum), and whether this
ledger is to be believed at all (not while one of them has seen another history of it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from stepwrit_broker.core.errors import Malformed, Problem, Unavailable
from stepwrit_broker.ledger.cosignature import Cosigned
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ledger.witness.remote import (
    Ahead,
    Contradicted,
    NotCosigned,
    RemoteWitness,
    WitnessClient,
)
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_ledger import Published
from stepwrit_broker.wiring.settings import BrokerSettings

BEAT_S: Final = 30.0  # an unchanged checkpoint is cosigned anew, which shows that the witness is there
RETRY_S: Final = (1.0, 30.0)
FIRST_S: Final = 8.0
TARGET_S: Final = 5.0
AHEAD_TRIES: Final = 5
_RULE: Final = "witness"
_OPERATOR: Final = "the operator (docs: how-to/run-a-witness)"
_log = structlog.get_logger("stepwrit.witnesses")
Say = Callable[[str, dict[str, object]], Awaitable[None]]


def quorum_of(settings: BrokerSettings) -> int:
    """How many witnesses must have cosigned: as set, or more than half of them."""
    return settings.witness_quorum or len(settings.witnesses) // 2 + 1


@dataclass(slots=True)
class _Standing:
    """One witness as it was last heard. at: of its latest cosignature, seconds since the epoch."""

    client: WitnessClient
    at: float = 0.0
    size: int = 0
    failing: str = ""
    doubt: str = ""


class WitnessedLog(Protocol):
    """The log that is shown to witnesses."""

    @property
    def source(self) -> LogSource:
        """Reads it, from any thread."""
        ...

    def signed(self) -> Published | None:
        """The newest checkpoint that is durable and anchored; None before the first."""
        ...

    async def sign(self) -> str:
        """Sign what is committed; the note."""
        ...

    async def keep(self, size: int, made: Cosigned) -> None:
        """Keep a cosignature on the checkpoint of this size, durably."""
        ...


class Witnessing:
    """The witnesses of `settings`; without any, what is signed is published and nothing is ever in doubt."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        log: WitnessedLog,
        clock: Clock,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> None:
        """Raises Malformed for a CA file that cannot be used."""
        self._settings, self._log = settings, log
        self._clock, self._metrics = clock, metrics
        self._reader = LogReader(log.source)
        self._reading = asyncio.Lock()
        self._all: list[_Standing] = [self._standing(each, stack) for each in settings.witnesses]
        self._published: Published | None = None
        self._target: Published | None = None  # all work on one checkpoint, or none would have its quorum
        self._target_since = 0.0
        self._began = clock.now()
        self._now = self._began
        self.say: Say | None = None

    @property
    def quorum(self) -> int:
        """How many must have cosigned."""
        return quorum_of(self._settings)

    def _standing(self, remote: RemoteWitness, stack: AsyncExitStack) -> _Standing:
        try:
            client = WitnessClient(remote, self._prove)
        except (OSError, ValueError) as bad:
            raise Malformed("invalid_request", f"witness {remote.name}: {bad}") from bad
        stack.push_async_callback(client.aclose)
        return _Standing(client, at=self._log.source.cosigned_at(remote.verifier.vkey))

    async def _prove(self, first: int, second: int) -> tuple[bytes, ...]:
        async with self._reading:  # one connection, a few hundred rows
            return await asyncio.to_thread(self._reader.consistency, first, second)

    async def first(self) -> None:
        """Ask each of them once, before anything is served; nobody is waited for longer than FIRST_S."""
        if not self._all:
            return
        await self._log.sign()  # an empty log too: a witness may know of a fuller one
        asked = [asyncio.ensure_future(self._ask(each)) for each in self._all]
        _, late = await asyncio.wait(asked, timeout=FIRST_S)
        for each in late:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        signed = self._log.signed()
        if signed is not None:
            await self._publish(signed)

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """One worker for each; it runs until cancelled."""
        return [partial(self._run, each) for each in self._all]

    async def _run(self, one: _Standing) -> None:
        pause, asked = RETRY_S[0], 0.0
        while True:
            await asyncio.sleep(pause)
            now = asyncio.get_running_loop().time()
            wanted = self._wanted(now)
            is_done = wanted is None or (wanted.size <= one.size and not one.failing)
            if is_done and now - asked < BEAT_S:
                continue
            asked = now
            went_well = await self._ask(one)
            pause = RETRY_S[0] if went_well else min(pause * 2, RETRY_S[1])

    def _wanted(self, now: float) -> Published | None:
        """What to cosign: the newest, but no other before this one has its quorum or took TARGET_S."""
        target = self._target
        if target is None or self._has_quorum(target) or now - self._target_since > TARGET_S:
            newest = self._log.signed()
            if newest is not None and (target is None or newest.size != target.size):
                self._target, self._target_since = newest, now
        return self._target

    def _has_quorum(self, signed: Published) -> bool:
        return self._published is not None and self._published.size >= signed.size

    async def _ask(self, one: _Standing) -> bool:
        signed = self._wanted(asyncio.get_running_loop().time())
        if signed is None:
            return True
        try:
            signed, made = await self._cosigned(one, signed)
            await self._log.keep(signed.size, made)
        except Contradicted as other:
            await self._doubt(one, str(other))
        except (NotCosigned, Problem) as bad:
            self._failed(one, str(bad))
        else:
            one.at, one.size, one.failing, one.doubt = float(made.at), signed.size, "", ""
            self._metrics.witness_asked(one.client.remote.name, "cosigned")
            await self._publish(signed)
        return not one.failing

    async def _cosigned(self, one: _Standing, signed: Published) -> tuple[Published, Cosigned]:
        """What is stored is compared, not what this broker signed last: another broker may have shown more.

        Raises NotCosigned, Contradicted, Problem.
        """
        for _ in range(AHEAD_TRIES):
            try:
                return signed, await one.client.cosign(signed)
            except Ahead as ahead:
                await self._log.sign()
                newest = self._log.signed()
                if newest is None or newest.size < ahead.size:
                    raise
                signed = newest
        raise NotCosigned("other brokers show it more all the time")

    async def _publish(self, signed: Published) -> None:
        """Never backwards; a later cosignature on the same checkpoint is shown too."""
        vkeys = [each.client.remote.verifier.vkey for each in self._all]
        async with self._reading:
            found = await asyncio.to_thread(self._log.source.newest_with, vkeys, self.quorum, signed.size)
        if found is not None and (self._published is None or found.size >= self._published.size):
            self._published = Published(*found)

    def _failed(self, one: _Standing, why: str) -> None:
        self._metrics.witness_asked(one.client.remote.name, "failed")
        if not one.failing:
            _log.warning("a witness does not cosign", witness=one.client.remote.name, why=why)
        one.failing = why

    async def _doubt(self, one: _Standing, why: str) -> None:
        self._metrics.witness_asked(one.client.remote.name, "contradicted")
        is_news, one.failing, one.doubt = not one.doubt, why, why
        if is_news:
            _log.error("a witness contradicts this ledger", witness=one.client.remote.name, why=why)
            if self.say is not None:
                with suppress(Problem):  # in doubt or full: metrics, readiness and the log have it
                    await self.say("witness.contradicted", {"witness": one.client.remote.name, "why": why})

    # --- what follows

    def published(self) -> Published | None:
        """The newest checkpoint with its quorum; without witnesses, the newest signed and anchored one."""
        return self._published if self._all else self._log.signed()

    def age(self) -> float:
        """Seconds since a quorum of witnesses last cosigned, by their times; 0 without witnesses.

        A log that was never cosigned counts from this start.
        """
        if not self._all:
            return 0.0
        with suppress(Unavailable):  # a clock in doubt refuses by itself
            self._now = self._clock.now()
        times = sorted((min(each.at, self._now) for each in self._all), reverse=True)
        return max(0.0, self._now - (times[self.quorum - 1] or self._began))

    def contradiction(self) -> str | None:
        """What a witness holds against this ledger, or None."""
        found = (f"{each.client.remote.name}: {each.doubt}" for each in self._all if each.doubt)
        return next(found, None)

    def doubts(self) -> list[str]:
        """What is wrong now, for readiness and doctor."""
        other, found = self.contradiction(), list[str]()
        if other is not None:
            found.append(f"witness {other}")
        if self.age() > self._settings.witness_alarm_s:
            found.append(f"no quorum of witnesses has cosigned for {self.age():.0f} s")
        return found

    def guard(self, verb: str) -> None:
        """Called before a verb that grants. Raises Unavailable(rule="witness").

        Contradicted: nothing is granted and nothing redeemed. Silent for longer than the bound: nothing new.
        """
        if self.contradiction() is not None:
            raise Unavailable(
                "unavailable",
                "a witness has seen another history of this ledger: it was set back or forked",
                rule=_RULE,
                who_can_change_it=_OPERATOR,
            )
        if verb in ("open", "reserve") and self.age() > self._settings.witness_refuse_after_s:
            raise Unavailable(
                "unavailable",
                "no witness has cosigned the ledger for too long",
                rule=_RULE,
                retry_after=30.0,
                who_can_change_it=_OPERATOR,
            )

    async def gauge(self) -> None:
        """Set the metrics."""
        published = self.published()
        self._metrics.witnessed(
            0 if published is None else published.size, self.age(), self.contradiction() is not None
        )
        for each in self._all:
            self._metrics.witness_heard(each.client.remote.name, good=not each.failing)

    def told(self) -> Sequence[dict[str, object]]:
        """Each witness, for /healthz and the operator."""
        return [
            {
                "name": each.client.remote.name,
                "url": each.client.remote.url,
                "cosigned": each.size,
                "at": each.at,
                "failing": each.failing or None,
                "doubt": each.doubt or None,
            }
            for each in self._all
        ]
