"""One broker and one Chromium for each module of browser tests."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.browser.person import Chromium, Person
from tests.cli.conftest import free_port
from tests.fakes.approver import ApprovalStage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need a browser, and live on their module's event loop."""
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.live)
            if inspect.iscoroutinefunction(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncGenerator[ApprovalStage]:
    """A passkey needs a host name; `localhost` is one."""
    async with ApprovalStage(issuer=f"https://localhost:{free_port()}") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncGenerator[Chromium]:
    async with Chromium() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def alice(stage: ApprovalStage, chromium: Chromium) -> AsyncGenerator[Person]:
    """With a passkey that counts, signed in."""
    async with chromium.person(stage) as made:
        await made.enrol("alice")
        await made.sign_in()
        yield made
