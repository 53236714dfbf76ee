"""What the log's reading side asks a database: the rows of what is committed, and nothing else.

One protocol, because reading, proving, exporting and verifying are the same whatever keeps the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from stepwrit_broker.core.merkle import HASH_BYTES, GetNode, Node
from stepwrit_broker.ledger.report import Span

MAX_PAGE: Final = 1_000  # entries
T = TypeVar("T")
Subtree = tuple[int, int]
"""(level, index) of a complete subtree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry. at: seconds since the epoch. body: None once it lives in an export only.

    The tree commits to `body`; the other columns are for finding it.
    """

    seq: int
    at: float
    kind: str
    txn: str | None
    ref: str | None
    tenant: str | None
    leaf: bytes
    body: bytes | None


Row = tuple[int, float, str, str | None, str | None, str | None, bytes, bytes | None]


def entry_of(row: Row) -> Entry:
    """The entry in a row of these columns: seq, at, kind, txn, ref, tenant, leaf, body."""
    seq, at, kind, txn, ref, tenant, leaf, body = row
    return Entry(seq=seq, at=at, kind=kind, txn=txn, ref=ref, tenant=tenant, leaf=leaf, body=body)


class Noted(NamedTuple):
    """A signed checkpoint with the cosignatures that were kept: one text."""

    size: int
    note: str


class Document(NamedTuple):
    """A decision document beside the log, and its transaction's salt as long as it is kept."""

    digest: str
    name: str | None
    doc: bytes
    salt: bytes | None


class LogSource(Protocol):
    """A log's committed rows. MUST NOT be able to write. Raises Unavailable where it cannot be read."""

    def size(self) -> int:
        """How many entries are committed now."""
        ...

    def meta(self, name: str) -> str | None:
        """A named value of the log: `origin`, `dropped_below`."""
        ...

    def by_txn(self, txn: str) -> list[Entry]:
        """A transaction's entries, oldest first."""
        ...

    def by_ref(self, ref: str) -> list[Entry]:
        """Every tenant's entries under this ref, oldest first."""
        ...

    def after(
        self, seq: int, limit: int, kinds: Sequence[str] = (), tenant: str | None = None
    ) -> list[Entry]:
        """Entries with a higher number, oldest first; no kinds: all. tenant: only its own and nobody's."""
        ...

    def first_from(self, at: float) -> int | None:
        """The first entry that is not older than a time; where bodies go by the month, than its month."""
        ...

    def subtrees(self, wanted: Sequence[Subtree]) -> Sequence[bytes]:
        """Their hashes, in this order. Raises Unavailable for a hole."""
        ...

    def stored(self, height: int, first: int, upto: int) -> Sequence[bytes | None]:
        """As stored: leaves (height 0), or the tops of the tiles below."""
        ...

    def bodies(self, first: int, upto: int) -> Sequence[bytes | None]:
        """Of each entry that is there; None where only an export has it."""
        ...

    def checkpoint(self, *, at_least: int, quorum: int = 0) -> Noted | None:
        """The smallest one of this origin with that size or more, and with so many cosignatures."""
        ...

    def newest_checkpoint(self) -> Noted | None:
        """The largest one of this origin."""
        ...

    def newest_with(self, witnesses: Sequence[str], quorum: int, at_most: int) -> Noted | None:
        """The largest one up to a size that so many of these witnesses (vkeys) cosigned."""
        ...

    def cosigned_at(self, witness: str) -> int:
        """When this witness (vkey) cosigned last, seconds since the epoch; 0 for never."""
        ...

    def document(self, digest: str) -> Document | None:
        """The decision document under this salted digest."""
        ...

    def salt(self, txn: str) -> bytes | None:
        """A transaction's salt; None once erased."""
        ...

    def approvals(self, span: Span) -> Iterator[Document]:
        """The documents that the approvals among these entries name, in their order."""
        ...

    def every(self) -> Iterator[Entry]:
        """All entries, oldest first."""
        ...

    def nodes(self) -> Iterable[Node]:
        """All stored subtree hashes."""
        ...

    def checkpoints(self) -> Iterable[tuple[str, float]]:
        """All signed notes, smallest size first, and when (seconds since the epoch)."""
        ...

    def cosignatures(self) -> Iterable[tuple[str, str, int]]:
        """Note, cosignature line and size of each, smallest size first."""
        ...

    def still(self) -> AbstractContextManager[LogSource]:
        """The log as it is now, for as long as the context lasts, whatever is appended meanwhile."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


def needed(calculate: Callable[[GetNode], object]) -> list[Subtree]:
    """The subtrees whose hashes a calculation of `core.merkle` asks for: sizes alone decide that."""
    wanted: list[Subtree] = []

    def note(level: int, index: int) -> bytes:
        wanted.append((level, index))
        return bytes(HASH_BYTES)

    calculate(note)
    return wanted


def calculated(calculate: Callable[[GetNode], T], wanted: Sequence[Subtree], hashes: Sequence[bytes]) -> T:
    """The calculation with these hashes of what it needs."""
    found = dict(zip(wanted, hashes, strict=True))
    return calculate(lambda level, index: found[level, index])
