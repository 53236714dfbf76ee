"""A fleet's two engines in memory: they keep the seams' promises, and lose nothing they should not."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from stepwrit_broker.core.errors import Conflict, Refused
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.slices import Ask, Taken, give_back, take
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.ports_approval import Sought
from stepwrit_broker.store.fleet.seams import (
    Absent,
    Beside,
    Carried,
    Change,
    Claim,
    Contradiction,
    EpochOver,
    Kept,
    Numbered,
    Once,
    OpDone,
    RuleChange,
    Rules,
    Said,
    Snapshot,
    Stale,
    Standing,
    Told,
    Unchanged,
    Used,
    Work,
)
from stepwrit_broker.store.fleet.tables import shard_of_name

SLACK_S = 0.25


@dataclass
class Shard:
    """One shard of the swift engine."""

    seq: int = 0
    trimmed: int = 0
    high: float = 0.0
    rules: int = 0
    evictions: int = 0
    stream: list[bytes] = field(default_factory=list)
    txns: dict[str, Snapshot] = field(default_factory=dict)


class MemorySwift:
    """The `Swift` protocol. `fail` (to be set) is called with each method's name before it does anything."""

    def __init__(self, shards: int) -> None:
        self.epoch, self.order = "", 0
        self.past: set[str] = set()
        self.shards = [Shard() for _ in range(shards)]
        self.once: dict[bytes, Once] = {}
        self.places: dict[str, dict[str, float]] = {}
        self.tats: dict[str, float] = {}
        self.claimed_at = 0.0
        self.listeners: list[asyncio.Queue[Told]] = []
        self.wrote = asyncio.Event()

    def lose(self) -> None:
        """As after a fail-over to a server that has nothing."""
        fresh = MemorySwift(len(self.shards))
        self.epoch, self.order, self.shards = "", 0, fresh.shards
        self.once, self.places, self.tats = {}, {}, {}

    def _check(self, epoch: str) -> None:
        if epoch != self.epoch:
            raise EpochOver

    def _shard(self, txn: str) -> Shard:
        return self.shards[shard_of_name(txn, len(self.shards))]

    async def begin(self, epoch: str, order: int) -> None:
        await asyncio.sleep(0)
        if epoch in self.past or (epoch != self.epoch and order < self.order):
            raise EpochOver
        if epoch != self.epoch:
            over = self.epoch
            self.lose()
            self.past.add(over)
            self.epoch, self.order = epoch, order

    async def join(self, epoch: str) -> None:
        await asyncio.sleep(0)
        self._check(epoch)

    async def fetch(self, epoch: str, txn: str, known: int) -> Snapshot | Unchanged | Absent:
        await asyncio.sleep(0)
        self._check(epoch)
        shard = self._shard(txn)
        found = shard.txns.get(txn)
        if found is None:
            return Absent(evictions=shard.evictions)
        return Unchanged(seq=found.seq) if found.version == known else found

    async def hold(self, epoch: str, snapshot: Snapshot, evictions: int) -> None:
        await asyncio.sleep(0)
        self._check(epoch)
        shard = self._shard(snapshot.txn)
        if shard.evictions != evictions:
            raise Stale("held")
        shard.txns.setdefault(snapshot.txn, snapshot)

    async def commit(
        self,
        epoch: str,
        shard: int,
        changes: Sequence[Change],
        work: bytes,
        *,
        now: float,
        rules: int,
        seals: Sequence[bytes] = (),
    ) -> int:
        await asyncio.sleep(0)
        self._check(epoch)
        into = self.shards[shard]
        if rules < into.rules:
            raise Stale("rules")
        if now < into.high - SLACK_S:
            raise Stale("time", into.high)
        for change in changes:
            assert self._shard(change.txn) is into
            found = into.txns.get(change.txn)
            if (0 if found is None else found.version) != change.version:
                raise Stale("version")
        into.high = max(into.high, now)
        into.seq += 1
        into.stream.append(work)
        for change, seal in zip(changes, seals or [b""] * len(changes), strict=True):
            into.txns[change.txn] = _changed(into.txns.get(change.txn), change, into.seq, seal)
        self.wrote.set()
        return into.seq

    async def evict(self, epoch: str, txn: str, version: int) -> bool:
        await asyncio.sleep(0)
        self._check(epoch)
        shard = self._shard(txn)
        found = shard.txns.get(txn)
        if found is None or found.version != version:
            return False
        del shard.txns[txn]
        shard.evictions += 1
        return True

    async def claim(self, epoch: str, claims: Sequence[Claim], now: float) -> Sequence[str | None]:
        await asyncio.sleep(0)
        self._check(epoch)
        self.claimed_at = max(self.claimed_at, now)
        return [self._claim(each) for each in claims]

    def _claim(self, claim: Claim) -> str | None:
        if isinstance(claim, Once):
            found = self.once.get(claim.key)
            if found is None or found.until <= self.claimed_at:
                found = self.once[claim.key] = claim
            elif found.value == claim.value and claim.until > found.until:
                self.once[claim.key] = claim
            return found.value
        held = self.places.setdefault(claim.key, {})
        for member in [name for name, until in held.items() if until <= self.claimed_at]:
            del held[member]
        if claim.member not in held and len(held) >= claim.most:
            return None
        held[claim.member] = claim.until
        return claim.member

    async def release(self, epoch: str, claims: Sequence[Claim]) -> None:
        await asyncio.sleep(0)
        self._check(epoch)
        for claim in claims:
            if isinstance(claim, Once):
                found = self.once.get(claim.key)
                if found is not None and found.value == claim.value:
                    del self.once[claim.key]
            else:
                self.places.get(claim.key, {}).pop(claim.member, None)

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        await asyncio.sleep(0)
        self._check(epoch)
        taken = take(self.tats.get(key), ask)
        if taken.cells:
            self.tats[key] = taken.tat
        return taken

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        await asyncio.sleep(0)
        self._check(epoch)
        tat = give_back(self.tats.get(key), known, cells, interval)
        if tat is not None:
            self.tats[key] = tat

    async def rule(self, epoch: str, number: int) -> Mapping[int, int]:
        await asyncio.sleep(0)
        self._check(epoch)
        for shard in self.shards:
            shard.rules = max(shard.rules, number)
        return {number: shard.seq for number, shard in enumerate(self.shards)}

    async def read(self, epoch: str, after: Mapping[int, int], wait_s: float) -> Sequence[Numbered]:
        self._check(epoch)
        found = self._after(after)
        if not found:
            self.wrote.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self.wrote.wait()
            except TimeoutError:
                return []
            self._check(epoch)
            found = self._after(after)
        return found

    def _after(self, after: Mapping[int, int]) -> list[Numbered]:
        return [
            Numbered(number, seq, shard.stream[seq - shard.trimmed - 1])
            for number, shard in enumerate(self.shards)
            for seq in range(max(after.get(number, 0), shard.trimmed) + 1, shard.seq + 1)
        ]

    async def trim(self, epoch: str, upto: Mapping[int, int]) -> None:
        await asyncio.sleep(0)
        self._check(epoch)
        for number, seq in upto.items():
            shard = self.shards[number]
            if seq > shard.trimmed:
                del shard.stream[: seq - shard.trimmed]
                shard.trimmed = seq

    async def backlog(self, epoch: str, shard: int) -> int:
        self._check(epoch)
        return len(self.shards[shard].stream)

    async def tell(self, message: Told) -> None:
        for queue in self.listeners:
            queue.put_nowait(message)

    async def listen(self) -> AsyncIterator[Told]:
        queue: asyncio.Queue[Told] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)

    async def close(self) -> None:
        pass


def _changed(found: Snapshot | None, change: Change, seq: int, seal: bytes = b"") -> Snapshot:
    rows = {} if found is None else {row.field: row for row in found.rows}
    rows.update({row.field: row for row in change.put})
    for gone in change.drop:
        rows.pop(gone, None)
    return Snapshot(txn=change.txn, version=change.version + 1, seq=seq, rows=tuple(rows.values()), seal=seal)


class MemoryTruth:
    """The `Truth` protocol. An epoch counts as begun `ago_s` before the latest time: a test's clock stands
    still, and the rate limits of a new epoch are empty at first.
    """

    ago_s = 600.0

    def __init__(self, shards: int) -> None:
        self._standing = Standing(epoch="00" * 16, order=1, began_at=0.0, rules=0, shards=shards)
        self._positions: dict[int, int] = {}
        self._works: dict[tuple[int, int], bytes] = {}
        self._leader, self._leads_until = "", 0.0
        self._txns: dict[str, Snapshot] = {}
        self._whose: dict[str, str] = {}
        self._uses: set[str] = set()
        self._proofs: dict[bytes, float] = {}
        self._ops: dict[bytes, OpDone] = {}
        self._marks: dict[str, Mark] = {}
        self._unwalked: set[str] = set()
        self._versions: dict[tuple[str, int], StoredVersion] = {}
        self._pins: dict[bytes, tuple[str, float]] = {}
        self._outbox: list[Said] = []
        self._secret: bytes | None = None
        self.said: list[Said] = []
        self.kept: dict[str, Kept] = {}
        self.salts: dict[str, bytes | None] = {}  # None: erased
        self._erasures: list[str] = []

    def entries_said(self) -> list[Said]:
        """The ledger, with what waits to be appended."""
        return [*self.said, *self._outbox]

    def entries(self) -> list[dict[str, object]]:
        """Their bodies."""
        return [json.loads(each.body) for each in self.entries_said()]

    async def standing(self) -> Standing:
        await asyncio.sleep(0)
        return self._standing

    async def next_epoch(self, over: str, fresh: str) -> Standing:
        await asyncio.sleep(0)
        if self._standing.epoch == over:
            old = self._standing
            self._standing = replace(old, epoch=fresh, order=old.order + 1, began_at=old.high - self.ago_s)
            self._positions, self._works = {}, {}
        return self._standing

    async def positions(self, epoch: str) -> Mapping[int, int]:
        await asyncio.sleep(0)
        if epoch != self._standing.epoch:
            raise EpochOver
        return dict(self._positions)

    async def carried(self, epoch: str, asks: Mapping[int, int]) -> Sequence[tuple[int, Carried]]:
        await asyncio.sleep(0)
        return [
            (shard, Carried(seq, hashlib.blake2b(work, digest_size=16).digest()))
            for (shard, seq), work in sorted(self._works.items())
            if epoch == self._standing.epoch and seq >= asks.get(shard, seq + 1)
        ]

    async def transaction(self, txn: str) -> Snapshot | None:
        await asyncio.sleep(0)
        found = self._txns.get(txn)
        return None if found is None else replace(found, seq=0)

    async def whose(self, field: str) -> str | None:
        await asyncio.sleep(0)
        return self._whose.get(field)

    async def commit(self, epoch: str, batch: Sequence[tuple[Numbered, Work]]) -> None:
        await asyncio.sleep(0)
        if epoch != self._standing.epoch:
            raise EpochOver
        for numbered, work in batch:
            at = self._positions.get(numbered.shard, 0)
            if numbered.seq <= at and self._works.get(numbered[:2]) == numbered.work:
                continue  # told again
            if numbered.seq != at + 1:
                raise Contradiction(f"number {numbered.seq} does not follow {at}")
            self._works[numbered[:2]] = numbered.work
            self._positions[numbered.shard] = numbered.seq
            self._land(work)
            self._standing = replace(self._standing, high=max(self._standing.high, work.at))
        self.said += self._outbox
        self._outbox = []

    def _land(self, work: Work) -> None:
        for change in work.changes:
            found = self._txns.get(change.txn)
            if (0 if found is None else found.version) != change.version:
                raise Contradiction(f"version {change.version} of {change.txn} does not follow")
            self._txns[change.txn] = _changed(found, change, 0)
            self._whose.update({row.field: change.txn for row in change.put})
            for gone in change.drop:
                self._whose.pop(gone, None)
                table, _, key = gone.partition(":")
                target = f"{table.removesuffix('s')}:{key}"
                self._marks.pop(target, None)
                self._unwalked.discard(target)
        for grant in work.uses:
            if grant in self._uses:
                raise Contradiction(f"{grant} was used")
            self._uses.add(grant)
        for proof in work.proofs:
            if proof.key in self._proofs:
                raise Contradiction("a proof was used")
            self._proofs[proof.key] = proof.until
        for op in work.ops:
            if op.key in self._ops:
                raise Contradiction("an operation was done")
            self._ops[op.key] = op
        self.said += work.entries
        self._keep(work.kept, work.salts)
        for name in work.erased:
            self._erase(name)

    def _keep(self, kept: Sequence[Kept], salts: Sequence[tuple[str, bytes]]) -> None:
        for name, salt in salts:
            if self.salts.setdefault(name, salt) != salt:
                raise Contradiction(f"{name} has another salt, or an erased one")
        gone = {name for name, salt in self.salts.items() if salt is None}
        self.kept.update({each.digest: each for each in kept if each.name not in gone})

    def _erase(self, name: str) -> None:
        if name in self.salts:
            self.salts[name] = None
        for digest in [each.digest for each in self.kept.values() if each.name == name]:
            del self.kept[digest]
        self._erasures.append(name)
        self._standing = replace(self._standing, erased=len(self._erasures))

    async def beside(self, name: str) -> Beside:
        await asyncio.sleep(0)
        documents = sum(each.name == name for each in self.kept.values())
        return Beside(self.salts.get(name) is not None, documents)

    async def erased(self, after: int) -> Sequence[tuple[int, str]]:
        await asyncio.sleep(0)
        return list(enumerate(self._erasures, start=1))[after:]

    async def used(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        await asyncio.sleep(0)
        return frozenset(key for key in keys if key in self._proofs)

    async def operation(self, key: bytes) -> OpDone | None:
        await asyncio.sleep(0)
        return self._ops.get(key)

    async def rules(self) -> Rules:
        await asyncio.sleep(0)
        versions: dict[VersionKind, StoredVersion] = {}
        for each in sorted(self._versions.values(), key=lambda version: version.number):
            versions[each.kind] = each
        return Rules(
            number=self._standing.rules,
            marks=dict(self._marks),
            versions=versions,
            unwalked=tuple(self._unwalked),
        )

    async def rule(self, change: RuleChange) -> int:
        await asyncio.sleep(0)
        done = None if change.op is None else self._ops.get(change.op.key)
        if change.op is not None and done is not None:
            if done.digest != change.op.digest:
                raise Conflict("operation_reused", "this operation id was used for another request")
            return self._standing.rules
        if change.version is not None:
            last = max((n for kind, n in self._versions if kind == change.version.kind), default=0)
            if last != change.expected:
                raise Conflict("stale_version", f"version {last} is in force")
        for target in change.lift:
            if target not in self._marks or self._marks[target].verb != "freeze":
                raise Refused("not_found", "no freeze stands on that target")
        if any(proof.key in self._proofs for proof in change.proofs):
            raise Refused("replay", "this proof was used before")
        self._rule(change)
        return self._standing.rules

    def _rule(self, change: RuleChange) -> None:
        if change.version is not None:
            self._versions[change.version.kind, change.version.number] = change.version
        for target in change.lift:
            del self._marks[target]
        for mark in change.put:
            stands = self._marks.get(mark.target)
            if stands is None or stands.verb != "revoke" or mark.verb == "revoke":
                self._marks[mark.target] = mark
                self._unwalked.add(mark.target)
        if change.op is not None:
            self._ops[change.op.key] = change.op
        self._proofs.update({proof.key: proof.until for proof in change.proofs})
        self._outbox += change.said
        self.kept.update({each.digest: each for each in change.kept})
        self._standing = replace(self._standing, rules=self._standing.rules + 1)

    async def walked(self, targets: Sequence[str]) -> None:
        await asyncio.sleep(0)
        self._unwalked.difference_update(targets)

    async def version(self, kind: VersionKind, number: int) -> StoredVersion | None:
        return self._versions.get((kind, number))

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        return [each for (of, _), each in sorted(self._versions.items()) if of == kind]

    async def say(
        self, said: Sequence[Said], kept: Sequence[Kept], salts: Sequence[tuple[str, bytes]]
    ) -> None:
        await asyncio.sleep(0)
        self._keep(kept, salts)
        self._outbox += said

    async def pin(self, key: bytes, jkt: str, until: float, proofs: Sequence[Used]) -> str:
        await asyncio.sleep(0)
        stands, _ = self._pins.setdefault(key, (jkt, until))
        if stands == jkt:
            if any(proof.key in self._proofs for proof in proofs):
                raise Refused("replay", "this dpop proof was used before", rule="proof dpop")
            self._proofs.update({proof.key: proof.until for proof in proofs})
        return stands

    def _rows(self, table: str) -> list[tuple[str, list[Any]]]:
        return [
            (txn, msgspec.msgpack.decode(row.value))
            for txn, found in self._txns.items()
            for row in sorted(found.rows, key=lambda each: each.ord)
            if row.field.startswith(f"{table}:")
        ]

    async def due(self, now: float, limit: int, *, with_old: bool = True) -> Sequence[str]:
        await asyncio.sleep(0)
        epoch = self._standing.epoch
        steps = [(row[12], txn) for txn, row in self._rows("steps") if row[12] <= now]
        over = [
            (row[5], txn)
            for txn, row in self._rows("grants")
            if row[3] == "issued" and (row[5] <= now or (with_old and row[4] != epoch))
        ]
        return [*dict.fromkeys(txn for _, txn in sorted([*steps, *over]))][:limit]

    async def live(self, after: str, limit: int) -> Sequence[str]:
        await asyncio.sleep(0)
        return sorted({txn for txn, row in self._rows("steps") if row[11] == 0 and txn > after})[:limit]

    async def asked(
        self, who: str, tenant: str, initiator: str, tool: str, since: float
    ) -> tuple[int, int, float]:
        await asyncio.sleep(0)
        mine = theirs = 0
        denied = 0.0
        for _, row in self._rows("approvals"):
            _, _, _, of, requester, by_whom, what, state, by, _, ended, *_ = row
            if (requester, of) != (who, tenant):
                continue
            if state == "asked" or (state in ("cancelled", "expired") and not by and ended > since):
                mine, theirs = mine + 1, theirs + (by_whom == initiator)
            if state == "denied" and (by_whom, what) == (initiator, tool):
                denied = max(denied, ended)
        return mine, theirs, denied

    async def sought(self, sought: Sought) -> Sequence[str]:
        await asyncio.sleep(0)
        wanted = (
            sought.tenant, sought.state, sought.requester, sought.txn, sought.tool, sought.initiator,
        )  # fmt: skip
        rows = [
            (json.loads(row[11])[6], row[0])
            for _, row in self._rows("approvals")
            if all(
                w is None or w == has
                for w, has in zip(wanted, (row[3], row[7], row[4], row[2], row[6], row[5]), strict=True)
            )
        ]
        return [name for _, name in reversed(rows)][: sought.most]

    async def waiting(self) -> tuple[int, str | None]:
        await asyncio.sleep(0)
        rows = [row[0] for _, row in self._rows("approvals") if row[7] == "asked"]
        return len(rows), rows[0] if rows else None

    async def lead(self, me: str, for_s: float) -> bool:
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        if me != self._leader and now < self._leads_until:
            return False
        self._leader, self._leads_until = me, now + for_s
        return True

    async def leader(self) -> str:
        await asyncio.sleep(0)
        return self._leader if asyncio.get_running_loop().time() < self._leads_until else ""

    async def clock_offset(self) -> float:
        await asyncio.sleep(0)
        return 0.0

    async def secret(self, fresh: bytes) -> bytes:
        self._secret = self._secret or fresh
        return self._secret

    async def purge(self, now: float, limit: int) -> int:
        old = [key for key, until in self._proofs.items() if until < now][:limit]
        for key in old:
            del self._proofs[key]
        ended = [key for key, (_, until) in self._pins.items() if until < now][:limit]
        for key in ended:
            del self._pins[key]
        return len(old) + len(ended)

    async def close(self) -> None:
        pass
