"""Who follows revocations in tests: a reader of a real feed, and a resource whose answers take long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from tests.fakes.stage import BANK, BODY, URL, Held, Stage, new, spiffe

from stepwrit._feed import FeedEvent, FeedReader
from stepwrit._transport import HttpTransport
from stepwrit.client import Broker, Parts
from stepwrit.dpop import make_proof, token_hash
from stepwrit.guard import StepwritGuard


@asynccontextmanager
async def client(stage: Stage, path: str = "resource/bank/1") -> AsyncGenerator[Broker]:
    identity = await stage.identity(path)
    transport = HttpTransport(stage.url, identity, spiffe("stepwrit/broker"))
    async with Broker(transport, spiffe(path), Parts(base_url=stage.url)) as broker:
        yield broker


async def events(broker: Broker, since: float = 10**11) -> AsyncGenerator[FeedEvent]:
    """What the broker tells; ends with the feed."""
    reader = FeedReader()
    async with broker.revocations(since, 60.0) as chunks:
        async for chunk in chunks:
            for each in reader.feed(chunk):
                yield each
            if reader.over:
                return


async def first(broker: Broker, wanted: Callable[[Any], bool], since: float = 10**11) -> FeedEvent:
    async with aclosing(events(broker, since)) as told:
        async for each in told:
            if wanted(each):
                return each
    raise AssertionError("the feed ended before that")


class Slow:
    """An application that streams until it is cut, or told to end."""

    def __init__(self) -> None:
        self.streaming, self.end = anyio.Event(), anyio.Event()
        self.cut = False

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        self.streaming.set()
        try:
            await self.end.wait()
        except BaseException:
            self.cut = True
            raise
        await send({"type": "http.response.body", "body": b"two"})


class Door:
    """A guard before `Slow`; asks for what the credential opens."""

    def __init__(self, broker: Any, *, follow: bool = True, **options: Any) -> None:
        self.app = Slow()
        self.guard = StepwritGuard(
            self.app, audience=BANK, broker=broker, follow_revocations=follow, **options
        )
        self.body = b""

    async def ask(self, held: Held) -> None:
        """One request, until its answer ends or is cut."""
        stage, token = held.ledger.stage, held.token
        proof = make_proof(held.ledger.key, "POST", URL, stage.now(), new(), ath=token_hash(token))
        headers = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", proof.encode())]
        parts = urlsplit(URL)
        scope = {
            "type": "http", "method": "POST", "path": parts.path, "raw_path": parts.path.encode(),
            "query_string": b"", "headers": headers, "root_path": "",
        }  # fmt: skip
        unread = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200, message
            self.body += message.get("body", b"")

        await self.guard(scope, receive, send)
