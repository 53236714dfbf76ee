"""`GET /v1/revocations/feed` on the `mtls` listener: server-sent events (WHATWG HTML section 9.2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qs

import msgspec

from stepwrit.shape import write
from stepwrit.wire_feed import (
    FEED_BEAT_S,
    FEED_PATH,
    FeedBeat,
    FeedEnded,
    FeedHello,
    FeedMark,
    target_digest,
)
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.edge.caller import Callers, record
from stepwrit_broker.edge.http import Asgi, Receive, Request, Scope, Send
from stepwrit_broker.edge.problems import render
from stepwrit_broker.flows import revoke
from stepwrit_broker.flows.house import House
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_feed import Feed, Following, News

ROLES: Final = ("resource", "mcp-server", "operator")
VERB: Final = "feed"
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


class FeedApp:
    """ASGI: the feed, and `rest` for every other path. beat_s: seconds without news until a beat."""

    def __init__(
        self,
        *,
        house: House,
        callers: Callers,
        feed: Feed,
        metrics: Metrics,
        rest: Asgi,
        beat_s: float = FEED_BEAT_S,
    ) -> None:
        self._house, self._callers, self._feed, self._metrics = house, callers, feed, metrics
        self._rest, self._beat_s = rest, beat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection; it ends when the caller may not read any more, or this process ends."""
        if scope["type"] != "http" or scope.get("path") != FEED_PATH:
            await self._rest(scope, receive, send)
            return
        request = Request(scope=scope, method=scope["method"], path=FEED_PATH, body=b"")
        try:
            caller = await self._admit(request)
            following = self._feed.follow(caller.workload.id, _since(scope))
        except Problem as problem:
            await record(self._house.refusals, VERB, problem, scope)
            self._metrics.request(VERB, "refused", problem.code, 0.0)
            await render(problem).send(send)
            return
        self._metrics.request(VERB, "ok", "", 0.0)
        try:
            await _while_there(receive, self._tell(request, following, send))
        finally:
            following.close()

    async def _admit(self, request: Request) -> Caller:
        if request.method != "GET":
            raise Malformed("invalid_request", "the feed is read by GET")
        caller = await self._callers.of(request, proof=False, stopped_too=True)
        if caller.entry.role not in ROLES:
            raise Refused("wrong_workload", f"the feed is for roles {', '.join(ROLES)}", rule="registry role")
        return caller

    async def _tell(self, request: Request, following: Following, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        await _send(send, "hello", FeedHello(heartbeat_s=self._beat_s))
        async with aclosing(self._events(request, following)) as events:
            async for name, event in events:
                await _send(send, name, event)
        await send({"type": "http.response.body", "body": b"event: bye\ndata: {}\n\n"})

    async def _events(
        self, request: Request, following: Following
    ) -> AsyncGenerator[tuple[str, FeedMark | FeedEnded | FeedBeat]]:
        """Until the caller is none any more: its certificate and its role are looked at again each time."""
        n = 0
        while True:
            news = await following.next(self._beat_s)
            if news is None:
                return
            try:
                caller = await self._admit(request)
            except Problem:
                return
            for n, each in enumerate(news, n + 1):  # noqa: B020  it goes on counting
                yield await self._event(n, each, caller)
            if not news:
                yield "beat", FeedBeat(n=n)

    async def _event(self, n: int, news: News, caller: Caller) -> tuple[str, FeedMark | FeedEnded]:
        digest = target_digest(news.target)
        if news.what == "ended":
            return "ended", FeedEnded(n=n, digest=digest, state=news.detail)
        plain = await self._is_theirs(caller, news.target)
        return "mark", FeedMark(
            n=n,
            verb=news.what,
            digest=digest,
            at=news.at,
            target=news.target if plain else None,
            ref=news.detail if plain else None,
        )

    async def _is_theirs(self, caller: Caller, target: str) -> bool:
        who = revoke.Operator(name=caller.workload.id, tenant=caller.entry.tenant)
        kind, _, name = target.partition(":")
        return revoke.sees_all(self._house, who) or (
            await revoke.tenant_of(self._house, kind, name) == caller.entry.tenant
        )


_HEAD: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_encode: Final = msgspec.json.Encoder().encode


def _since(scope: Scope) -> float | None:
    """The query's `since`, seconds since the epoch. Raises Malformed."""
    asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if not asked:
        return None
    given = asked.get("since", [])
    if len(asked) > 1 or len(given) != 1 or not _SECONDS.fullmatch(given[0]):
        raise Malformed("invalid_request", "the one parameter is since=SECONDS, since the epoch")
    return float(given[0])


async def _send(send: Send, name: str, event: FeedHello | FeedMark | FeedEnded | FeedBeat) -> None:
    body = f"event: {name}\ndata: ".encode() + _encode(write(event)) + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _while_there(receive: Receive, telling: Coroutine[None, None, None]) -> None:
    """Tell, for as long as the other side is there."""
    both = (asyncio.ensure_future(telling), asyncio.ensure_future(_gone(receive)))
    try:
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
