"""Where a tiled log keeps what: tile names, and how entries are bundled. No I/O.

Source: C2SP tlog-tiles. A tile is up to 256 consecutive hashes of one level; a bundle is the entries under
a tile of level 0. What has a size below 256 is partial and says so in its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.merkle import TILE_LEVELS

WIDTH: Final = 1 << TILE_LEVELS
MAX_LEVEL: Final = 63
MAX_ENTRY_BYTES: Final = 65_535
_LONGEST: Final = 64  # characters; an index of 63 bits takes 7 path elements
_TILE: Final = re.compile(
    r"(?P<level>0|[1-9][0-9]?|entries)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Hashes `first` up to `upto` of a level that divides by 8, or the entries of that range.

    level: of the tile, so the hashes stand for subtrees of 256 ** level leaves; None: a bundle of entries.
    """

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def first(self) -> int:
        """The number of its first hash in the level, or of its first entry."""
        return self.index * WIDTH

    @property
    def upto(self) -> int:
        """One more than the number of its last."""
        return self.first + self.width

    @property
    def height(self) -> int:
        """The tree level of its hashes: 0 for leaves."""
        return TILE_LEVELS * (self.level or 0)

    def is_in(self, size: int) -> bool:
        """Whether a tree of `size` leaves has all of it."""
        return self.upto <= size >> self.height

    def path(self) -> str:
        """Its name below `<prefix>/tile/`."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        level = "entries" if self.level is None else str(self.level)
        return f"{level}/{name}" + ("" if self.width == WIDTH else f".p/{self.width}")


def parse_tile(unverified: str) -> Tile:
    """The tile of this name (what follows `<prefix>/tile/`); Malformed for every other text.

    Each tile has one name: no leading zeros beyond the format's, no full tile written as a partial one.
    """
    found = _TILE.fullmatch(unverified) if len(unverified) <= _LONGEST else None
    if found is None:
        _refuse()
    level, index, width = found["level"], found["index"].replace("x", "").replace("/", ""), found["width"]
    tile = Tile(
        level=None if level == "entries" else int(level),
        index=int(index),
        width=WIDTH if width is None else int(width),
    )
    if (tile.level or 0) > MAX_LEVEL or tile.path() != unverified:
        _refuse()
    return tile


def tiles_of(size: int) -> list[Tile]:
    """All hash tiles of a tree with so many leaves, by level, then index; a partial one ends its level."""
    tiles: list[Tile] = []
    level = 0
    while hashes := size >> (TILE_LEVELS * level):
        tiles += [Tile(level=level, index=index) for index in range(hashes // WIDTH)]
        if hashes % WIDTH:
            tiles.append(Tile(level=level, index=hashes // WIDTH, width=hashes % WIDTH))
        level += 1
    return tiles


def bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as one resource: each after its length in two bytes, big-endian. Malformed for a longer one."""
    if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise Malformed("invalid_request", f"an entry of a bundle has at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_bundle(unverified: bytes) -> list[bytes]:
    """The entries in a bundle; Malformed when it ends inside one."""
    entries: list[bytes] = []
    at = 0
    while at < len(unverified):
        end = at + 2 + int.from_bytes(unverified[at : at + 2], "big")
        if at + 2 > len(unverified) or end > len(unverified):
            raise Malformed("invalid_request", "the bundle ends inside an entry")
        entries.append(unverified[at + 2 : end])
        at = end
    return entries


def _refuse() -> NoReturn:
    raise Malformed("invalid_request", "not the name of a tile (c2sp.org/tlog-tiles)")
