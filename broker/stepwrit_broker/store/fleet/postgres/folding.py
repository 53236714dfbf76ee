"""A batch of works as what it comes to: each row written once, each version from where to where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwrit_broker.store.fleet.postgres.derived import AskedRow, Derived, derive, derive_approval
from stepwrit_broker.store.fleet.seams import (
    Change,
    Contradiction,
    Kept,
    Numbered,
    OpDone,
    Row,
    Said,
    Used,
    Work,
)

DIGEST_BYTES: Final = 16
_MARKED: Final = {"steps": "step", "grants": "grant", "txns": "txn"}
Batch = Sequence[tuple[Numbered, Work]]


@dataclass(slots=True)
class Fold:
    """versions: what each transaction is at before and after. rows: None for one that goes."""

    versions: dict[str, tuple[int, int]] = field(default_factory=dict)
    rows: dict[tuple[str, str], Row | None] = field(default_factory=dict)
    entries: list[Said] = field(default_factory=list)
    salts: list[tuple[str, bytes]] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    proofs: list[Used] = field(default_factory=list)
    ops: list[OpDone] = field(default_factory=list)
    uses: list[tuple[str, int, int]] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    at: float = 0.0

    def add(self, numbered: Numbered, work: Work) -> None:
        """The next one. Raises Contradiction for a version that does not follow."""
        for change in work.changes:
            self._change(change)
        self.entries += work.entries
        self.salts += work.salts
        self.kept += work.kept
        self.proofs += work.proofs
        self.ops += work.ops
        self.uses += [(grant, numbered.shard, numbered.seq) for grant in work.uses]
        self.erased += work.erased
        self.at = max(self.at, work.at)

    def _change(self, change: Change) -> None:
        first, now = self.versions.get(change.txn, (change.version, change.version))
        if change.version != now:
            raise Contradiction(f"version {change.version} of {change.txn} does not follow {now}")
        self.versions[change.txn] = (first, now + 1)
        for gone in change.drop:
            self.rows[change.txn, gone] = None
        for row in change.put:
            self.rows[change.txn, row.field] = row

    @property
    def puts(self) -> list[tuple[str, Row, Derived]]:
        """Rows to write, with what is looked for in them. Raises Garbled."""
        return [(txn, row, derive(row)) for (txn, _), row in self.rows.items() if row is not None]

    @property
    def drops(self) -> list[tuple[str, str]]:
        """Rows to take away."""
        return [name for name, row in self.rows.items() if row is None]

    @property
    def approvals(self) -> list[AskedRow]:
        """Those among the rows to write. Raises Garbled."""
        found = [derive_approval(row) for row in self.rows.values() if row is not None]
        return [each for each in found if each is not None]

    @property
    def approvals_gone(self) -> list[str]:
        """Ids of those among the rows that go."""
        return [each.partition(":")[2] for _, each in self.drops if each.startswith("approvals:")]

    @property
    def marks_gone(self) -> list[str]:
        """Targets of marks that say nothing any more: what they named goes."""
        named = [name.partition(":") for _, name in self.drops]
        return [f"{_MARKED[table]}:{key}" for table, _, key in named if table in _MARKED]

    @property
    def perhaps_empty(self) -> list[str]:
        """Transactions that nothing was put into."""
        put = {txn for (txn, _), row in self.rows.items() if row is not None}
        return [txn for txn in self.versions if txn not in put]


@dataclass(slots=True)
class Stretch:
    """What one shard brings: from which number, and the works' digests one after the other."""

    first: int
    last: int
    digests: bytearray = field(default_factory=bytearray)


def digest(numbered: Numbered) -> bytes:
    """A work's name by its bytes."""
    return hashlib.blake2b(numbered.work, digest_size=DIGEST_BYTES).digest()


def stretches(batch: Iterable[Numbered]) -> dict[int, Stretch]:
    """Per shard. Raises Contradiction where a batch has holes in itself."""
    found: dict[int, Stretch] = {}
    for each in batch:
        stretch = found.setdefault(each.shard, Stretch(each.seq, each.seq - 1))
        if each.seq != stretch.last + 1:
            raise Contradiction(f"number {each.seq} of shard {each.shard} does not follow {stretch.last}")
        stretch.last = each.seq
        stretch.digests += digest(each)
    return found


def check_follows(found: Mapping[int, Stretch], positions: Mapping[int, int]) -> None:
    """Raises Contradiction for a shard that does not go on from where it is, or that there is not."""
    for shard, stretch in found.items():
        at = positions.get(shard)
        if at is None:
            raise Contradiction(f"there is no shard {shard}")
        if stretch.first > at + 1:
            raise Contradiction(f"number {stretch.first} of shard {shard} does not follow {at}")
