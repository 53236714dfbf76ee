"""A server performs a tool of its own inside another: no way to a plan that the registry does not give it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest_asyncio
from tests.fakes.stage import ENTRIES, Stage, credential_form, refused

LOOKUP = {"method": "GET", "url": "https://bank.example/v1/accounts/7", "body": b""}
ALLOWED = {"tools": ["audit/*", "ledger/lookup"], "impact": "low"}


def _entries() -> list[dict[str, Any]]:
    """The ledger may start its own lookup, and nothing else of its own."""
    return [each | {"may_start": ALLOWED} if each["id"] == "mcp-server/ledger" else each for each in ENTRIES]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    async with Stage(entries=_entries()) as stage:
        yield stage


async def test_the_childs_plan_is_there_for_the_child_and_not_for_its_parent(stage: Stage) -> None:
    model, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    own = await ledger.open(model.step, "ledger/lookup")
    (await ledger.accept(own)).ok()
    (await ledger.form(credential_form(own.step, **LOOKUP))).ok()  # type: ignore[arg-type]
    refused(stage, await ledger.form(credential_form(model.step, **LOOKUP)), "plan")  # type: ignore[arg-type]


async def test_a_plan_that_may_start_does_not_give_cannot_be_reached(stage: Stage) -> None:
    model, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    (await ledger.open_reply(model.step, "ledger/lookup")).ok()
    for tool in ("ledger/transfer", "ledger/transfer_twice", "ledger/wipe", "ledger/note"):
        refused(stage, await ledger.open_reply(model.step, tool), "ceiling")


async def test_an_intent_that_does_not_reach_so_far_bounds_it_too(stage: Stage) -> None:
    from stepwrit.wire import CeilingSpec

    chat, ledger = await stage.actor("agent/chat"), await stage.actor("mcp-server/ledger")
    narrow = await chat.intent(ceiling=CeilingSpec(tools=("ledger/note",), impact="low"))
    held = await chat.open(narrow["step"], "ledger/note")
    (await ledger.accept(held)).ok()
    refused(stage, await ledger.open_reply(held.step, "ledger/lookup"), "ceiling")
    wide = await stage.accepted("ledger/note")
    (await ledger.open_reply(wide.step, "ledger/lookup")).ok()


async def test_below_the_child_the_way_goes_no_further(stage: Stage) -> None:
    model, ledger = await stage.accepted("ledger/note"), await stage.actor("mcp-server/ledger")
    own = await ledger.open(model.step, "ledger/lookup")
    (await ledger.accept(own)).ok()
    refused(stage, await ledger.open_reply(own.step, "ledger/transfer"), "ceiling")
    (await ledger.open_reply(own.step, "audit/record")).ok()
    (await ledger.close(own.step)).ok()
    late = await ledger.form(credential_form(own.step, **LOOKUP))  # type: ignore[arg-type]
    refused(stage, late, "already_done", "closed")
