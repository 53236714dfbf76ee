"""Over real sockets: the feed of revocations, and a guard that cuts a stream by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest
import pytest_asyncio
from tests.fakes.feed import Door, client, events, first
from tests.fakes.stage import BANK, Stage, spiffe

from stepwrit.errors import RefusedError
from stepwrit.wire_feed import FeedEnded, FeedHello, FeedMark, target_digest

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOOR = f"resource:{BANK}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as stage:
        yield stage


@pytest.mark.parametrize("path", ["resource/bank/1", "mcp-server/ledger"])
async def test_a_freeze_and_its_end_are_heard_by_name_and_digest(stage: Stage, path: str) -> None:
    with anyio.fail_after(60):
        async with client(stage, path) as broker, aclosing(events(broker)) as told:
            hello = await anext(told)
            assert isinstance(hello, FeedHello)
            assert hello.heartbeat_s == 5
            for verb in ("freeze", "unfreeze"):
                (await stage.mark(verb, DOOR)).ok()
                heard = await anext(told)
                assert isinstance(heard, FeedMark)
                assert (heard.verb, heard.target, heard.digest) == (verb, DOOR, target_digest(DOOR))
                assert heard.ref


async def test_an_agent_may_not_follow(stage: Stage) -> None:
    async with client(stage, "agent/chat") as broker:
        with pytest.raises(RefusedError) as no:
            await first(broker, lambda _: True)
    assert no.value.code == "wrong_workload"
    assert stage.on_record(no.value.ref or "")


@pytest.mark.parametrize("query", ["since=x", "since=-1", "since=1&since=2", "after=1", "since="])
async def test_a_query_of_no_meaning_is_refused(stage: Stage, query: str) -> None:
    bank = await stage.actor("resource/bank/1")
    reply = await bank.send("GET", f"/v1/revocations/feed?{query}", b"", {})
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_who_comes_back_is_told_what_was_set_meanwhile_and_stands(stage: Stage) -> None:
    before = stage.now()
    (await stage.mark("freeze", "tool:ledger/note")).ok()
    (await stage.mark("freeze", "tool:ledger/transfer")).ok()
    (await stage.mark("unfreeze", "tool:ledger/transfer")).ok()
    with anyio.fail_after(60):
        async with client(stage) as broker, aclosing(events(broker, before - 1)) as told:
            assert isinstance(await anext(told), FeedHello)
            heard = await anext(told)
            assert isinstance(heard, FeedMark)
            assert (heard.n, heard.verb, heard.target) == (1, "freeze", "tool:ledger/note")
            (await stage.mark("unfreeze", "tool:ledger/note")).ok()
            heard = await anext(told)
            assert isinstance(heard, FeedMark)
            assert (heard.n, heard.verb) == (2, "unfreeze")


async def test_a_revoked_transaction_is_heard_and_so_is_the_end_of_its_step(stage: Stage) -> None:
    held = await stage.accepted()
    digest = target_digest(f"step:{held.step}")
    with anyio.fail_after(60):
        async with client(stage) as broker, aclosing(events(broker)) as told:
            assert isinstance(await anext(told), FeedHello)
            (await stage.mark("revoke", f"txn:{held.txn}")).ok()
            mark = await anext(told)
            assert isinstance(mark, FeedMark)
            assert (mark.verb, mark.digest) == ("revoke", target_digest(f"txn:{held.txn}"))
            async for each in told:
                if isinstance(each, FeedEnded) and each.digest == digest:
                    assert each.state == "revoked"
                    break


async def test_a_guard_cuts_the_stream_of_a_revoked_step_and_no_other(stage: Stage) -> None:
    async with client(stage) as broker:
        doomed, spared = Door(broker), Door(broker)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                held = await stage.held()
                group.start_soon(doomed.ask, held)
                group.start_soon(spared.ask, await stage.held())
                await doomed.app.streaming.wait()
                await spared.app.streaming.wait()
                (await stage.mark("revoke", f"txn:{held.txn}")).ok()  # before anybody listens
                while not doomed.app.cut:
                    await anyio.sleep(0.01)
                spared.app.end.set()
    assert (doomed.body, spared.body) == (b"one", b"onetwo")


async def test_an_answer_is_left_alone_where_nobody_asked_for_that(stage: Stage) -> None:
    async with client(stage) as broker:
        door = Door(broker, follow=False)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                held = await stage.held()
                group.start_soon(door.ask, held)
                await door.app.streaming.wait()
                (await stage.mark("revoke", f"txn:{held.txn}")).ok()
                door.app.end.set()
    assert door.body == b"onetwo"


async def test_one_workload_cannot_hold_every_place(stage: Stage) -> None:
    room = stage.broker.housed.newsroom
    me = spiffe("resource/bank/1")
    from stepwrit_broker.core.workload import SpiffeId
    from stepwrit_broker.wiring import feeding

    before = room.followers
    held = [room.follow(SpiffeId(me), None) for _ in range(feeding.EACH_MAX)]
    async with client(stage) as broker, client(stage, "mcp-server/ledger") as other:
        with pytest.raises(RefusedError) as no:
            await first(broker, lambda _: True)
        assert no.value.code == "slow_down"
        assert isinstance(await first(other, lambda _: True), FeedHello)
        for each in held:
            each.close()
        assert isinstance(await first(broker, lambda _: True), FeedHello)
    with anyio.fail_after(60):
        while room.followers > before:
            await asyncio.sleep(0.01)


async def test_a_broker_that_ends_says_so(stage: Stage) -> None:
    with anyio.fail_after(60):
        async with client(stage) as broker, aclosing(events(broker)) as told:
            assert isinstance(await anext(told), FeedHello)
            stage.broker.housed.newsroom.close()
            assert [each async for each in told] == []
    await stage.restart()
