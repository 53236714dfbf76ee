"""A load generator's HTTP/1.1: one request at a time per kept-alive TLS connection, nothing else."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast
from urllib.parse import urlsplit

Answer = tuple[int, bytes]
_LENGTH = b"content-length: "


class Line(asyncio.Protocol):
    """One connection. `ask` sends a whole request and resolves to (status, body)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, raw: bytes) -> asyncio.Future[Answer]:
        """Send; the future is the answer. ConnectionError when the connection goes first."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._waiter = self._loop.create_future()
        self._transport.write(raw)
        return self._waiter

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        at = buffer.find(_LENGTH, 0, end)
        if end < 0 or at < 0:
            return
        length = int(buffer[at + len(_LENGTH) : buffer.find(b"\r", at)])
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._resolve((int(buffer[9:12]), buffer[end + 4 :]))

    def _resolve(self, answer: Answer) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError("the broker closed the connection"))

    def close(self) -> None:
        """Let go."""
        if self._transport is not None:
            self._transport.close()


async def connect(url: str, context: ssl.SSLContext) -> Line:
    """One connection to the mtls listener."""
    where = urlsplit(url)
    host, port = where.hostname or "", where.port or 443
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(Line, host, port, ssl=context, server_hostname="")
    return line


def post(path: str, body: bytes, operation: str, *, proof: str = "", kind: str = "application/json") -> bytes:
    """A whole request."""
    dpop = f"dpop: {proof}\r\n" if proof else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: broker\r\ncontent-type: {kind}\r\nidempotency-key: {operation}\r\n"
        f"{dpop}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
