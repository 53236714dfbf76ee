"""The checkpoint key's file: whole, private and never replaced."""

import os
from pathlib import Path

import pytest
from tests.ledger.helpers import ORIGIN, SEED

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.ledger.keys import create, load
from stepwrit_broker.ledger.notes import NoteRefused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.key"


def test_a_created_key_is_private_and_loads_again(path: Path):
    made = create(path, origin=ORIGIN, seed=SEED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path).verifier == made.verifier
    assert made.name == ORIGIN
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.key"]


def test_a_key_is_never_replaced(path: Path):
    create(path, origin=ORIGIN, seed=SEED)
    before = path.read_bytes()
    with pytest.raises(Conflict):
        create(path, origin=ORIGIN, seed=b"\x09" * 32)
    assert path.read_bytes() == before


def test_a_key_without_a_usable_origin_is_not_made(path: Path):
    with pytest.raises(NoteRefused):
        create(path, origin="two words", seed=SEED)
    assert not path.exists()
    with pytest.raises(Unavailable):
        create(path.parent / "no" / "such" / "folder", origin=ORIGIN, seed=SEED)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_reach_is_refused(path: Path, mode: int):
    create(path, origin=ORIGIN, seed=SEED)
    load(path)
    path.chmod(mode)
    with pytest.raises(Unavailable, match="0600"):
        load(path)


def test_a_key_of_another_user_says_whose_it_is(path: Path, monkeypatch: pytest.MonkeyPatch):
    me = os.geteuid()
    create(path, origin=ORIGIN, seed=SEED)
    load(path)
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(Unavailable, match=f"belongs to uid {me}: run this as that user"):
        load(path)


def test_a_link_or_a_folder_in_place_of_the_key_is_refused(path: Path):
    create(path, origin=ORIGIN, seed=SEED)
    link = path.with_name("link")
    link.symlink_to(path)
    for wrong in (link, path.parent, path.with_name("missing")):
        with pytest.raises(Unavailable):
            load(wrong)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-9], lambda b: b"", lambda b: b"\xff" + b, lambda b: b + b"x"]
)
def test_a_damaged_key_is_refused_without_showing_it(path: Path, change):
    create(path, origin=ORIGIN, seed=SEED)
    secret = path.read_text().rsplit("+", 1)[1].strip()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Unavailable) as caught:
        load(path)
    assert secret not in str(caught.value)
