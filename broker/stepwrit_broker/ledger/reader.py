"""The log's reading side: entries, proofs and checkpoints out of whatever keeps the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stepwrit_broker.core.merkle import GetNode, ProofRefused, consistency_proof, inclusion_proof, root_at
from stepwrit_broker.ledger.source import MAX_PAGE, Entry, LogSource, calculated, needed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """Entry `seq` is in the tree of `size` leaves with this root, as the path shows."""

    seq: int
    size: int
    leaf: bytes
    path: tuple[bytes, ...]
    root: bytes


class LogReader:
    """Questions about committed entries. As many threads may ask as the source allows."""

    def __init__(self, source: LogSource) -> None:
        self.source = source

    @property
    def size(self) -> int:
        """How many entries are committed now."""
        return self.source.size()

    def entry(self, seq: int) -> Entry | None:
        """The entry with this number, or None."""
        found = self.source.after(seq - 1, 1)
        return found[0] if found and found[0].seq == seq else None

    def entries_of(self, txn: str) -> list[Entry]:
        """A transaction's entries, oldest first."""
        return self.source.by_txn(txn)

    def by_ref(self, ref: str, tenant: str | None) -> list[Entry]:
        """A tenant's entries under this ref; another tenant's ref looks like one that does not exist."""
        return [each for each in self.source.by_ref(ref) if each.tenant == tenant]

    def by_any_ref(self, ref: str) -> list[Entry]:
        """Every tenant's entries under this ref: for who may see them all."""
        return self.source.by_ref(ref)

    def tail(
        self, after: int, limit: int = MAX_PAGE, kinds: Sequence[str] = (), tenant: str | None = None
    ) -> list[Entry]:
        """Entries with a number above `after` (-1: from the start), oldest first; no kinds: all kinds.

        tenant: only its own entries and those of no tenant; None: all.
        """
        return self.source.after(after, max(0, min(limit, MAX_PAGE)), kinds, tenant)

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` entries; ProofRefused when there are not that many."""
        self._check(size)
        return self.calculated(lambda get: root_at(size, get))

    def inclusion(self, seq: int, size: int) -> Inclusion:
        """The proof that entry `seq` is in the tree of `size`; ProofRefused when it is not."""
        self._check(size)

        def prove(get: GetNode) -> tuple[list[bytes], bytes, bytes]:
            return inclusion_proof(seq, size, get), get(0, seq), root_at(size, get)

        path, leaf, root = self.calculated(prove)
        return Inclusion(seq=seq, size=size, leaf=leaf, path=tuple(path), root=root)

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the tree of `second` extends that of `first`; ProofRefused when there is none."""
        self._check(second)
        return tuple(self.calculated(lambda get: consistency_proof(first, second, get)))

    def checkpoint(self, *, at_least: int = 0) -> str | None:
        """The smallest signed checkpoint of this origin with that size or more; None when there is none.

        With the cosignatures that were kept, as `newest_checkpoint` has them.
        """
        found = self.source.checkpoint(at_least=at_least)
        return None if found is None else found.note

    def cosigned_checkpoint(self, *, at_least: int, quorum: int) -> str | None:
        """As `checkpoint`, but one with so many cosignatures; None when there is none (yet)."""
        found = self.source.checkpoint(at_least=at_least, quorum=quorum)
        return None if found is None else found.note

    def newest_checkpoint(self) -> str | None:
        """The newest signed checkpoint of this origin; None before the first."""
        found = self.source.newest_checkpoint()
        return None if found is None else found.note

    def calculated(self, calculate: Callable[[GetNode], T]) -> T:
        """A calculation of `core.merkle`, with all hashes that it needs read together."""
        wanted = needed(calculate)
        return calculated(calculate, wanted, self.source.subtrees(wanted))

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ProofRefused("invalid_proof", "the log has no such size")
