"""The fleet's sweep: transaction by transaction, the same ends as the embedded store's."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from stepwrit_broker.core import marks
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.ports import Reaped
from stepwrit_broker.store import reaping
from stepwrit_broker.store.common import KEEP_S, step_subjects
from stepwrit_broker.store.ending import end
from stepwrit_broker.store.fleet.carrying import Carrier, Job
from stepwrit_broker.store.fleet.scratch import Scratch
from stepwrit_broker.store.fleet.seams import Truth
from stepwrit_broker.store.reading import find_grant, find_step

CHUNK: Final = 200
LATE_S: Final = 5.0
PURGE_CHUNK: Final = 2000  # rows of each kind, in one short transaction
PURGES_MAX: Final = 50
_DUE_GRANTS: Final = (
    "SELECT grants.id FROM grants JOIN steps ON steps.id = grants.step"
    " WHERE steps.txn = ? AND grants.state = 'issued' AND (grants.expires_at <= ? OR grants.epoch <> ?)"
)
_DUE_STEPS: Final = "SELECT id FROM steps WHERE txn = ? AND due <= ? ORDER BY due LIMIT ?"
_OLD_OP: Final = "DELETE FROM ops WHERE key = ? AND at < ?"
_LIVE_STEPS: Final = "SELECT id FROM steps WHERE txn = ? AND ended_at = 0 ORDER BY seq"
_LIVE_GRANTS: Final = (
    "SELECT grants.id FROM grants JOIN steps ON steps.id = grants.step"
    " WHERE steps.txn = ? AND grants.state = 'issued'"
)


class Sweeping:
    """Ends what ran out, and what revocations stop."""

    def __init__(
        self,
        scratch: Scratch,
        truth: Truth,
        carrier: Carrier,
        settled: Callable[[int], Awaitable[bool]],
    ) -> None:
        self._scratch, self._state = scratch, scratch.state
        self._truth, self._carrier, self._settled = truth, carrier, settled

    async def reap(self, now: float) -> Reaped:
        """All that is due, and all that is too old to matter."""
        swept = await self._due(now, now, with_old=True)
        return reaping.total(swept, Reaped(steps=0, grants=0, purged=await self._purge(now)))

    async def reap_late(self, now: float) -> Reaped:
        """What has been due for so long that whoever should have swept it does not: LATE_S."""
        swept = await self._due(now, now - LATE_S, with_old=False)
        return reaping.total(swept, await self.walk(now, before=now - LATE_S))

    async def _due(self, now: float, before: float, *, with_old: bool) -> Reaped:
        """Each transaction on its own, so that one in doubt holds up no other."""
        swept, seen = reaping.nothing(), set[str]()
        while True:
            found = await self._truth.due(before, CHUNK, with_old=with_old)
            due = [txn for txn in found if txn not in seen]
            if not due:
                return swept
            for txn in due:
                seen.add(txn)
                swept = reaping.total(swept, await self._all(txn, now))

    async def _purge(self, now: float) -> int:
        """Until nothing is left of what is too old, as far as one sweep may go."""
        gone = 0
        for _ in range(PURGES_MAX):
            one = await self._truth.purge(self._state.at(now), PURGE_CHUNK)
            gone += one
            if one < PURGE_CHUNK:  # no kind has more
                break
        return gone

    async def walk(self, now: float, *, before: float = math.inf) -> Reaped:
        """Follow new revocations down to all that they end; before: only those that were set by then. They
        stay new until all of it is ended: also what was decided before them and is only now on its way to the
        truth, or cannot be reached now.
        """
        swept = reaping.nothing()
        rules = await self._truth.rules()
        stops = [name for name in rules.unwalked if rules.marks[name].verb == "revoke"]
        targets = tuple(name for name in stops if rules.marks[name].at <= before)
        if not targets or not await self._settled(rules.number):
            return swept
        new, after, is_whole = {name: rules.marks[name] for name in targets}, "", True
        while True:
            txns = await self._truth.live(after, CHUNK)
            for txn in txns:
                one = await self._one(txn, partial(self._stop, txn, new, now))
                swept, is_whole = reaping.total(swept, one or reaping.nothing()), is_whole and one is not None
            if len(txns) < CHUNK:
                break
            after = txns[-1]
        if is_whole:
            await self._truth.walked(targets)
        return swept

    async def _all(self, txn: str, now: float) -> Reaped:
        """In small operations, so that a large transaction never stops the others."""
        swept, more = reaping.nothing(), True
        while more:
            one = await self._one(txn, partial(self._sweep, txn, now)) or reaping.nothing()
            swept, more = reaping.total(swept, one), one.steps > 0
        await self._carrier.drop_empty(txn)
        return swept

    async def _one(self, txn: str, run: Callable[[], Reaped]) -> Reaped | None:
        """None where nobody knows whether it was done."""
        try:
            return (await self._carrier.run(Job(txn), run)).answer
        except Unavailable:
            return None

    def _sweep(self, txn: str, now: float) -> Reaped:
        state = self._state
        at, swept = state.at(now), reaping.nothing()
        for (name,) in state.conn.execute(_DUE_GRANTS, (txn, at, state.epoch)).fetchall():
            row = find_grant(state, name)
            if row is not None and row.record.state == "issued":
                state.release(name)
                reaping.end_grant(state, row, _why(row.record.grant.epoch, state.epoch), at)
                swept = reaping.total(swept, Reaped(steps=0, grants=1, purged=0))
        found = [row[0] for row in state.conn.execute(_DUE_STEPS, (txn, at, CHUNK)).fetchall()]
        swept = reaping.total(swept, reaping.sweep_named(state, found, at))
        self._prune(txn, at)
        return swept

    def _prune(self, txn: str, at: float) -> None:
        """Answers that nobody repeats any more; with the transaction itself, all that is left of it."""
        state, held = self._state, self._scratch.held(txn)
        is_gone = state.conn.execute("SELECT 1 FROM txns WHERE txn = ?", (txn,)).fetchone() is None
        for each in () if held is None else tuple(held.fields):
            table, _, key = each.partition(":")
            if table == "ops" and not is_gone:
                state.conn.execute(_OLD_OP, (bytes.fromhex(key), at - KEEP_S))
            elif is_gone:
                state.copy.drop(each)

    def _stop(self, txn: str, new: dict[str, Mark], now: float) -> Reaped:
        state = self._state
        at, swept = state.at(now), reaping.nothing()
        for (name,) in state.conn.execute(_LIVE_STEPS, (txn,)).fetchall():
            found = find_step(state, name)
            stop = None if found is None else marks.standing(new, step_subjects(found[0]))
            if found is not None and stop is not None:
                _, grants = end(
                    state, found[0], found[1], "revoke", at, ref=stop.ref, facts={"mark": stop.target}
                )
                swept = reaping.total(swept, Reaped(steps=1, grants=grants, purged=0))
        for (name,) in state.conn.execute(_LIVE_GRANTS, (txn,)).fetchall():
            swept = reaping.total(swept, reaping.stop_grant(state, name, set(new), at))
        return swept


def _why(epoch: str, standing: str) -> str:
    return "epoch" if epoch != standing else "time"
