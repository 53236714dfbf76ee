"""Tiles of a log, whatever keeps it: what is published, whole, and nothing beyond."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ledger.helpers import Ledger
from tests.rigs.ledgers import PgLedger, cluster, pg_ledger

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.merkle import leaf_hash, parse_checkpoint, root_of
from stepwrit_broker.core.tiles import Tile, parse_bundle, tiles_of
from stepwrit_broker.flows.tiles import Tiles
from stepwrit_broker.ledger.tiles import LogTiles
from stepwrit_broker.ports_ledger import Published

TESSERA = json.loads((Path(__file__).parents[1] / "vectors" / "tlog.json").read_text())["tessera"]

__all__ = ["cluster"]


class Shown:
    """A log that shows what was published last."""

    def __init__(self, ledger: Ledger | PgLedger) -> None:
        self.ledger = ledger
        self.published: Published | None = None
        self.log = LogTiles(ledger.reader().source, lambda: self.published)
        self.tiles = Tiles(self.log)

    def publish(self) -> None:
        signed = self.ledger.sign()
        self.published = Published(signed.checkpoint.size, signed.note)

    def content(self, name: str) -> bytes | None:
        tile = self.tiles.find(name)
        return None if tile is None else self.tiles.content(tile)

    def drop_body(self, upto: int) -> None:
        if isinstance(self.ledger, Ledger):
            self.ledger.conn.execute("UPDATE entries SET body = NULL WHERE seq < ?", (upto,))
        else:
            self.ledger.execute("DELETE FROM ledger_bodies WHERE seq < $1", upto)

    def hole(self, seq: int, node: int) -> None:
        if isinstance(self.ledger, Ledger):
            self.ledger.conn.execute("DELETE FROM entries WHERE seq = ?", (seq,))
            self.ledger.conn.execute("DELETE FROM nodes WHERE idx = ?", (node,))
        else:
            self.ledger.execute("DELETE FROM ledger_entries WHERE seq = $1", seq)
            self.ledger.execute("DELETE FROM ledger_nodes WHERE idx = $1", node)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.live)])
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shown]:
    if request.param == "sqlite":
        yield Shown(request.getfixturevalue("ledger"))
    else:
        with pg_ledger(request.getfixturevalue("cluster"), tmp_path) as ledger:
            yield Shown(ledger)


def test_a_reader_gets_the_root_back_from_tiles_alone(shown: Shown):
    shown.ledger.add(70_000)
    shown.publish()
    note = shown.tiles.checkpoint()
    assert note is not None
    checkpoint = parse_checkpoint(note.partition("\n\n")[0] + "\n")
    by_level: dict[int, list[bytes]] = {}
    for tile in tiles_of(checkpoint.size):
        content = shown.content(tile.path())
        assert content is not None
        assert len(content) == 32 * tile.width
        hashes = [content[at : at + 32] for at in range(0, len(content), 32)]
        by_level.setdefault(tile.level or 0, []).extend(hashes)
    for level, hashes in by_level.items():
        above = by_level.get(level + 1, [])
        full = [root_of(hashes[at : at + 256]) for at in range(0, len(hashes) - 255, 256)]
        assert full == above
    assert root_of(by_level[0]) == checkpoint.root
    bundle = shown.content("entries/x001/000.p/1")
    assert bundle is None, "entry 256000 is not there"
    entries = parse_bundle(shown.content("entries/273.p/112") or b"")
    assert [leaf_hash(each) for each in entries] == by_level[0][273 * 256 :]


def test_a_log_with_tesseras_entries_has_tesseras_tiles(shown: Shown):
    shown.ledger.add_bodies(each.encode() for each in TESSERA["entries"])
    shown.publish()
    for name, expected in {**TESSERA["tiles"], **TESSERA["bundles"]}.items():
        assert (shown.content(name) or b"").hex() == expected


def test_nothing_is_shown_before_it_is_published(shown: Shown):
    shown.ledger.add(10)
    assert (shown.tiles.checkpoint(), shown.tiles.find("0/000.p/1")) == (None, None)
    shown.ledger.sign()
    assert shown.tiles.find("0/000.p/1") is None, "signed, not published"
    shown.publish()
    assert shown.content("0/000.p/10") is not None
    shown.ledger.add(1)
    assert shown.tiles.find("0/000.p/11") is None
    assert shown.tiles.find("nonsense") is None


def test_a_tile_never_changes(shown: Shown):
    shown.ledger.add(200)
    shown.publish()
    before = {name: shown.content(name) for name in ("0/000.p/200", "0/000.p/7", "entries/000.p/200")}
    shown.ledger.add(400)
    shown.publish()
    assert {name: shown.content(name) for name in before} == before
    assert (shown.content("0/000") or b"")[: 200 * 32] == before["0/000.p/200"]


def test_entries_that_were_sealed_are_not_served_and_their_hashes_are(shown: Shown):
    shown.ledger.add(600)
    shown.publish()
    assert shown.content("entries/000") is not None
    shown.drop_body(10)
    assert shown.content("entries/000") is None
    assert shown.content("entries/001") is not None
    assert shown.content("0/000") is not None


def test_a_log_with_a_hole_serves_no_short_tile(shown: Shown):
    shown.ledger.add(600)
    shown.publish()
    assert shown.content("0/001") is not None
    shown.hole(300, 1)
    for name in ("0/001", "entries/001", "1/000.p/2"):
        with pytest.raises(Unavailable):
            shown.content(name)


def test_a_database_that_cannot_be_read_is_in_doubt(shown: Shown):
    shown.ledger.add(3)
    shown.publish()
    shown.log.close()
    with pytest.raises(Unavailable):
        shown.tiles.content(Tile(level=0, index=0, width=3))
