"""A TCP load balancer, as before a fleet: new connections go to brokers that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

CHECK_EVERY_S = 0.2


@dataclass
class Backend:
    """A broker: its `mtls` port, and the URL of its ops listener."""

    port: int
    ops: str
    is_ready: bool = False
    taken: int = 0


@dataclass
class Balancer:
    backends: list[Backend]
    port: int = 0
    _turn: itertools.count[int] = field(default_factory=itertools.count)

    async def check(self) -> None:
        """Forever."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            while True:
                for each in self.backends:
                    try:
                        each.is_ready = (await http.get(f"{each.ops}/readyz")).status_code == 200
                    except httpx2.TransportError:
                        each.is_ready = False
                await asyncio.sleep(CHECK_EVERY_S)

    async def until_ready(self, count: int) -> None:
        while sum(each.is_ready for each in self.backends) != count:
            await asyncio.sleep(0.05)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [each for each in self.backends if each.is_ready]
        if not ready:
            writer.close()
            return
        chosen = ready[next(self._turn) % len(ready)]
        chosen.taken += 1
        try:
            theirs = await asyncio.open_connection("127.0.0.1", chosen.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pipe(reader, theirs[1]), _pipe(theirs[0], writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def balancer(*backends: Backend) -> AsyncGenerator[Balancer]:
    made = Balancer(list(backends))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    checking = asyncio.create_task(made.check())
    try:
        yield made
    finally:
        checking.cancel()
        server.close()
        await asyncio.gather(checking, return_exceptions=True)
