"""A TLS-terminating proxy as the broker sees it: one mTLS connection with the proxy's own SVID, on which it
says whatever it likes about its clients.

    async with Hop(stage, proxy_svid) as hop:
        reply = await hop.post(chat, "/v1/steps", body, client_cert(chat_svid))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from tests.fakes.pki import FakeCa, Issued, raw_client
from tests.fakes.stage import Actor, Reply, Stage, new

from stepwrit.wire import HEADER_DPOP, HEADER_OPERATION

Sent = Sequence[tuple[str, bytes]]


def authority(stage: Stage) -> FakeCa:
    """The domain's own CA: what SPIRE would sign, and what it never would."""
    ca = FakeCa(stage.domain, now=stage.now())
    ca.key, ca.name = stage.trust.ca._key, stage.trust.ca._certificate.subject
    return ca


class Hop:
    """One connection, one request after the other."""

    def __init__(self, stage: Stage, svid: Issued, at: tuple[str, int] | None = None) -> None:
        """at: None is the broker itself."""
        self.stage, self._svid, self._at = stage, svid, at
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def _connect(self) -> None:
        host, port = self._at or self.stage.broker.mtls.address
        tls = raw_client(self._svid)
        self._reader, self._writer = await asyncio.open_connection(host, port, ssl=tls)

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def post(
        self, by: Actor, path: str, members: Mapping[str, Any], sent: Sent = (), **how: Any
    ) -> Reply:
        """One of our verbs, as `by` would ask it."""
        headers = [
            ("Content-Type", b"application/json"),
            (HEADER_OPERATION, new().encode()),
            (HEADER_DPOP, (how.get("proof") or by.proof(path)).encode()),
        ]
        return await self.send(
            "POST", path, json.dumps(members).encode(), [*headers, *sent], how.get("host", "x")
        )

    async def send(self, method: str, path: str, body: bytes, headers: Sent, host: str = "x") -> Reply:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n".encode()
        return await self._exchange(head + _lines(headers) + b"\r\n" + body)

    async def chunked(
        self, by: Actor, path: str, members: Mapping[str, Any], sent: Sent, trailers: Sent
    ) -> Reply:
        """The same as `post`, in one chunk, with trailer fields after it."""
        body = json.dumps(members).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
        headers = [
            ("Content-Type", b"application/json"),
            (HEADER_OPERATION, new().encode()),
            (HEADER_DPOP, by.proof(path).encode()),
        ]
        chunk = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
        return await self._exchange(
            head + _lines([*headers, *sent]) + b"\r\n" + chunk + _lines(trailers) + b"\r\n"
        )

    async def _exchange(self, raw: bytes) -> Reply:
        self._writer.write(raw)
        await self._writer.drain()
        reply = await self._reply()
        if reply.headers.get("connection", "").lower() == "close":  # what is unattested ends it
            await self.__aexit__()
            await self._connect()
        return reply

    async def _reply(self) -> Reply:
        first, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        read = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields if each)}
        raw = await self._reader.readexactly(int(read["content-length"]))
        value = json.loads(raw) if "json" in read.get("content-type", "") else {}
        members = value if isinstance(value, dict) else {"": value}
        return Reply(status=int(first.split(" ")[1]), body=members, raw=raw, headers=read)


def _lines(fields: Sent) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in fields)
