from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.queues.world import World, check_tools


@pytest.fixture
def world() -> Iterator[World]:
    check_tools()
    folder = Path(tempfile.mkdtemp(prefix="sw-q-", dir="/tmp"))
    made = World(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
