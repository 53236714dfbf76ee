"""The relay does what it is told, to whom it is told, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from tests.faults.relay import Behaviour, Relay


@dataclass
class Echo:
    """Answers each line with itself, and remembers what arrived."""

    got: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.got.append(line)
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@dataclass
class Scene:
    echo: Echo
    relay: Relay
    names: dict[int, str]
    links: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, name: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of this source."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        self.names[sock.getsockname()[1]] = name  # before the relay asks
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.relay.port))
        reader, writer = await asyncio.open_connection(sock=sock)
        self.links.append(writer)
        return reader, writer


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    echo, names = Echo(), dict[int, str]()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    relay = Relay("r", to=server.sockets[0].getsockname()[:2], who=lambda port: names.get(port, ""))
    await relay.start()
    made = Scene(echo, relay, names)
    yield made
    for link in made.links:
        link.close()
    await relay.stop()
    server.close()
    await server.wait_closed()


async def said(link: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    """What comes back; empty when the connection ends or is reset."""
    reader, writer = link
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readline()
    except ConnectionError:
        return b""


async def test_it_passes_both_ways(scene: Scene) -> None:
    link = await scene.connect()
    assert await said(link, b"one\n") == b"one\n"
    assert await said(link, b"two\n") == b"two\n"


async def test_cut_resets_what_stands_and_what_comes_until_it_heals(scene: Scene) -> None:
    link = await scene.connect()
    assert await said(link, b"one\n") == b"one\n"
    scene.relay.misbehave(Behaviour("cut"))
    assert await said(link, b"two\n") == b""
    assert await said(await scene.connect(), b"three\n") == b""
    assert scene.echo.got == [b"one\n"]
    scene.relay.heal()
    assert await said(await scene.connect(), b"four\n") == b"four\n"


async def test_dropped_replies_have_landed_unseen(scene: Scene) -> None:
    link = await scene.connect()
    assert await said(link, b"one\n") == b"one\n"
    scene.relay.misbehave(Behaviour("drop_replies"))
    assert await said(link, b"two\n") == b""
    assert scene.echo.got == [b"one\n", b"two\n"]
    scene.relay.heal()
    assert await said(await scene.connect(), b"three\n") == b"three\n"


async def test_half_open_stands_still_and_is_reset_when_it_heals(scene: Scene) -> None:
    link = await scene.connect()
    assert await said(link, b"one\n") == b"one\n"
    scene.relay.misbehave(Behaviour("half_open"))
    waiting = asyncio.create_task(said(link, b"two\n"))
    assert await asyncio.wait({waiting}, timeout=0.3) == (set(), {waiting})
    scene.relay.heal()
    assert await waiting == b""
    assert scene.echo.got == [b"one\n"]


async def test_a_delay_delays_and_loses_nothing(scene: Scene) -> None:
    link = await scene.connect()
    scene.relay.misbehave(Behaviour("delay", 0.15))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await said(link, b"one\n") == b"one\n"
    assert loop.time() - began >= 0.3  # there and back


async def test_one_source_is_cut_and_another_is_not(scene: Scene) -> None:
    scene.names.clear()
    bad = await scene.connect("bad")
    good = await scene.connect("good")
    assert (await said(bad, b"1\n"), await said(good, b"2\n")) == (b"1\n", b"2\n")
    scene.relay.misbehave(Behaviour("cut"), source="bad")
    assert (await said(bad, b"3\n"), await said(good, b"4\n")) == (b"", b"4\n")
    scene.relay.heal("bad")
    assert await said(await scene.connect("bad"), b"5\n") == b"5\n"
