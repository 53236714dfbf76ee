"""What of the log is shown to readers of C2SP tlog-tiles: nothing beyond the checkpoint that is published."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.tiles import Tile, bundle, parse_tile
from stepwrit_broker.ports_ledger import TileLog


class Tiles:
    """The static resources of one log."""

    def __init__(self, log: TileLog) -> None:
        self._log: Final = log

    def checkpoint(self) -> str | None:
        """The published checkpoint, or None before the first."""
        published = self._log.published()
        return None if published is None else published.note

    def find(self, name: str) -> Tile | None:
        """The tile of that name (`LEVEL/INDEX[.p/WIDTH]`), if the published tree has all of it; else None."""
        try:
            tile = parse_tile(name)
        except Malformed:
            return None
        published = self._log.published()
        return tile if published is not None and tile.is_in(published.size) else None

    def content(self, tile: Tile) -> bytes | None:
        """The bytes of a tile that was found; None for a bundle whose entries are only in an export now.

        Raises Unavailable when the log is not whole.
        """
        if tile.level is not None:
            return b"".join(self._log.hashes(tile.height, tile.first, tile.upto))
        bodies = self._log.bodies(tile.first, tile.upto)
        return None if bodies is None else bundle(bodies)
