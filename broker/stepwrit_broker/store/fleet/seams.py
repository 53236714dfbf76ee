"""Between the fleet's store and its two engines: the swift one (Redis) and the true one (PostgreSQL).

How an operation goes (docs/explanation/fleet-store.md):

    1 plan     the broker has a copy of the transaction's rows and runs the store's verb on it: what is
               refused ends here and has changed nothing
    2 claim    what is wider than a transaction: proofs used once, shares of limits, operation ids of roots
    3 commit   ONE script in ONE slot of the swift engine: epoch, reign, rules and the transaction's version
               must be what the plan was made on; then the stream entry, then the rows
    4 truth    the sequencer commits the stream, in its order, to the true engine: rows, uses under a unique
               grant id, proofs, entries, the head of the log by compare-and-set
    5 answer   only once 4 has happened

The swift engine decides the order and may lose anything: what is not in the true engine was never
acknowledged. The true engine checks the order (contiguous numbers of one epoch) and what may be once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.slices import Ask, Taken
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.ports_approval import Sought
from stepwrit_broker.ports_ledger import Beside as Beside  # noqa: PLC0414  given on
from stepwrit_broker.ports_ledger import Contradiction as Contradiction  # noqa: PLC0414  given on
from stepwrit_broker.ports_ledger import Kept as Kept  # noqa: PLC0414  given on
from stepwrit_broker.ports_ledger import Said as Said  # noqa: PLC0414  given on

SHARDS_MAX = 256


class EpochOver(Exception):  # noqa: N818  a fact, not a fault
    """Another epoch stands, or the engine under it is another than the one it began on: begin anew."""


class Stale(Exception):  # noqa: N818
    """What the plan was made on has moved: `version`, `rules`, `time` or `held` (evicted meanwhile)."""

    def __init__(self, what: str, high: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.high = what, high


class Row(NamedTuple):
    """One row of a transaction. field: `table:key`. ord: rows sort by it as they were first put."""

    field: str
    ord: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All rows of a transaction at one version. version: from 1; seq: number of its last write in its
    shard's stream of this epoch, 0 where that was in an earlier epoch. seal: as it was given with it.
    """

    txn: str
    version: int
    seq: int
    rows: tuple[Row, ...] = field(repr=False)
    seal: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The swift engine does not hold the transaction. evictions: to be given back to `hold`."""

    evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The version that the caller knows is the one that stands. seq: as in Snapshot."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a plan makes of one transaction. version: what it was made on, 0 for a new one; it becomes
    version + 1.
    """

    txn: str
    version: int
    put: tuple[Row, ...] = field(repr=False)
    drop: tuple[str, ...] = ()


class Used(NamedTuple):
    """A proof that is used up. key: 16 bytes. until: seconds since the epoch."""

    key: bytes
    until: float


class OpDone(NamedTuple):
    """The answer to an operation whose transaction nobody can tell from its request: a root's.

    key: 16 bytes. answer: the step's id.
    """

    key: bytes
    digest: str
    answer: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything of one operation, as the stream carries it. uses: ids of grants that it spends."""

    at: float
    changes: tuple[Change, ...] = field(repr=False)
    entries: tuple[Said, ...] = field(default=(), repr=False)
    salts: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    kept: tuple[Kept, ...] = field(default=(), repr=False)
    proofs: tuple[Used, ...] = ()
    ops: tuple[OpDone, ...] = ()
    uses: tuple[str, ...] = ()
    ended: tuple[tuple[str, str, str, str], ...] = ()
    """Steps that ended under those who run them: step, performer, state, ref."""
    erased: tuple[str, ...] = ()
    """Names whose salt and documents beside the log go for ever: transactions, or refs outside any."""


class Numbered(NamedTuple):
    """One work in its place. seq: from 1, contiguous in its shard and epoch."""

    shard: int
    seq: int
    work: bytes


WORK_DIGEST_BYTES = 16


class Carried(NamedTuple):
    """Works of one shard that the truth has, one after the other. digests: BLAKE2b of each work, 16 bytes."""

    first: int
    digests: bytes

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + len(self.digests) // WORK_DIGEST_BYTES - 1

    def works(self) -> Iterator[tuple[int, bytes]]:
        """Each number with its digest."""
        for at in range(len(self.digests) // WORK_DIGEST_BYTES):
            yield self.first + at, self.digests[at * WORK_DIGEST_BYTES : (at + 1) * WORK_DIGEST_BYTES]


class Once(NamedTuple):
    """The first value under this key stands until then. key: 16 bytes."""

    key: bytes
    value: str
    until: float


class Place(NamedTuple):
    """One of `most` places under this key, taken by `member` until then: concurrency, approvals asked."""

    key: str
    member: str
    most: int
    until: float


Claim = Once | Place


class Told(NamedTuple):
    """A message of one broker to all: `durable` (epoch, shard -> seq), `rules` (number), `epoch`, `ended`,
    `erased`.
    """

    kind: str
    body: bytes


class Swift(Protocol):
    """The swift engine. Each method that changes something MUST be one script per slot, and MUST raise
    EpochOver where the epoch given is not the one begun on this very server's reign, before it changed
    anything. No command is ever sent twice by itself. Connection trouble: Unavailable(rule="store"); what was
    sent may have landed.
    """

    async def begin(self, epoch: str, order: int) -> None:
        """Let the epoch stand in every shard, on the reign that each server has now, with nothing in it.

        order: its place among all epochs, as `Standing.order`. Called once for an epoch, by who made it in
        the truth; MUST be idempotent on one reign all the same. MUST raise EpochOver, and change nothing, in
        a shard that has an epoch of a later place, or one that began after this one.
        """
        ...

    async def join(self, epoch: str) -> None:
        """See that the epoch stands in every shard, where it is now. MUST NOT begin it. Raises EpochOver."""
        ...

    async def fetch(self, epoch: str, txn: str, known: int) -> Snapshot | Unchanged | Absent:
        """The transaction as it stands; `known`: the version that the caller has, 0 for none."""
        ...

    async def hold(self, epoch: str, snapshot: Snapshot, evictions: int) -> None:
        """Hold what the truth has. MUST NOT replace what is held. Raises Stale(`held`) when anything of the
        shard was evicted since `Absent` said `evictions`.
        """
        ...

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
        """All changes are of one shard; the work's number. Checks first, then the stream, then the rows.

        seals: one for each change, to be given back with the rows; none where nothing is sealed.

        Raises Stale(`version` | `rules`), and Stale(`time`) with the shard's high-water time when `now` is
        before it by more than a quarter of a second. The high-water time never goes back.
        """
        ...

    async def evict(self, epoch: str, txn: str, version: int) -> bool:
        """Hold it no longer, if this is still its version. Only for what the truth has."""
        ...

    async def claim(self, epoch: str, claims: Sequence[Claim], now: float) -> Sequence[str | None]:
        """For each Once the value that stands, for each Place its member, or None when it is full.

        Each is atomic; together they are not: `release` what a refused operation took. Nothing is forgotten
        before `until` by the latest `now` that any caller gave.
        """
        ...

    async def release(self, epoch: str, claims: Sequence[Claim]) -> None:
        """Give back what stands with this very value or member."""
        ...

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        """Cells of the rate limit's bucket `key`: `core.slices.take` on the TAT that is stored.

        One script. The clock is the caller's (`ask.now`); there is no high-water time here. A TAT is kept
        until a minute after it has passed.
        """
        ...

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        """`core.slices.give_back`: cells that were taken and will never be used, where that still counts."""
        ...

    async def rule(self, epoch: str, number: int) -> Mapping[int, int]:
        """When this returns, no shard takes a commit whose `rules` is lower. MUST NOT go back.

        The number of each shard's last work at the moment from which it takes none.
        """
        ...

    async def read(self, epoch: str, after: Mapping[int, int], wait_s: float) -> Sequence[Numbered]:
        """What the streams have after these numbers, each shard's in order; waits for the first."""
        ...

    async def trim(self, epoch: str, upto: Mapping[int, int]) -> None:
        """Forget the streams up to these numbers; the truth has them."""
        ...

    async def backlog(self, epoch: str, shard: int) -> int:
        """How many works of a shard's stream are not trimmed."""
        ...

    async def tell(self, message: Told) -> None:
        """To every broker that listens now; at most once, and never needed for correctness."""
        ...

    def listen(self) -> AsyncIterator[Told]:
        """What is told from now on; ends when the connection does."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands for the whole fleet. epoch: 32 hex digits; order: how many epochs there were. began_at:
    by the true engine's clock. rules: counts changes of marks and versions. high: the latest time (`Work.at`)
    that any committed work went by. erased: counts what was erased.
    """

    epoch: str
    order: int
    began_at: float
    rules: int
    shards: int
    high: float = 0.0
    erased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All marks and versions in force, as of `number`."""

    number: int
    marks: Mapping[str, Mark]
    versions: Mapping[VersionKind, StoredVersion]
    unwalked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """Marks to put and take away, at most one version, and what the ledger says of it. expected: the number
    of the version that it replaces. op: as in OpDone, where an operation repeats it.
    """

    put: tuple[Mark, ...] = ()
    lift: tuple[str, ...] = ()
    version: StoredVersion | None = None
    expected: int | None = None
    op: OpDone | None = None
    proofs: tuple[Used, ...] = ()
    said: tuple[Said, ...] = ()
    kept: tuple[Kept, ...] = ()


class Truth(Protocol):
    """The true engine. Whatever returns has been committed to stable storage. Every change of what a fleet
    shares checks the epoch in its own transaction and raises EpochOver. Trouble: Unavailable(rule="store").
    """

    async def standing(self) -> Standing:
        """What stands now."""
        ...

    async def next_epoch(self, over: str, fresh: str) -> Standing:
        """Compare and set: `fresh` follows `over`, if that still stands. What stands afterwards."""
        ...

    async def positions(self, epoch: str) -> Mapping[int, int]:
        """The last number of each shard that is committed in this epoch (0 for none)."""
        ...

    async def carried(self, epoch: str, asks: Mapping[int, int]) -> Sequence[tuple[int, Carried]]:
        """Works of these shards from these numbers on, as far as they are committed in this epoch and still
        known (an hour at least); not all at once where they are many.
        """
        ...

    async def transaction(self, txn: str) -> Snapshot | None:
        """Its rows; seq is 0. One without rows is still there, with its version."""
        ...

    async def whose(self, field: str) -> str | None:
        """The transaction that has this row, by its field (`steps:stp_1…`, `grants:…`, `approvals:…`)."""
        ...

    async def asked(
        self, who: str, tenant: str, initiator: str, tool: str, since: float
    ) -> tuple[int, int, float]:
        """What stands against one more approval, as `store/state.py` WAITING and DENIED count it: of this
        requester, of them by this initiator, and when the last denial was (0: never).
        """
        ...

    async def commit(self, epoch: str, batch: Sequence[tuple[Numbered, Work]]) -> None:
        """All or nothing, in order. Raises EpochOver, and Contradiction for a number that does not follow, a
        version that does not follow, a grant, a proof or a root's operation that was used.

        A number that is committed with this very work is nothing more; with another it is a Contradiction.
        What was said outside the streams is appended with it, also with an empty batch.
        """
        ...

    async def used(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Which proofs are used up."""
        ...

    async def operation(self, key: bytes) -> OpDone | None:
        """The answer to a root's operation, or a rule's."""
        ...

    async def rules(self) -> Rules:
        """What is in force."""
        ...

    async def rule(self, change: RuleChange) -> int:
        """Commit it; the new number. Needs no epoch: it works while the swift engine is down.

        Raises Conflict(`stale_version`) when another version than `expected` is in force,
        Refused(`not_found`) for a freeze to lift that does not stand, Refused(`replay`) for a used proof.
        """
        ...

    async def walked(self, targets: Sequence[str]) -> None:
        """These revocations have been followed down."""
        ...

    async def version(self, kind: VersionKind, number: int) -> StoredVersion | None:
        """One version."""
        ...

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """All versions, oldest first."""
        ...

    async def say(
        self, said: Sequence[Said], kept: Sequence[Kept], salts: Sequence[tuple[str, bytes]]
    ) -> None:
        """Entries outside any operation, for the sequencer to append."""
        ...

    async def pin(self, key: bytes, jkt: str, until: float, proofs: Sequence[Used]) -> str:
        """The key thumbprint that stands for this bearer document; the proofs are used up with it, each once
        (Refused `replay`), unless another stands.
        """
        ...

    async def sought(self, sought: Sought) -> Sequence[str]:
        """Ids of the approvals that fit, the newest first, `sought.most` at most; None fits all."""
        ...

    async def waiting(self) -> tuple[int, str | None]:
        """How many approvals are `asked`, and the id of the oldest of them."""
        ...

    async def lead(self, me: str, for_s: float) -> bool:
        """Whether this broker is to carry the streams for so long, by this engine's clock: nobody else is, or
        the other's time is over. For liveness alone.
        """
        ...

    async def leader(self) -> str:
        """Who carries the streams now; empty where nobody does, or no longer."""
        ...

    async def clock_offset(self) -> float:
        """This engine's clock minus ours, in seconds."""
        ...

    async def due(self, now: float, limit: int, *, with_old: bool = True) -> Sequence[str]:
        """Transactions that have a step or credential to be looked at by then, longest due first. An
        outstanding credential of another epoch is due at once, unless with_old is False.
        """
        ...

    async def live(self, after: str, limit: int) -> Sequence[str]:
        """Transactions with a step that has not ended, in the order of their ids."""
        ...

    async def beside(self, name: str) -> Beside:
        """What is kept beside the log under a transaction's id, or under a ref outside any."""
        ...

    async def erased(self, after: int) -> Sequence[tuple[int, str]]:
        """What was erased since `Standing.erased` was this, in order: the number and the name of each."""
        ...

    async def secret(self, fresh: bytes) -> bytes:
        """The fleet's own secret (32 bytes): `fresh` at first."""
        ...

    async def purge(self, now: float, limit: int) -> int:
        """Forget what is too old to matter: proofs, pins, operations, and what is there to find a second use;
        `limit` of each kind at most. How many.
        """
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
