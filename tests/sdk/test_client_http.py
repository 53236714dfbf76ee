"""The HTTP transport over real mutual TLS on loopback: whom it talks to, and as whom."""

from __future__ import annotations

import asyncio
import gc
import http.server
import ssl
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.pki import FakeCa, FakeIdentity, Issued, identity, load_key_pair

from stepwrit._transport import HttpTransport, SyncHttpTransport
from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost, Request

DOMAIN = "prod.example"
BROKER = f"spiffe://{DOMAIN}/stepwrit/broker"
PING = Request(method="POST", path="/v1/steps", headers={"X-Test": "1"}, body=b"{}")


class Server:
    """Answers 503 to everything, and keeps what came: path, body, and the certificate it was sent with."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.seen: list[tuple[str, bytes, bytes]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                connection: Any = self.connection
                server.seen.append((self.path, body, connection.getpeercert(binary_form=True)))
                self.send_response(503)
                self.send_header("Content-Length", "2")
                self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(
            self.http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.http.server_address[1]}"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def ca() -> FakeCa:
    return FakeCa(DOMAIN, now=time.time())


@pytest.fixture
def server(ca: FakeCa) -> Generator[Server]:
    made = Server(server_context(ca, ca.issue(BROKER)))
    yield made
    made.stop()


@pytest.fixture
def me(ca: FakeCa) -> FakeIdentity:
    return identity(ca.issue(f"spiffe://{DOMAIN}/mcp/ledger"), {DOMAIN: [ca]}, clock=time.time)


async def test_a_request_arrives_as_sent_and_its_reply_comes_back(server: Server, me: FakeIdentity) -> None:
    transport = HttpTransport(server.url, me)
    try:
        response = await transport.send(PING)
    finally:
        await transport.close()

    assert (response.status, response.headers["retry-after"], response.body) == (503, "1", b"{}")
    assert server.seen[0][:2] == ("/v1/steps", b"{}")


def test_the_sync_twin_does_the_same(server: Server, me: FakeIdentity) -> None:
    transport = SyncHttpTransport(server.url, me)
    try:
        assert transport.send(PING).status == 503
    finally:
        transport.close()


async def test_after_a_rotation_the_new_certificate_is_shown(
    server: Server, me: FakeIdentity, ca: FakeCa
) -> None:
    transport = HttpTransport(server.url, me)
    try:
        await transport.send(PING)
        await transport.send(PING)
        me.set(ca.issue(f"spiffe://{DOMAIN}/mcp/ledger"), {DOMAIN: [ca]})
        await transport.send(PING)
    finally:
        await transport.close()

    first, again, rotated = (certificate for _, _, certificate in server.seen)
    assert first == again
    assert rotated != first


async def test_only_the_broker_is_talked_to(server: Server, me: FakeIdentity) -> None:
    right = HttpTransport(server.url, me, BROKER)
    wrong = HttpTransport(server.url, me, f"spiffe://{DOMAIN}/other")
    try:
        assert (await right.send(PING)).status == 503
        with pytest.raises(Lost) as lost:
            await wrong.send(PING)
    finally:
        await right.close()
        await wrong.close()

    assert not lost.value.sent
    assert len(server.seen) == 1
    assert f"it is {BROKER}, which is not who was asked for" in str(lost.value)
    assert str(lost.value).endswith("; STEPWRIT_BROKER_ID says who is")


async def test_the_usual_broker_of_another_trust_domain_is_not_ours(ca: FakeCa, me: FakeIdentity) -> None:
    partner = FakeCa("partner.example", now=time.time())
    foreign = Server(server_context(ca, partner.issue("spiffe://partner.example/stepwrit/broker")))
    me.set(ca.issue(f"spiffe://{DOMAIN}/mcp/ledger"), {DOMAIN: [ca], "partner.example": [partner]})
    usual = HttpTransport(foreign.url, me)
    named = HttpTransport(foreign.url, me, "spiffe://partner.example/stepwrit/broker")
    try:
        assert (await named.send(PING)).status == 503
        with pytest.raises(Lost):
            await usual.send(PING)
    finally:
        await usual.close()
        await named.close()
        foreign.stop()


async def test_a_broker_that_is_not_there_was_not_sent_anything(ca: FakeCa, me: FakeIdentity) -> None:
    server = Server(server_context(ca, ca.issue(BROKER)))
    there, gone = HttpTransport(server.url, me), HttpTransport(server.url, me)
    try:
        assert (await there.send(PING)).status == 503
        await there.close()
        server.stop()
        with pytest.raises(Lost) as lost:
            await gone.send(PING)
    finally:
        await gone.close()

    assert not lost.value.sent


async def test_without_an_identity_nothing_is_sent(server: Server, me: FakeIdentity) -> None:
    transport = HttpTransport(server.url, me)
    try:
        assert (await transport.send(PING)).status == 503
        me.state = None
        with pytest.raises(IdentityUnavailable):
            await transport.send(PING)
    finally:
        await transport.close()
    assert len(server.seen) == 1


async def test_a_held_request_that_is_cancelled_in_the_middle_of_tls_leaves_no_connection(
    server: Server, me: FakeIdentity
) -> None:
    """The broker sees the end at once: nothing waits for a garbage collector, which is off here."""
    begun, ended = asyncio.Event(), asyncio.Event()
    held = replace(PING, hold_s=25)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)  # the handshake's first record has begun; it gets no answer
        begun.set()
        while await reader.read(4096):
            pass
        ended.set()
        writer.close()

    honest = HttpTransport(server.url, me)
    assert (await honest.send(held)).status == 503
    await honest.close()
    silent = await asyncio.start_server(mute, "127.0.0.1", 0)
    transport = HttpTransport(f"https://127.0.0.1:{silent.sockets[0].getsockname()[1]}", me)
    gc.disable()
    try:
        asking = asyncio.create_task(transport.send(held))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        async with asyncio.timeout(5):
            await ended.wait()
    finally:
        gc.enable()
        silent.close()
        await transport.close()


def server_context(ca: FakeCa, issued: Issued) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca.der)
    load_key_pair(context, issued)
    return context
