"""One real broker per module; each test begins with fresh windows for recorded refusals."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.fakes.stage import ENTRIES, Stage
from tests.oauth.standard import BEARER_ENTRIES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The broker and its callers live on the module's event loop."""
    for item in items:
        if item.path.parent.name == "oauth" and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(entries=[*ENTRIES, *BEARER_ENTRIES]) as stage:
        yield stage


@pytest.fixture
def stage(broker_stage: Stage) -> Stage:
    broker_stage.forget_refusals()
    return broker_stage
