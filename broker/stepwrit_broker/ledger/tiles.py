"""Reading tiles out of the embedded log; see `ports_ledger.TileLog`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from stepwrit_broker.ledger.reader import open_reader
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ports_ledger import Published

_LEAVES: Final = "SELECT leaf FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"
_TOPS: Final = "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
_BODIES: Final = "SELECT body FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"


class SqliteTiles:
    """A connection of its own that cannot write. published: what may be shown now."""

    def __init__(self, path: Path, published: Callable[[], Published | None]) -> None:
        self._conn: Final[sqlite3.Connection] = open_reader(path)
        self._lock: Final = threading.Lock()
        self.published: Final = published

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._conn.close()

    def hashes(self, height: int, first: int, upto: int) -> Sequence[bytes]:
        """As stored: leaves, or the tops of the tiles below."""
        found = self._column(_TOPS, (height, first, upto)) if height else self._column(_LEAVES, (first, upto))
        return [_whole(each) for each in _complete(found, upto - first)]

    def bodies(self, first: int, upto: int) -> Sequence[bytes] | None:
        """None when one was sealed into an export."""
        found = _complete(self._column(_BODIES, (first, upto)), upto - first)
        return None if any(each is None for each in found) else [_whole(each) for each in found]

    def _column(self, query: str, values: tuple[int, ...]) -> list[bytes | None]:
        with self._lock:
            try:
                return [row[0] for row in self._conn.execute(query, values)]
            except (sqlite3.Error, OverflowError) as error:
                raise in_doubt("the log cannot be read") from error


def _complete(found: list[bytes | None], count: int) -> list[bytes | None]:
    if len(found) != count:
        raise in_doubt("the log has a hole")
    return found


def _whole(value: bytes | None) -> bytes:
    if value is None:
        raise in_doubt("the log has a hole")
    return value
