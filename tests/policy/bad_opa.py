"""A small HTTP server that speaks as much of OPA's API as we use, and misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

EMPTY: dict[str, Any] = {"permit": [], "forbid": [], "needs_approval": [], "obligation": []}
Reply = Callable[[str, str, bytes], tuple[int, bytes] | None]
"""Method, path, body: what to answer; None answers as OPA would."""


class BadOpa:
    """`answers`: what each known policy says. `reply`: what is said instead. `silent`: nothing is."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.answers: dict[str, Any] = dict(EMPTY)
        self.reply: Reply = lambda _method, _path, _body: None
        self.silent = False
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a restart does: connections end, and what was known is gone."""
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()
        self.known.clear()

    def queries(self) -> list[bytes]:
        return [body for method, _, body, _ in self.asked if method == "POST"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while line := await reader.readline():
                await self._one(line, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _one(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = line.decode().split()
        headers: dict[str, str] = {}
        while (header := (await reader.readline()).decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append((method, target, body, headers))
        if self.silent:
            await asyncio.Event().wait()
        status, said = self.reply(method, target, body) or self._as_opa(method, target, body)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(said)}\r\n\r\n"
        writer.write(head.encode() + said)
        await writer.drain()

    def _as_opa(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        path = target.partition("?")[0]
        if method == "PUT":
            self.known[path.removeprefix("/v1/policies/")] = body.decode()
            return 200, b"{}"
        if method == "POST":
            name = path.removeprefix("/v1/data/").rpartition("/")[0]
            if name not in self.known:
                return 200, b"{}"
            return 200, json.dumps({"result": {"files": ["a.rego"], **self.answers}}).encode()
        return 200, b'{"result": {"ast": {"rules": []}}}'


@asynccontextmanager
async def bad_opa() -> AsyncIterator[BadOpa]:
    server = BadOpa()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
