"""What is kept of rehearsals beside the store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.wiring.rehearsing import FileKeeper


async def test_what_is_kept_is_there_again_and_private(tmp_path: Path) -> None:
    path = tmp_path / "rehearsal" / "shadow.json"
    keeper = FileKeeper(path)
    assert keeper.load() == {}
    await keeper.save({"doc": "ü"})
    await keeper.save({"doc": "ß"})
    assert FileKeeper(path).load() == {"doc": "ß"}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path.parent).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[1]", b"7"])
def test_what_cannot_be_read_is_none(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "impact.json"
    path.write_text("{}")
    assert FileKeeper(path).load() == {}
    path.write_bytes(text)
    assert FileKeeper(path).load() == {}


async def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(Unavailable) as no:
        await FileKeeper(blocked / "shadow.json").save({})
    assert no.value.rule == "rehearsal"
