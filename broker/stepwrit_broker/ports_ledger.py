"""The seams of the log: with its faces (tiles, witnesses), and with the store in whose transaction it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Contradiction(Exception):  # noqa: N818  a fact that ends an epoch
    """The stream says what the truth denies: a number twice or missing, a grant used twice. The epoch must
    end.
    """


class Said(NamedTuple):
    """One entry of the ledger."""

    body: bytes
    at: float
    kind: str
    txn: str | None
    ref: str | None
    tenant: str | None


class Kept(NamedTuple):
    """One decision document beside the log. name: the transaction, or the ref outside any."""

    digest: str
    name: str | None
    doc: bytes


class Published(NamedTuple):
    """The checkpoint that strangers are shown: a signed note, its cosignatures with it."""

    size: int
    note: str


class TileLog(Protocol):
    """Reads a log for `c2sp.org/tlog-tiles`. MUST be safe to call from several threads."""

    def published(self) -> Published | None:
        """The newest checkpoint that may be shown; None before the first.

        MUST be durable and anchored, MUST never go back, and MUST have its quorum of cosignatures where
        witnesses are configured.
        """
        ...

    def hashes(self, height: int, first: int, upto: int) -> Sequence[bytes]:
        """The hashes of the complete subtrees `first` up to `upto` of that height.

        height: 0 for leaves; a multiple of 8.
        MUST raise Unavailable when one is missing.
        """
        ...

    def bodies(self, first: int, upto: int) -> Sequence[bytes] | None:
        """The entries themselves; None when any of them is only in an export now."""
        ...


class Witnessed(NamedTuple):
    """The latest checkpoint that a witness cosigned of a log. at: seconds since the epoch."""

    size: int
    at: int
    note: str


class Witnesses(Protocol):
    """A witness, as its HTTP face needs it. MUST be safe to call from several threads."""

    def add_checkpoint(self, body: bytes) -> str:
        """The cosignature's line for a request of C2SP tlog-witness.

        MUST check against the latest and store the new one atomically, and MUST have it durable before it
        returns. MUST raise Declined for what it does not cosign, Unavailable while its state is in doubt.
        """
        ...

    def witnessed(self) -> Mapping[str, Witnessed | None]:
        """Each log that it knows, by origin."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseCommand:
    """Forget what stands beside the ledger under `name`: a transaction's id, or a ref outside any.

    txn, tenant: of the entries under it. now: seconds since the epoch.
    """

    name: str
    txn: str | None
    tenant: str | None
    reason: str
    by: str
    ref: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was forgotten; `ref` is that of the entry which says so."""

    ref: str
    documents: int


class Beside(NamedTuple):
    """What is kept beside the log under one name: whether its salt is, and how many documents."""

    is_salted: bool
    documents: int


class Eraser(Protocol):
    """Erases what is kept beside the log."""

    async def erase(self, command: EraseCommand) -> Erased:
        """Salt, documents and the entry `txn.erased` in one atomic, durable operation.

        MUST refuse with Refused(`wrong_state`) while a step of it has not ended, and with (`not_found`) when
        nothing is kept. MUST NOT change an entry or a hash.
        """
        ...
