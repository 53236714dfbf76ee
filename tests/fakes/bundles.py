"""A bundle endpoint on loopback, real TLS, that serves whatever a test says; and bundle documents.

async with Endpoint(server_tls(ca.issue("spiffe://b.test/spire"))) as endpoint:
    endpoint.body = document(ca, sequence=3)
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from typing import Any, Self

from tests.fakes.pki import FakeCa, Issued, load_key_pair

from stepwrit_broker.dev.ca import DevCa


def document(
    *authorities: FakeCa | DevCa, sequence: int | None = None, refresh: int | None = 60, **more: Any
) -> bytes:
    """The bundle of these authorities, X.509 and, for a development CA, JWT."""
    keys: list[dict[str, Any]] = []
    for ca in authorities:
        ders = ca.authorities if isinstance(ca, DevCa) else (ca.der,)
        keys += [{"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]} for der in ders]
        keys += json.loads(ca.jwks())["keys"] if isinstance(ca, DevCa) else []
    numbers = {"spiffe_sequence": sequence, "spiffe_refresh_hint": refresh}
    return json.dumps({"keys": keys, **{k: v for k, v in numbers.items() if v is not None}, **more}).encode()


def server_tls(shown: Issued) -> ssl.SSLContext:
    """A server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key_pair(context, shown)
    return context


class Endpoint:
    """`status`, `headers` and `body` may be set at any time; `paths`: what was asked for."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self.status, self.body = 200, b""
        self.headers: Mapping[str, str] = {}
        self.length: int | None = None
        self.paths: list[str] = []
        self.answered = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/bundle.json"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.paths.append(head.split(b" ")[1].decode())
            length = len(self.body) if self.length is None else self.length
            sent = {"content-length": str(length), "connection": "close", **self.headers}
            lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in sent.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + self.body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.answered.set()
