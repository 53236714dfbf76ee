"""The seam between the log's faces and whoever keeps the log: tiles and witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


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
