from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.flows.rig import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    one = Rig(tmp_path / "store.db")
    yield one
    await one.close()
