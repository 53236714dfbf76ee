"""The doors: what a listener lets in, shows to the application, and does at rotation and withdrawal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes.pki import FakeCa, FakeIdentity, Issued, identity, raw_client, write_pem

from stepwrit._tls import client_context
from stepwrit_broker.attest.bundles import BundleSource
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.edge import listeners
from stepwrit_broker.edge.listeners import (
    Listener,
    ListenerSettings,
    mtls_listener,
    plain_listener,
    tls_listener,
    unix_listener,
)
from stepwrit_broker.edge.sockets import ListenerError

BROKER, AGENT = "spiffe://a.test/broker", "spiffe://a.test/agent"


class World:
    """A listening broker of a.test, and the authorities to be somebody with."""

    def __init__(self) -> None:
        now = time.time()
        self.ca, self.partner = FakeCa("a.test", now=now), FakeCa("b.test", now=now)
        self.offset = 0.0
        self.identity: FakeIdentity = identity(
            self.ca.issue(BROKER),
            {"a.test": [self.ca], "b.test": [self.partner]},
            clock=lambda: time.time() + self.offset,
        )
        self.attestor = X509Attestor(BundleSource(self.identity, max_age=60))
        self.refused: list[tuple[str, str]] = []
        self.listener = mtls_listener(
            "127.0.0.1",
            0,
            self.identity,
            on_handshake_refused=lambda name, reason: self.refused.append((name, reason)),
        )

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            workload = self.attestor.attest(scope["extensions"].get("stepwrit.tls"), self.identity.clock())
            said: dict[str, Any] = {"id": workload.id}
        except Problem as problem:
            said = {"refused": problem.rule}
        await answer(send, said)

    def somebody(self, issued: Issued | None = None) -> FakeIdentity:
        return identity(
            issued or self.ca.issue(AGENT), {"a.test": [self.ca], "b.test": [self.partner]}, clock=time.time
        )

    def client(self, issued: Issued | None = None) -> httpx2.AsyncClient:
        context = client_context(self.somebody(issued), BROKER)
        return httpx2.AsyncClient(verify=context, base_url=self.listener.url)

    async def raw(self, context: ssl.SSLContext) -> dict[str, Any]:
        host, port = self.listener.address
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            return await ask(reader, writer)
        finally:
            writer.close()


async def answer(send: Any, said: dict[str, Any]) -> None:
    body = json.dumps(said).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    said: dict[str, Any] = json.loads(await reader.readexactly(size))
    return said


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.listener.start(made.app)
    try:
        assert await made.raw(raw_client(made.ca.issue(AGENT), made.ca)) == {"id": AGENT}
        yield made
    finally:
        await made.listener.stop()


async def test_an_attested_caller_is_known_by_its_id(world: World) -> None:
    async with world.client() as client:
        assert (await client.get("/")).json() == {"id": AGENT}
    assert world.refused == []


async def test_a_chain_with_intermediates_arrives_whole(world: World) -> None:
    issued = world.ca.intermediate().intermediate().issue(AGENT)
    assert await world.raw(raw_client(issued, world.ca)) == {"id": AGENT}


async def test_no_certificate_ends_in_the_handshake_and_is_counted(world: World) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await world.raw(raw_client(None, world.ca))
    assert world.refused == [("mtls", "peer_did_not_return_a_certificate")]


async def test_a_foreign_authority_ends_in_the_handshake_and_is_counted(world: World) -> None:
    stranger = FakeCa("a.test", now=time.time()).issue(AGENT)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await world.raw(raw_client(stranger, world.ca))
    (refusal,) = world.refused
    assert refusal[1].startswith("certificate_verify_failed:")


async def test_a_partners_authority_passes_tls_but_does_not_become_us(world: World) -> None:
    partner = world.partner.issue("spiffe://b.test/x")
    assert await world.raw(raw_client(partner, world.ca)) == {"id": "spiffe://b.test/x"}
    forged = world.partner.issue("spiffe://a.test/admin")
    assert await world.raw(raw_client(forged, world.ca)) == {"refused": "x509:untrusted"}


async def test_a_certificate_that_is_no_svid_is_refused_by_the_broker(world: World) -> None:
    both = world.ca.issue(AGENT, uris=(AGENT, "spiffe://a.test/admin"))
    assert await world.raw(raw_client(both, world.ca)) == {"refused": "x509:many_uris"}


async def test_tls_1_2_is_refused(world: World) -> None:
    context = raw_client(world.ca.issue(AGENT), world.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await world.raw(context)


async def test_no_session_tickets_are_given(world: World) -> None:
    host, port = world.listener.address
    context = raw_client(world.ca.issue(AGENT), world.ca)

    def connect() -> tuple[bool, bool]:
        with socket.create_connection((host, port)) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert tls.recv(65536)
            session = tls.session
        with (
            socket.create_connection((host, port)) as plain,
            context.wrap_socket(plain, session=session) as tls,
        ):
            return bool(session and session.has_ticket), bool(tls.session_reused)

    assert await asyncio.to_thread(connect) == (False, False)


async def test_rotation_swaps_live_and_a_kept_connection_survives(world: World) -> None:
    old = raw_client(world.ca.issue(AGENT), world.ca)
    host, port = world.listener.address
    reader, writer = await asyncio.open_connection(host, int(port), ssl=old)
    assert await ask(reader, writer) == {"id": AGENT}
    successor = FakeCa("a.test", now=time.time())
    world.identity.set(successor.issue(BROKER), {"a.test": [successor, world.ca]})
    assert await ask(reader, writer) == {"id": AGENT}
    new = raw_client(world.ca.issue(AGENT), successor)
    assert await world.raw(new) == {"id": AGENT}
    with pytest.raises(ssl.SSLCertVerificationError):  # our certificate is of the new authority
        await world.raw(old)
    writer.close()


async def test_a_removed_authority_is_out_for_new_and_kept_connections(world: World) -> None:
    context = raw_client(world.ca.issue(AGENT))
    partner = raw_client(world.partner.issue("spiffe://b.test/x"))
    host, port = world.listener.address
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    other_reader, other_writer = await asyncio.open_connection(host, int(port), ssl=partner)
    assert await ask(reader, writer) == {"id": AGENT}
    successor = FakeCa("a.test", now=time.time())
    bundles = {"a.test": [successor], "b.test": [world.partner]}
    world.identity.set(successor.issue(BROKER), bundles)
    assert await ask(reader, writer) == {"refused": "x509:untrusted"}
    assert await ask(other_reader, other_writer) == {"id": "spiffe://b.test/x"}
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await world.raw(context)
    assert await world.raw(raw_client(successor.issue(AGENT), successor)) == {"id": AGENT}
    writer.close()
    other_writer.close()


async def test_withdrawal_of_every_bundle_refuses_everyone(world: World) -> None:
    context = raw_client(world.ca.issue(AGENT), world.ca)
    world.identity.set(world.ca.issue(BROKER), {"a.test": []})
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await world.raw(context)


async def test_without_an_identity_every_handshake_is_refused_and_counted(world: World) -> None:
    world.identity.state = None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await world.raw(raw_client(world.ca.issue(AGENT), world.ca))
    assert ("mtls", "identity_unavailable") in world.refused


async def test_an_svid_that_ends_is_refused_per_request_and_its_connection_closed(world: World) -> None:
    # the connection's own end comes first; shift only the broker's clock to see the per-request check
    host, port = world.listener.address
    short = world.ca.issue(AGENT, ends=60)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=raw_client(short, world.ca))
    assert await ask(reader, writer) == {"id": AGENT}
    world.offset = 61
    assert await ask(reader, writer) == {"refused": "x509:expired"}
    writer.close()
    late = world.ca.issue(AGENT, ends=30)  # by the broker's clock ended already: closed at once
    reader, writer = await asyncio.open_connection(host, int(port), ssl=raw_client(late, world.ca))
    assert await reader.read() == b""
    writer.close()


async def test_a_head_that_never_ends_is_cut(world: World) -> None:
    host, port = world.listener.address
    context = raw_client(world.ca.issue(AGENT), world.ca)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(40):
        writer.write(b"y" * 16_384)
    with contextlib.suppress(ConnectionError, ssl.SSLError):  # the answer may be lost in the reset
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    assert reader.at_eof() or reader.exception()
    writer.close()


async def test_a_trailer_that_never_ends_is_cut(world: World) -> None:
    """The parser holds a field until it ends, and adds to it at a cost that grows with what it holds."""
    host, port = world.listener.address
    context = raw_client(world.ca.issue(AGENT), world.ca)
    chunked = b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(chunked + b"x: y\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await reader.readexactly(len(json.dumps({"id": AGENT})))
    writer.write(chunked + b"x: ")
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(20):
            for _ in range(200):
                writer.write(b"y" * 16_384)
                await writer.drain()
            await reader.read()
    assert reader.at_eof() or reader.exception()
    writer.close()


async def test_a_body_of_many_parts_is_not_taken_for_a_head(world: World) -> None:
    host, port = world.listener.address
    context = raw_client(world.ca.issue(AGENT), world.ca)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 327680\r\n\r\n")
    for _ in range(20):
        writer.write(b"y" * 16_384)
        await writer.drain()
    assert await ask_again(reader, writer) == {"id": AGENT}
    writer.close()


async def ask_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
    """After the answer to what was sent before."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    return await ask(reader, writer)


async def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    listener = plain_listener("127.0.0.1", 0, settings=ListenerSettings(head=0.05))
    await listener.start(_hello)
    host, port = listener.address
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await ask(reader, writer) == {"listener": "ops"}
    writer.write(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await listener.stop()


async def test_a_body_that_does_not_come_is_not_waited_for_and_an_answer_is() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(0.3)
        await answer(send, {"method": scope["method"]})

    listener = plain_listener("127.0.0.1", 0, settings=ListenerSettings(body=0.1))
    await listener.start(slow)
    host, port = listener.address
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
    writer.write(head + b"ab")
    assert await ask_again(reader, writer) == {"method": "GET"}
    writer.write(head + b"a")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()
    await listener.stop()


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    extensions = scope["extensions"]
    said = {"listener": extensions["stepwrit.listener"]}
    if "stepwrit.unix" in extensions:
        peer = extensions["stepwrit.unix"]
        said |= {"uid": peer.uid, "pid": peer.pid}
    await answer(send, said)


async def test_file_certificates_are_taken_over_when_they_change(tmp_path: Path) -> None:
    first, second = (FakeCa("web.test", now=time.time()) for _ in range(2))
    files = write_pem(first.issue(dns=("localhost",)), tmp_path)
    listener = tls_listener("127.0.0.1", 0, *files)
    await listener.start(_hello)
    assert await _get(listener, raw_client(None, first)) == {"listener": "tls"}
    files[0].write_text("half a certificate")
    assert await _get(listener, raw_client(None, first)) == {"listener": "tls"}
    write_pem(second.issue(dns=("localhost",)), tmp_path)
    assert await _get(listener, raw_client(None, second)) == {"listener": "tls"}
    with pytest.raises(ssl.SSLCertVerificationError):
        await _get(listener, raw_client(None, first))
    await listener.stop()


async def _get(listener: Listener, context: ssl.SSLContext) -> dict[str, Any]:
    host, port = listener.address
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    said = await ask(reader, writer)
    writer.close()
    return said


async def test_certificate_files_that_do_not_load_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ListenerError, match=r"tls\.crt"):
        await tls_listener("127.0.0.1", 0, tmp_path / "tls.crt", tmp_path / "tls.key").start(_hello)


async def test_a_taken_port_is_a_typed_error() -> None:
    first = plain_listener("127.0.0.1", 0)
    await first.start(_hello)
    with pytest.raises(ListenerError, match="ops"):
        await plain_listener("127.0.0.1", int(first.address[1])).start(_hello)
    await first.stop()


async def test_the_admin_socket_is_private_and_names_its_caller(tmp_path: Path) -> None:
    listener = unix_listener(tmp_path / "admin.sock")
    await listener.start(_hello)
    assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
    reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
    assert await ask(reader, writer) == {"listener": "admin", "uid": os.getuid(), "pid": os.getpid()}
    writer.close()
    with pytest.raises(ListenerError, match="in use"):
        await unix_listener(tmp_path / "admin.sock").start(_hello)
    await listener.stop()
    assert not (tmp_path / "admin.sock").exists()


async def test_a_dead_admin_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin.sock"))
    listener = unix_listener(tmp_path / "admin.sock")
    await listener.start(_hello)
    await listener.stop()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ListenerError, match="no socket"):
        await unix_listener(tmp_path / "file").start(_hello)
    assert (tmp_path / "file").read_text() == "precious"


async def test_stop_lets_a_running_request_finish() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await release.wait()
        await answer(send, {"done": True})

    listener = plain_listener("127.0.0.1", 0)
    await listener.start(slow)
    host, port = listener.address
    reader, writer = await asyncio.open_connection(host, int(port))
    asking = asyncio.create_task(ask(reader, writer))
    await entered.wait()
    stopping = asyncio.create_task(listener.stop())
    await asyncio.sleep(0)
    release.set()
    assert await asking == {"done": True}
    await stopping
    writer.close()


async def test_an_idle_peer_that_does_not_read_does_not_hold_up_the_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's pool reads nothing while it is idle, so it never answers TLS's goodbye."""
    monkeypatch.setattr(listeners, "_SHUTDOWN_S", 600.0)
    listener = mtls_listener("127.0.0.1", 0, world.identity, settings=ListenerSettings(grace=600.0))
    await listener.start(world.app)
    context = client_context(world.somebody(), BROKER)
    async with httpx2.AsyncClient(verify=context, base_url=listener.url) as http:
        assert (await http.get("/")).json() == {"id": AGENT}
        async with asyncio.timeout(60):
            await listener.stop()


async def test_an_idle_connection_is_closed_and_a_request_beyond_the_grace_is_cut() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        await answer(send, {"done": True})

    listener = plain_listener("127.0.0.1", 0, settings=ListenerSettings(idle=0.05, grace=0.05))
    await listener.start(app)
    host, port = listener.address
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await ask(reader, writer) == {"done": True}
    assert await reader.read() == b""
    writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.sleep(0.02)
    await listener.stop()
    with contextlib.suppress(ConnectionError):
        assert not (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
