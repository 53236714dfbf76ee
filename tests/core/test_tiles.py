"""Names of tiles and bundles of entries, against C2SP tlog-tiles and a log that Tessera wrote."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.merkle import leaf_hash, parse_checkpoint, root_of
from stepwrit_broker.core.tiles import Tile, bundle, parse_bundle, parse_tile, tiles_of

TESSERA = json.loads((Path(__file__).parents[1] / "vectors" / "tlog.json").read_text())["tessera"]
ENTRIES = [each.encode() for each in TESSERA["entries"]]


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("0/000", Tile(level=0, index=0)),
        ("0/x001/x234/067", Tile(level=0, index=1_234_067)),
        ("63/255.p/1", Tile(level=63, index=255, width=1)),
        ("entries/x001/000.p/255", Tile(level=None, index=1000, width=255)),
        ("2/999", Tile(level=2, index=999)),
    ],
)
def test_a_tile_has_one_name(name: str, tile: Tile):
    assert (parse_tile(name), tile.path()) == (tile, name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "0/",
        "0/0",
        "0/0000",
        "0/001/002",
        "0/x001",
        "0/x000/001",
        "00/001",
        "64/000",
        "-1/000",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/000.p/",
        "0/000.p/1/",
        "0/000.p",
        "0/000\n",
        "0/٠٠٠",
        "entries",
        "Entries/000",
        "0/../0/000",
        "0/%30%30%30",
        "0/" + "x001/" * 6 + "001" + ".p/1" * 3,
    ],
)
def test_every_other_name_is_refused(name: str):
    parse_tile("0/000")
    with pytest.raises(Malformed):
        parse_tile(name)


@given(st.integers(0, 63), st.integers(0, 2**62), st.integers(1, 256), st.booleans())
def test_names_can_be_read_back(level: int, index: int, width: int, entries: bool):
    tile = Tile(level=None if entries else level, index=index, width=width)
    assert parse_tile(tile.path()) == tile


def test_the_tiles_of_the_specifications_example():
    tiles = tiles_of(70_000)
    assert len([each for each in tiles if each.level == 0]) == 274
    assert [(t.level, t.width) for t in tiles if t.width < 256] == [(0, 112), (1, 17), (2, 1)]
    assert [(t.level, t.index, t.width) for t in tiles_of(256)] == [(0, 0, 256), (1, 0, 1)]
    assert tiles_of(0) == []


@given(st.integers(0, 2**20))
def test_what_a_tree_has_is_in_it_and_one_more_is_not(size: int):
    for tile in tiles_of(size):
        assert tile.is_in(size)
        beyond = Tile(level=tile.level, index=tile.index, width=tile.width + 1)
        assert tile.width == 256 or not beyond.is_in(size)
    assert not Tile(level=0, index=size // 256, width=size % 256 + 1).is_in(size)


def test_a_tile_of_a_level_no_tree_has_is_in_none():
    assert Tile(level=0, index=0, width=1).is_in(2**63 - 1)
    assert not Tile(level=63, index=0, width=1).is_in(2**63 - 1)


def test_bundles_and_hash_tiles_are_those_of_tessera():
    for name, expected in TESSERA["bundles"].items():
        tile = parse_tile(name)
        assert bundle(ENTRIES[tile.first : tile.upto]).hex() == expected
        assert parse_bundle(bytes.fromhex(expected)) == ENTRIES[tile.first : tile.upto]
    for name, expected in TESSERA["tiles"].items():
        tile = parse_tile(name)
        assert b"".join(map(leaf_hash, ENTRIES[tile.first : tile.upto])).hex() == expected


def test_roots_are_those_that_tessera_signed():
    for size, note in TESSERA["checkpoints"].items():
        checkpoint = parse_checkpoint(note.partition("\n\n")[0] + "\n")
        assert (checkpoint.size, checkpoint.root) == (
            int(size),
            root_of(map(leaf_hash, ENTRIES[: int(size)])),
        )


def test_the_longest_entry_fits_a_bundle_and_a_longer_one_does_not():
    assert parse_bundle(bundle([b"x" * 65_535, b""])) == [b"x" * 65_535, b""]
    with pytest.raises(Malformed):
        bundle([b"x" * 65_536])


@pytest.mark.parametrize("cut", [b"\x00", b"\x00\x05four", b"\x00\x01a\x00"])
def test_a_bundle_that_ends_inside_an_entry_is_refused(cut: bytes):
    assert parse_bundle(b"\x00\x04four") == [b"four"]
    with pytest.raises(Malformed):
        parse_bundle(cut)
