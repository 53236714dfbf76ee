"""One real broker per module, with Alice and Bob at work."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.conformance.authzen.scene import GATEWAY, AskedStage, Scene


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The broker and its callers live on the module's event loop."""
    for item in items:
        if item.path.parent.name == "authzen" and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


async def set_up(stage: AskedStage) -> Scene:
    scene = Scene(stage=stage, gateway=await stage.actor(GATEWAY))
    return replace(scene, roots={who: (await scene.root(who))["step"] for who in ("alice", "bob")})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked_scene() -> AsyncGenerator[Scene]:
    async with AskedStage() as stage:
        yield await set_up(stage)


@pytest_asyncio.fixture(loop_scope="module")
async def own() -> AsyncGenerator[Scene]:
    """A scene for one test alone, in which much time may pass."""
    async with AskedStage() as stage:
        yield await set_up(stage)


@pytest.fixture
def scene(asked_scene: Scene) -> Scene:
    asked_scene.stage.forget_refusals()
    asked_scene.stage.forget_questions()
    return asked_scene
