"""One broker behind each real proxy, per module."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.fakes.stage import Stage
from tests.live.proxy.real import Running, listening, proxy, start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They are live, and live on the module's event loop."""
    for item in items:
        if item.path.parent.name == "proxy" and item.path.parent.parent.name == "live":
            item.add_marker(pytest.mark.live)
            if inspect.iscoroutinefunction(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["haproxy", "nginx"])
async def behind(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Stage, Running]]:
    bound = listening()
    url = f"https://127.0.0.1:{bound.getsockname()[1]}"
    async with Stage(proxy=proxy(request.param), proxy_url=url) as stage:
        running = start(request.param, stage, bound)
        try:
            yield stage, running
        finally:
            await stage.hang_up()
            running.stop()


@pytest.fixture
def stage(behind: tuple[Stage, Running]) -> Stage:
    behind[0].forget_refusals()
    return behind[0]


@pytest.fixture
def running(behind: tuple[Stage, Running]) -> Running:
    return behind[1]
