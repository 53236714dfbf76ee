"""Refusals are hops too: each gets a ref and an entry; beyond a per-caller rate one entry counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stepwrit_broker.core import ids
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.ports import Clock, Entropy, Evidence, Happening, Store

PER_CALLER = 60
PER_PATTERN = 600
PER_S = 60.0
COUNT_EVERY_S = 10.0
CALLERS_MAX = 4096

Heard = Callable[[str, str, str, str, str], None]  # verb, code, rule, tool, ref


@dataclass(slots=True)
class _Tally:
    """One caller's window: entries written since `began`, and refusals only counted since then, by code."""

    began: float
    written: int = 0
    counted: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class CappedRecorder:
    """Entries within a rate per caller; beyond it one entry counts them. counted: the kind of that entry."""

    store: Store
    clock: Clock
    entropy: Entropy
    counted: str
    _tallies: dict[str, _Tally] = field(default_factory=dict)

    def may_write(self, caller: Caller, code: str, now: float) -> bool:
        """Within the rate of the caller, and of all below its entry if that is a pattern: IDs are free."""
        return self._may_write(caller.workload.id, caller.entry.id, code, now)

    def _may_write(self, me: str, entry: str, code: str, now: float) -> bool:
        shared, own = self._tally(entry, now), self._tally(me, now)
        full = _full(shared, PER_CALLER if me == entry else PER_PATTERN) or _full(own, PER_CALLER)
        if full is not None:
            full.counted[code] = full.counted.get(code, 0) + 1
            return False
        own.written += 1
        shared.written += shared is not own
        return True

    def _tally(self, who: str, now: float) -> _Tally:
        """The caller's, as the last that would go."""
        tally = self._tallies.pop(who, None) or _Tally(began=now)
        if len(self._tallies) >= CALLERS_MAX:
            self._tallies.pop(next(iter(self._tallies)))
        self._tallies[who] = tally
        return tally

    async def flush(self, now: float) -> int:
        """Write what was only counted, one entry per caller, and start new windows; how many were written.

        Raises Unavailable; what was not written is kept and counted on.
        """
        written = 0
        for who, tally in list(self._tallies.items()):
            if tally.counted:
                await self._write(who, tally, now)
                written += 1
            if now - tally.began >= PER_S and not tally.counted:
                self._tallies.pop(who, None)
        return written

    async def _write(self, who: str, tally: _Tally, now: float) -> None:
        """What is counted while the entry is being written belongs to the next one."""
        told = dict(tally.counted)
        ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
        await self.store.record(_counted(self.counted, ref, who, tally.began, told, now))
        left = {code: count - told.get(code, 0) for code, count in tally.counted.items()}
        tally.counted = {code: count for code, count in left.items() if count}


@dataclass(slots=True, kw_only=True)
class RefusalRecorder(CappedRecorder):
    """The one place that records refusals of attested callers. Recording never fails the refusal itself."""

    heard: Heard
    counted: str = "refused.counted"

    async def note(self, problem: Problem, caller: Caller, verb: str, about: Mapping[str, object]) -> None:
        """Give the problem a ref, count it, and record it within the caller's rate."""
        if problem.ref is None:
            problem.ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
        self.heard(verb, problem.code, problem.rule or "", str(about.get("tool", "")), problem.ref)
        try:
            now = self.clock.now()
            if self.may_write(caller, problem.code, now):
                told = await self._placed(caller, about)
                await self.store.record(_refused(problem, caller, verb, told, now))
        except Problem:
            return  # in doubt, or an entry that cannot be written: the caller hears of the first problem

    async def note_person(self, problem: Problem, person: str, verb: str, approval: str) -> None:
        """The same of somebody who is signed in. person: their opaque id. approval: as they named it, if
        that is a name: the ledger keeps no text of theirs.
        """
        if problem.ref is None:
            problem.ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
        self.heard(verb, problem.code, problem.rule or "", "", problem.ref)
        try:
            now = self.clock.now()
            if self._may_write(person, person, problem.code, now):
                named = approval if ids.is_id("apr", approval) else ""
                await self.store.record(_refused_person(problem, person, verb, named, now))
        except Problem:
            return  # as above

    async def _placed(self, caller: Caller, about: Mapping[str, object]) -> Mapping[str, object]:
        """A try on somebody's step belongs to that transaction's story, whatever the caller was told."""
        step = about.get("step")
        if "txn" in about or not isinstance(step, str) or not ids.is_id("stp", step):
            return about
        record = await self.store.step(step)
        if record is None or record.step.tenant != caller.entry.tenant:
            return about
        return {**about, "txn": record.step.txn}


def _full(tally: _Tally, most: int) -> _Tally | None:
    return tally if tally.written >= most else None


def _refused(
    problem: Problem, caller: Caller, verb: str, about: Mapping[str, object], now: float
) -> Happening:
    facts: dict[str, object] = {
        "verb": verb,
        "code": problem.code,
        "reason": problem.reason,
        "rule": problem.rule,
        "caller": caller.workload.id,
        "role": caller.entry.role,
        "svid": caller.workload.serial,
        "attested_by": caller.workload.attested_by,
        **({} if caller.workload.via is None else {"via": caller.workload.via}),
        **about,
    }
    txn = about.get("txn")
    return Happening(
        kind="refused",
        ref=problem.ref or "",
        tenant=caller.entry.tenant,
        txn=txn if isinstance(txn, str) else None,
        evidence=Evidence(facts=facts, decision=problem.decision),
        now=now,
    )


def _refused_person(problem: Problem, person: str, verb: str, approval: str, now: float) -> Happening:
    facts: dict[str, object] = {
        "verb": verb,
        "code": problem.code,
        "reason": problem.reason,
        "rule": problem.rule,
        "caller": person,
        "role": "person",
        "approval": approval,
    }
    evidence = Evidence(facts=facts)
    return Happening(kind="refused", ref=problem.ref or "", tenant=None, txn=None, evidence=evidence, now=now)


def _counted(kind: str, ref: str, who: str, began: float, counted: dict[str, int], now: float) -> Happening:
    facts = {"caller": who, "since": round(began, 3), "counted": counted}
    return Happening(kind=kind, ref=ref, tenant=None, txn=None, evidence=Evidence(facts=facts), now=now)
