"""What a broker stands on: its store, its ledger and the log's duties. Embedded in this process, or shared by
the brokers of a fleet: the rest of the wiring knows no difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stepwrit_broker.core import ids
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.ports import Clock, Entropy, Evidence, Happening, LedgerView, Reaped, Store
from stepwrit_broker.ports_approval import ApprovalStore
from stepwrit_broker.ports_ended import Tell
from stepwrit_broker.ports_fleet import KeyBoard
from stepwrit_broker.ports_ledger import Eraser, TileLog
from stepwrit_broker.store.disk import Headroom


class BrokerStore(Store, Protocol):
    """The store as the wiring needs it, beyond what the verbs call."""

    @property
    def approvals(self) -> ApprovalStore:
        """Approvals and those who give them, in the same store."""
        ...

    @property
    def shards(self) -> int:
        """Over how many shards transactions are spread."""
        ...

    @property
    def high_water(self) -> float:
        """The latest time any operation went by, seconds since the epoch."""
        ...

    @property
    def owed(self) -> int:
        """Marks in force on this broker only, because their commit failed."""
        ...

    @property
    def knows_marks(self) -> bool:
        """Whether `marks` is what stands; False while that cannot be told."""
        ...

    @property
    def queued(self) -> int:
        """Operations that wait to be committed."""
        ...

    def use(self, limits: Limits, bundles: Callable[[], int]) -> None:
        """Hand over compiled limits, best before their version is applied; `bundles`: their generation."""
        ...

    def set_guard(self, guard: Callable[[str], None]) -> None:
        """Called with the verb before `open`, `accept`, `resume`, `reserve` and `redeem`; what it raises
        refuses them.
        """
        ...

    def headroom(self) -> Headroom:
        """Bytes used, free and in the ledger."""
        ...

    def outstanding(self) -> Mapping[str, int]:
        """The concurrency counters; a live view."""
        ...

    async def walk(self, now: float) -> Reaped:
        """Follow new revocations down to all that they end."""
        ...


class Backing(Protocol):
    """A broker's store and ledger, and who looks after them. Nothing of it is there before `open`."""

    @property
    def store(self) -> BrokerStore:
        """Where everything stands."""
        ...

    @property
    def ledger(self) -> LedgerView:
        """Reads what is committed."""
        ...

    @property
    def tiles(self) -> TileLog:
        """The log, for strangers."""
        ...

    @property
    def say(self) -> Recorder:
        """Puts what the broker itself did into the ledger."""
        ...

    @property
    def eraser(self) -> Eraser:
        """Erases what is kept beside the log."""
        ...

    @property
    def board(self) -> KeyBoard | None:
        """Where brokers state their keys; None for a broker that stands alone."""
        ...

    @property
    def secret(self) -> bytes:
        """32 bytes that all brokers on this backing share, and nobody else: never shown."""
        ...

    @property
    def vkey(self) -> str:
        """The public key that the log's verifiers need."""
        ...

    async def open(self) -> None:
        """Nothing is served before this returns. What it opened ends with the broker's stack.

        Raises Unavailable for what must not be served from.
        """
        ...

    def heed(self, *, ended: Tell, marked: Callable[[], None], ruled: Callable[[], None]) -> None:
        """ended: is told of steps that end under those who run them. marked: of a revocation to be followed:
        `walk` does. ruled: that marks or versions have changed, whoever changed them; MUST NOT wait.
        """
        ...

    def catch_up(self, load: Callable[[], Awaitable[None]]) -> None:
        """load: compiles the versions in force, where another broker was first to apply them."""
        ...

    async def reap(self, now: float) -> Reaped:
        """Sweep what is this broker's to sweep."""
        ...

    async def sign(self) -> str:
        """Sign what is committed, durable when this returns; the note."""
        ...

    async def checkpoint(self) -> None:
        """Sign what is committed, if there is anything: the recurring work."""
        ...

    async def seal(self, path: str, ref: str, before: float | None) -> dict[str, object]:
        """Export everything signed, or only what is older than `before`, and drop the bodies. Raises
        Conflict.
        """
        ...

    async def gauge(self) -> None:
        """Set the metrics."""
        ...

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """Workers; each runs until cancelled."""
        ...

    def not_ready(self) -> str | None:
        """Why no broker may serve from it, or None. A dependency in doubt is none: that is `doubts`."""
        ...

    def doubts(self) -> list[str]:
        """What is wrong now, for readiness and doctor."""
        ...

    def health(self) -> dict[str, object]:
        """How it is, for `/healthz?verbose=true`."""
        ...

    def witnesses(self) -> dict[str, object]:
        """Who was asked to cosign, and what they doubt."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Puts what the broker itself did into the ledger."""

    store: Store
    clock: Clock
    entropy: Entropy

    async def __call__(self, kind: str, facts: dict[str, object]) -> None:
        """One entry of this kind."""
        ref = ids.make_ref(self.entropy.bytes(ids.REF_BYTES))
        evidence = Evidence(facts=facts)
        await self.store.record(
            Happening(kind=kind, ref=ref, tenant=None, txn=None, evidence=evidence, now=self.clock.now())
        )
