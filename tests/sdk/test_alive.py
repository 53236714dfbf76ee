"""A running tool hears within moments that others ended its step; a short call costs no request for it."""

from __future__ import annotations

import threading

import anyio
import pytest
from mcp_types import CallToolResult
from tests.sdk.test_client_fakes import SERVER, refused, verb_of
from tests.sdk.test_mcp_rig import ERAS, SDKS, Rig, text_of

from stepwrit.flow import Request, Response
from stepwrit.lineage import current_step
from stepwrit.wire import META_REFUSAL

pytestmark = [pytest.mark.parametrize("era", ERAS), pytest.mark.parametrize("sdk", SDKS)]


def listening(sdk: str) -> Rig:
    """A rig whose steps listen as soon as they run, and whose client has listened before."""
    rig = Rig(sdk=sdk)
    rig.broker.alive.listen_after_s = 0.0
    rig.broker.alive._after = "0"
    return rig


async def until(said: anyio.Event) -> None:
    with anyio.fail_after(10):
        await said.wait()


async def test_the_body_is_cancelled_and_the_caller_is_told_why(sdk: str, era: str) -> None:
    rig, began, stopped = listening(sdk), anyio.Event(), anyio.Event()
    results: list[CallToolResult] = []

    @rig.server.tool()
    async def long() -> str:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        return "never"

    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await client.call_tool("long"))

        group.start_soon(call)
        await until(began)
        rig.fake.end("long", "revoked")
        await until(stopped)

    assert text_of(results[0]) == "refused: revoked. ref REFstp_3"
    assert results[0].meta is not None
    assert results[0].meta[META_REFUSAL]["reason"].startswith("the step was ended while the tool ran")
    assert "heartbeat" not in rig.fake.verbs()
    assert rig.fake.verbs().count("close") == 1  # the intent's: nobody closes what has ended


async def test_one_request_is_held_for_all_running_steps(sdk: str, era: str) -> None:
    rig, inside, everyone = listening(sdk), 0, anyio.Event()

    @rig.server.tool()
    async def long(n: int) -> str:
        nonlocal inside
        inside += 1
        if inside == 64:
            everyone.set()
        await anyio.sleep_forever()
        return str(n)

    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:
        for n in range(64):
            group.start_soon(client.call_tool, "long", {"n": n})
        await until(everyone)
        for row in rig.fake.of("long"):
            rig.fake.ends.append((row.id, "cancelled"))
        rig.fake.news.set()

    assert rig.fake.verbs().count("ended") <= 4
    assert "heartbeat" not in rig.fake.verbs()


async def test_where_something_may_be_missing_every_running_step_beats_at_once(sdk: str, era: str) -> None:
    rig, began = listening(sdk), anyio.Event()

    @rig.server.tool()
    async def long() -> str:
        began.set()
        await anyio.sleep_forever()
        return "never"

    rig.broker.alive._after = None
    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "long")
        await until(began)
        with anyio.fail_after(10):
            while "heartbeat" not in rig.fake.verbs():
                await anyio.sleep(0)
        rig.fake.end("long", "revoked")

    assert rig.fake.verbs().count("heartbeat") == 1
    assert rig.fake.told == 1


async def test_the_heartbeat_that_follows_a_gap_ends_what_has_ended(sdk: str, era: str) -> None:
    rig, began = listening(sdk), anyio.Event()

    @rig.server.tool()
    async def long() -> str:
        began.set()
        rig.fake.of("long")[0].state = "revoked"
        await anyio.sleep_forever()
        return "never"

    rig.fake.forgets = True
    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("long")).startswith("refused: revoked.")

    assert rig.fake.told == 0


async def test_an_end_that_is_heard_before_the_call_runs_is_not_lost(sdk: str, era: str) -> None:
    rig, ran = listening(sdk), []

    @rig.server.tool()
    async def short() -> str:
        await anyio.sleep(0)
        ran.append(current_step().id)
        return "ran"

    def heard_first(request: Request) -> Response:
        rig.broker.alive._hear(verb_of(request)[1], "revoked")
        return rig.fake.answer(SERVER, request)

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("short")) == "ran"
        rig.fake.instead["accept"] = [heard_first]
        assert text_of(await client.call_tool("short")).startswith("refused: revoked.")
        assert text_of(await client.call_tool("short")) == "ran"

    assert len(ran) == 2


async def test_a_short_call_asks_for_nothing(sdk: str, era: str) -> None:
    rig = Rig(sdk=sdk)

    @rig.server.tool()
    async def short() -> str:
        return "done"

    async with rig.guarded(era) as (client, _):
        for _ in range(10):
            assert text_of(await client.call_tool("short")) == "done"

    assert "ended" not in rig.fake.verbs()


async def test_the_next_step_asks_when_the_first_has_gone(sdk: str, era: str) -> None:
    rig = listening(sdk)
    gates = {"one": anyio.Event(), "two": anyio.Event()}
    began = {"one": anyio.Event(), "two": anyio.Event()}

    @rig.server.tool()
    async def long(name: str) -> str:
        began[name].set()
        await gates[name].wait()
        return name

    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "long", {"name": "one"})
        await until(began["one"])
        group.start_soon(client.call_tool, "long", {"name": "two"})
        await until(began["two"])
        gates["one"].set()
        with anyio.fail_after(10):
            while rig.fake.of("long")[0].outcome is None:
                await anyio.sleep(0)
        rig.fake.ends.append((rig.fake.of("long")[1].id, "revoked"))
        rig.fake.news.set()

    assert [row.outcome for row in rig.fake.of("long")] == ["done", None]


async def test_a_body_in_a_thread_ends_by_itself_and_its_answer_is_not_given(sdk: str, era: str) -> None:
    rig, began, go = listening(sdk), threading.Event(), threading.Event()
    results: list[CallToolResult] = []

    @rig.server.tool()
    def blocks() -> str:
        began.set()
        go.wait(10)
        return "secret"

    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await client.call_tool("blocks"))

        group.start_soon(call)
        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(began.wait)
        rig.fake.end("blocks", "revoked")
        with anyio.fail_after(10):
            while rig.fake.ends and not rig.fake.told:
                await anyio.sleep(0)
        go.set()

    assert text_of(results[0]).startswith("refused: revoked.")


async def test_a_broker_without_the_verb_is_asked_again_after_a_heartbeats_time(sdk: str, era: str) -> None:
    rig = listening(sdk)

    @rig.server.tool()
    async def long() -> str:
        with anyio.fail_after(10):
            while "ended" not in rig.fake.verbs():
                await anyio.sleep(0)
        for _ in range(100):
            await anyio.sleep(0)
        return "over"

    rig.fake.instead["ended"] = [lambda _: refused("not_found", 404)]
    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("long")) == "over"

    assert rig.fake.verbs().count("ended") == 1
