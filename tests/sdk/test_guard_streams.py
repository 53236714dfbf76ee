"""Streams under a guard that follows revocations: what cuts them, and what does not."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from stepwrit._feed import EVENT_MAX, FeedBroken, FeedReader
from stepwrit._guard_streams import LOOK_BACK_S, Streams, targets_of
from stepwrit._reply import local
from stepwrit.errors import ConfigurationError, UnavailableError
from stepwrit.guard import StepwritGuard
from stepwrit.wire import HopSpec, Redeemed
from stepwrit.wire_feed import target_digest

NOW = 1_000_000.0
BEAT_S = 0.2
WORKER = "spiffe://books.example/mcp-server/ledger"
REDEEMED = Redeemed(
    grant="grt_1", step="stp_2", txn="txn_1", ref="ref", tool="ledger/transfer", origin="model",
    requester="per_1", performer=WORKER,
    chain=(
        HopSpec(step="stp_1", initiator="spiffe://books.example/agent/chat",
                performer="spiffe://books.example/agent/chat", origin="human"),
        HopSpec(step="stp_2", initiator="spiffe://books.example/agent/chat", performer=WORKER,
                origin="model", tool="ledger/transfer"),
    ),
)  # fmt: skip
TARGETS = targets_of(REDEEMED, "https://bank.example")


def event(name: str, **members: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'v': 1, **members})}\n\n".encode()


def mark(n: int, target: str, verb: str = "revoke") -> bytes:
    return event("mark", n=n, verb=verb, digest=target_digest(target), at=1.0)


HELLO = event("hello", heartbeat_s=BEAT_S)
Script = Callable[[], AsyncGenerator[bytes]]


class Feed:
    """A broker's feed that says what the test says; each script is one connection."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.asked: list[float] = []

    @asynccontextmanager
    async def revocations(self, since: float, silence_s: float) -> AsyncGenerator[AsyncIterator[bytes]]:
        self.asked.append(since)
        if not self.scripts:
            raise UnavailableError(local("unavailable", "no broker"))
        async with aclosing(self.scripts.pop(0)()) as chunks:
            yield chunks


def silent(*said: bytes) -> Script:
    async def script() -> AsyncGenerator[bytes]:
        for each in said:
            yield each
        await anyio.sleep_forever()

    return script


def ending(*said: bytes) -> Script:
    async def script() -> AsyncGenerator[bytes]:
        for each in said:
            yield each

    return script


class Answer:
    """One answer under way."""

    def __init__(self, streams: Streams, *, streaming: bool = True) -> None:
        self.streams, self.streaming = streams, streaming
        self.begun, self.go = anyio.Event(), anyio.Event()
        self.sent: list[bytes] = []

    async def run(self) -> None:
        async def app(send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if self.streaming:
                await send({"type": "http.response.body", "body": b"one", "more_body": True})
            self.begun.set()
            await self.go.wait()
            await send({"type": "http.response.body", "body": b"two"})

        async def send(message: Any) -> None:
            self.sent.append(message.get("body", b""))

        await self.streams.beside(TARGETS, app, send)

    @property
    def whole(self) -> bool:
        return self.sent[-1] == b"two"


def streams(feed: Feed) -> Streams:
    return Streams(feed, lambda: NOW, listen_after_s=0.0, again_s=0.0)


@pytest.mark.parametrize(
    "target",
    [
        "everything:all", "txn:txn_1", "step:stp_1", "step:stp_2", "grant:grt_1", "requester:per_1",
        "tool:ledger/transfer", "server:ledger", "resource:https://bank.example", f"workload:{WORKER}",
        "workload:spiffe://books.example/mcp-server/*", "workload:spiffe://books.example/agent/chat",
        "workload:spiffe://books.example/*", "trust_domain:books.example",
    ],
)  # fmt: skip
async def test_every_mark_that_stops_the_step_cuts_its_answer(target: str) -> None:
    answer = Answer(streams(Feed(silent(HELLO, mark(1, "txn:txn_9"), mark(2, target)))))
    with anyio.fail_after(60):
        await answer.run()
    assert not answer.whole


async def test_an_ended_step_cuts_its_answer() -> None:
    over = event("ended", n=1, digest=target_digest("step:stp_2"), state="expired")
    answer = Answer(streams(Feed(silent(HELLO, over))))
    with anyio.fail_after(60):
        await answer.run()
    assert not answer.whole


async def test_what_does_not_concern_it_leaves_it_whole() -> None:
    heard = anyio.Event()

    async def script() -> AsyncGenerator[bytes]:
        for each in (
            HELLO,
            event("weather", n=9),
            mark(1, "txn:txn_9"),
            mark(2, "txn:txn_1", "unfreeze"),
            event("ended", n=3, digest=target_digest("step:stp_9"), state="revoked"),
            event("beat", n=3),
        ):
            yield (each)
        heard.set()
        while True:
            yield (event("beat", n=3))
            await anyio.sleep(BEAT_S / 4)

    answer = Answer(streams(Feed(script)))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(answer.run)
            await heard.wait()
            await anyio.sleep(0.05)
            answer.go.set()
    assert answer.whole


@pytest.mark.parametrize(
    "said",
    [
        mark(2, "txn:txn_9"),
        event("beat", n=1),
        b"event: mark\ndata: nonsense\n\n",
        event("mark", n=1, verb="revoke"),
        b"x" * (EVENT_MAX + 1),
    ],
    ids=["hole", "beat tells of a hole", "no JSON", "no shape", "too long"],
)
async def test_a_gap_cuts(said: bytes) -> None:
    answer = Answer(streams(Feed(silent(HELLO, said))))
    with anyio.fail_after(60):
        await answer.run()
    assert not answer.whole


async def test_nothing_heard_for_two_heartbeats_cuts() -> None:
    feed = Feed(ending(HELLO))  # the connection ends, and nobody takes another
    answer = Answer(streams(feed))
    with anyio.fail_after(60):
        await answer.run()
    assert not answer.whole
    assert len(feed.asked) > 1


async def test_a_lost_connection_is_made_up_for_from_where_it_was() -> None:
    feed = Feed(ending(HELLO, event("bye")), ending(HELLO), silent(HELLO, mark(1, "txn:txn_1")))
    answer = Answer(streams(feed))
    with anyio.fail_after(60):
        await answer.run()
    assert not answer.whole
    assert feed.asked == [NOW - LOOK_BACK_S] * 3


async def test_a_deed_that_does_not_stream_is_left_to_end() -> None:
    heard = anyio.Event()

    async def script() -> AsyncGenerator[bytes]:
        yield (HELLO + mark(1, "txn:txn_1"))
        await anyio.sleep(0.05)
        heard.set()
        await anyio.sleep_forever()

    answer = Answer(streams(Feed(script)), streaming=False)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(answer.run)
            await heard.wait()
            answer.go.set()
    assert answer.whole


async def test_a_short_answer_asks_for_nothing() -> None:
    feed = Feed(silent(HELLO))
    answer = Answer(Streams(feed, lambda: NOW))
    answer.go.set()
    with anyio.fail_after(60):
        await answer.run()
    assert answer.whole
    assert feed.asked == []


async def test_what_the_application_raises_comes_out_as_it_is() -> None:
    async def app(_: Any) -> None:
        raise LookupError("mine")

    async def send(_: Any) -> None:
        """Nothing is sent."""

    with pytest.raises(LookupError, match="mine"):
        await streams(Feed(silent(HELLO))).beside(TARGETS, app, send)


async def test_a_broker_client_without_a_feed_cannot_be_followed() -> None:
    async def app(*_: Any) -> None:
        """Never reached."""

    keyed: Any = SimpleNamespace(keys=None)
    with pytest.raises(ConfigurationError, match="follow_revocations"):
        StepwritGuard(app, audience="https://bank.example", broker=keyed, follow_revocations=True)


def test_a_reader_takes_events_in_any_pieces() -> None:
    whole = HELLO + mark(1, "txn:txn_1") + event("beat", n=1) + event("bye") + mark(2, "txn:txn_2")
    at_once = list(FeedReader().feed(whole))
    reader = FeedReader()
    one_by_one = [each for byte in whole for each in reader.feed(bytes([byte]))]
    assert at_once == one_by_one
    assert len(at_once) == 3
    assert reader.over


def test_news_before_hello_is_a_gap() -> None:
    with pytest.raises(FeedBroken):
        list(FeedReader().feed(mark(1, "txn:txn_1")))
