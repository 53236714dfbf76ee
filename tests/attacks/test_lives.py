"""Seconds count: what has run out opens nothing, and what ended unused gives its place back."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from tests.fakes.stage import LIMITS, Stage, redeemed, refused

from stepwrit.wire import LEEWAY_S

# short enough to tell the clocks apart, long enough for a busy machine; time is passed, not waited for
SHORT = LIMITS.replace("step_token: 60s", "step_token: 20s").replace("credential: 60s", "credential: 20s")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short_stage() -> AsyncGenerator[Stage]:
    async with Stage(
        limits=SHORT.replace("accepted: 15m", "accepted: 40s").replace("intent: 1h", "intent: 200s")
    ) as stage:
        yield stage


@pytest.fixture
def stage(short_stage: Stage) -> Stage:
    short_stage.forget_refusals()
    return short_stage


async def test_a_credential_is_dead_when_its_life_is_over_without_leeway(stage: Stage) -> None:
    quick, slow = await stage.held(), await stage.held()
    (await quick.redeem()).ok()
    stage.pass_time(20.5)
    refused(stage, await slow.redeem(), "expired")
    assert redeemed(stage, slow.txn) == 0


async def test_a_credential_that_ended_unused_gives_its_place_in_the_plan_back(stage: Stage) -> None:
    held = await stage.held()
    refused(stage, await held.ledger.credential(held.step), "plan")
    stage.pass_time(20.5)
    again = (await held.ledger.credential(held.step)).ok()
    (await held.bank.redeem(again["access_token"], held.ledger)).ok()
    refused(stage, await held.redeem(), "expired")
    assert redeemed(stage, held.txn) == 1


async def test_an_accepted_step_ends_by_its_clock_and_its_credential_with_it(stage: Stage) -> None:
    held = await stage.held()
    (await held.ledger.heartbeat(held.step)).ok()
    stage.pass_time(40.5)
    refused(stage, await held.redeem(), "expired")
    refused(stage, await held.ledger.credential(held.step), "expired")
    refused(stage, await held.ledger.heartbeat(held.step), "expired")
    refused(stage, await held.ledger.open_reply(held.step, "audit/record"), "expired")


async def test_a_step_token_that_ran_out_is_not_accepted_and_a_fresh_one_is(stage: Stage) -> None:
    opened, ledger = await stage.opened(), await stage.actor("mcp-server/ledger")
    (await ledger.accept(await stage.opened())).ok()
    stage.pass_time(20 + LEEWAY_S + 1.5)
    refused(stage, await ledger.accept(opened), "expired")
    fresh = (await opened.by.token(opened.step)).ok()
    from dataclasses import replace

    (await ledger.accept(replace(opened, token=fresh["token"]))).ok()


async def test_an_intent_that_ran_out_opens_nothing_and_its_steps_end_with_it(stage: Stage) -> None:
    chat, root = await stage.actor("agent/chat"), await stage.root()
    opened = await chat.open(root["step"])
    stage.pass_time(200.5)
    refused(stage, await chat.open_reply(root["step"]), "expired")
    refused(stage, await chat.token(opened.step), "expired")
    refused(stage, await (await stage.actor("mcp-server/ledger")).accept(opened), "expired")
