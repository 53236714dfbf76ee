"""A TCP relay that can be told to misbehave: by whom it is used, from one moment to the next.

    relay = Relay("db", port=0, to=("127.0.0.1", 5432), who=names_of)
    await relay.start()
    relay.misbehave(Behaviour("drop_replies"))      # for everyone
    relay.misbehave(Behaviour("cut"), source="b1")  # for one of them
    relay.heal()

`cut`: connections are reset and new ones refused. `half_open`: connections stand, nothing moves. `delay`:
both ways, by so many seconds. `drop_replies`: what is sent arrives, what is answered is lost, and the
connection is reset a moment later: landed but unseen. Whatever was touched by a fault is reset when it heals.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["pass", "cut", "half_open", "delay", "drop_replies"]
EVERYONE = "*"
CHUNK = 65_536
UNSEEN_S = 0.2  # between what landed and the reset of its connection


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a relay does with bytes. seconds: of a delay."""

    kind: Kind
    seconds: float = 0.0


PASS = Behaviour("pass")


@dataclass(slots=True, eq=False)
class _Pair:
    """One connection and its other half."""

    port: int
    who: Callable[[int], str]
    writers: tuple[asyncio.StreamWriter, ...]
    tainted: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    name: str = ""

    @property
    def source(self) -> str:
        """Who is at the other end; asked again while that is not known."""
        self.name = self.name or self.who(self.port)
        return self.name

    def reset(self) -> None:
        """An RST, not an orderly end: whoever waits hears of it."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Relay:
    """Between whoever connects and one place."""

    def __init__(
        self, name: str, *, to: tuple[str, int], port: int = 0, who: Callable[[int], str] = lambda _: ""
    ) -> None:
        """who: the name of the process that has this local port, for behaviours by source."""
        self.name, self.to, self.port = name, to, port
        self._who = who
        self._ways: dict[str, Behaviour] = {}
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any] | None] = set()
        self._is_stopped = False

    async def start(self) -> None:
        """Listen on loopback."""
        self._is_stopped = False
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset everything, also what is only being connected, and listen no longer."""
        self._is_stopped = True
        if self._server is not None:
            self._server.close()
        tasks = [task for pair in self._pairs for task in pair.tasks]
        for pair in list(self._pairs):
            pair.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(task for task in self._serving if task), return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the next turn

    def misbehave(self, how: Behaviour, source: str = EVERYONE) -> None:
        """From now on, for connections that stand and for new ones."""
        self._ways[source] = how
        for pair in list(self._pairs):
            if self._touches(pair, source):
                pair.tainted = pair.tainted or how.kind in ("half_open", "drop_replies")
                if how.kind == "cut":
                    pair.reset()

    def heal(self, source: str = EVERYONE) -> None:
        """Pass again; what was touched is reset."""
        self._ways.pop(source, None)
        for pair in list(self._pairs):
            if pair.tainted and self._touches(pair, source):
                pair.reset()

    @property
    def sources(self) -> list[str]:
        """Whose connections stand now."""
        return [pair.source for pair in self._pairs]

    def _touches(self, pair: _Pair, source: str) -> bool:
        return source == EVERYONE or pair.source == source

    def _way(self, source: str) -> Behaviour:
        return self._ways.get(source) or self._ways.get(EVERYONE, PASS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self._relay(reader, writer)
        finally:
            self._serving.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer.get_extra_info("peername")[1], self._who, (writer,))
        how = self._way(pair.source if self._ways else "")
        if how.kind == "cut":
            return pair.reset()
        pair.tainted = how.kind in ("half_open", "drop_replies")
        try:
            there, back = await asyncio.open_connection(*self.to, limit=CHUNK)
        except OSError:
            return pair.reset()
        pair.writers = (writer, back)
        if self._is_stopped:
            return pair.reset()
        self._pairs.add(pair)
        pair.tasks = [
            asyncio.create_task(self._pump(pair, reader, back, is_reply=False)),
            asyncio.create_task(self._pump(pair, there, writer, is_reply=True)),
        ]
        await asyncio.gather(*pair.tasks, return_exceptions=True)
        self._pairs.discard(pair)
        pair.reset()
        return None

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        try:
            while data := await reader.read(CHUNK):
                if not await self._held(pair, is_reply=is_reply):
                    return
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except (OSError, RuntimeError):
            pair.reset()

    async def _held(self, pair: _Pair, *, is_reply: bool) -> bool:
        """Wait as the behaviour says; False when these bytes go nowhere."""
        how = self._way(pair.source) if self._ways else PASS
        while how.kind == "half_open":
            pair.tainted = True
            await asyncio.sleep(0.05)
            if pair.writers[0].transport.is_closing():
                return False
            how = self._way(pair.source)
            if how.kind != "half_open":
                return False
        if how.kind == "delay":
            await asyncio.sleep(how.seconds)
        if how.kind == "drop_replies" and is_reply:
            pair.tainted = True
            await asyncio.sleep(UNSEEN_S)
            pair.reset()
            return False
        return True
