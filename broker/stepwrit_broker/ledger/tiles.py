"""Reading tiles out of a log; see `ports_ledger.TileLog`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.source import LogSource
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader
from stepwrit_broker.ports_ledger import Published


class LogTiles:
    """The tiles of a source. published: what may be shown now."""

    def __init__(self, source: LogSource, published: Callable[[], Published | None]) -> None:
        self._source: Final = source
        self.published: Final = published

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def hashes(self, height: int, first: int, upto: int) -> Sequence[bytes]:
        """As stored: leaves, or the tops of the tiles below."""
        return [_whole(each) for each in _complete(self._source.stored(height, first, upto), upto - first)]

    def bodies(self, first: int, upto: int) -> Sequence[bytes] | None:
        """None when one was sealed into an export."""
        found = _complete(self._source.bodies(first, upto), upto - first)
        return None if any(each is None for each in found) else [_whole(each) for each in found]


class SqliteTiles(LogTiles):
    """Those of the database at `path`, by a connection of its own that cannot write."""

    def __init__(self, path: Path, published: Callable[[], Published | None]) -> None:
        super().__init__(SqliteSource(open_reader(path)), published)


def _complete(found: Sequence[bytes | None], count: int) -> Sequence[bytes | None]:
    if len(found) != count:
        raise in_doubt("the log has a hole")
    return found


def _whole(value: bytes | None) -> bytes:
    if value is None:
        raise in_doubt("the log has a hole")
    return value
