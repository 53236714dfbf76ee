"""One store on a real file, with all that a fault test wants to turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.store.opened import Opened


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    one = Opened(tmp_path / "store.db")
    yield one
    await one.store.close()
