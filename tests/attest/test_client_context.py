"""Our clients talk to the workload they mean, or say nothing at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from tests.fakes.pki import FakeCa, FakeIdentity, Issued, identity

from stepwrit._tls import Expect, PeerRefused, client_context
from stepwrit.errors import IdentityUnavailable
from stepwrit_broker.edge.listeners import Listener, mtls_listener

BROKER, AGENT = "spiffe://a.test/broker", "spiffe://a.test/agent"


class World:
    """A server of a.test that counts what reaches it, and a client of a.test."""

    def __init__(self, server: Issued | None = None) -> None:
        now = time.time()
        self.ca, self.partner = FakeCa("a.test", now=now), FakeCa("b.test", now=now)
        self.bundles = {"a.test": [self.ca], "b.test": [self.partner]}
        self.server: FakeIdentity = identity(self.ca.issue(BROKER), self.bundles, clock=time.time)
        self.client: FakeIdentity = identity(self.ca.issue(AGENT), self.bundles, clock=time.time)
        self.reached = 0
        self.listener: Listener = mtls_listener("127.0.0.1", 0, self.server)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def get(self, expect: Expect = BROKER) -> int:
        context = client_context(self.client, expect)
        async with httpx2.AsyncClient(verify=context) as client:
            return (await client.get(self.listener.url)).status_code

    async def refusal(self, expect: Expect = BROKER) -> str:
        before = self.reached
        with pytest.raises(httpx2.ConnectError, match="peer refused") as refused:
            await self.get(expect)
        assert self.reached == before
        return str(refused.value)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.listener.start(made.app)
    assert await made.get() == 204
    yield made
    await made.listener.stop()


async def test_one_id_a_set_or_a_predicate_may_be_expected(world: World) -> None:
    assert await world.get(BROKER) == 204
    assert await world.get({BROKER, AGENT}) == 204
    assert await world.get(lambda who: who.startswith("spiffe://a.test/")) == 204


async def test_another_workload_of_the_same_domain_is_refused_before_a_byte_is_sent(world: World) -> None:
    for expect in ("spiffe://a.test/brokers", BROKER + "/", {AGENT}, set[str](), lambda _: False):
        assert BROKER in await world.refusal(expect)


async def test_a_partners_authority_cannot_play_our_broker(world: World) -> None:
    world.server.set(world.partner.issue("spiffe://b.test/x"), world.bundles)
    assert await world.get("spiffe://b.test/x") == 204
    world.server.set(world.partner.issue(BROKER), world.bundles)
    assert "untrusted" in await world.refusal()


async def test_a_server_certificate_that_is_no_svid_is_refused(world: World) -> None:
    world.server.set(world.ca.issue(BROKER, uris=(BROKER, AGENT)), world.bundles)
    # the server's own snapshot reader takes the first URI; the client must not
    assert "many_uris" in await world.refusal()


async def test_an_unknown_authority_is_refused_by_tls_itself(world: World) -> None:
    stranger = FakeCa("a.test", now=time.time())
    world.server.set(stranger.issue(BROKER), world.bundles)
    with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await world.get()


async def test_the_context_follows_rotation_and_withdrawal(world: World) -> None:
    context = client_context(world.client, BROKER)
    successor = FakeCa("a.test", now=time.time())
    both = {"a.test": [successor, world.ca]}
    async with httpx2.AsyncClient(
        verify=context, limits=httpx2.Limits(max_keepalive_connections=0)
    ) as client:
        assert (await client.get(world.listener.url)).status_code == 204
        world.server.set(successor.issue(BROKER), both)
        with pytest.raises(httpx2.ConnectError):
            await client.get(world.listener.url)
        world.client.set(successor.issue(AGENT), both)
        assert (await client.get(world.listener.url)).status_code == 204
        world.client.set(successor.issue(AGENT), {"a.test": []})
        with pytest.raises(httpx2.ConnectError):
            await client.get(world.listener.url)


async def test_without_an_identity_no_connection_is_made(world: World) -> None:
    world.client.state = None
    with pytest.raises(IdentityUnavailable):
        await world.get()


async def test_the_sync_client_is_as_strict(world: World) -> None:
    def get(expect: Expect) -> int:
        with httpx2.Client(verify=client_context(world.client, expect)) as client:
            return client.get(world.listener.url).status_code

    assert await asyncio.to_thread(get, BROKER) == 204
    with pytest.raises(httpx2.ConnectError, match="peer refused"):
        await asyncio.to_thread(get, AGENT)


async def test_plain_asyncio_and_plain_sockets_are_as_strict(world: World) -> None:
    host, port = world.listener.address
    _, writer = await asyncio.open_connection(host, int(port), ssl=client_context(world.client, BROKER))
    writer.close()
    with pytest.raises(PeerRefused) as refused:
        await asyncio.open_connection(host, int(port), ssl=client_context(world.client, AGENT))
    assert isinstance(refused.value, ssl.SSLError)

    def wrap(expect: Expect) -> str | None:
        plain = socket.create_connection((host, port))
        with plain, client_context(world.client, expect).wrap_socket(plain) as tls:
            return tls.version()

    assert await asyncio.to_thread(wrap, BROKER) == "TLSv1.3"
    with pytest.raises(PeerRefused):
        await asyncio.to_thread(wrap, AGENT)


def test_nothing_is_written_or_read_before_the_peer_is_judged() -> None:
    context = client_context(World().client, BROKER)
    tls = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(PeerRefused):
        tls.write(b"secret")
    with pytest.raises(PeerRefused):
        tls.read()
    one, other = socket.socketpair()
    with one, other, pytest.raises(ValueError, match="handshake"):
        context.wrap_socket(one, do_handshake_on_connect=False)


@pytest.mark.parametrize("identifier", [True, False])
@pytest.mark.parametrize("order", [("a.test", "b.test"), ("b.test", "a.test")])
async def test_a_partners_root_that_imitates_ours_disturbs_nobody(
    world: World, identifier: bool, order: tuple[str, str]
) -> None:
    """Same subject and key identifier as our authority: OpenSSL would take it for our chains' issuer."""
    assert await world.get() == 204
    imitation = world.partner.imitating(world.ca, identifier=identifier)
    ders = {"a.test": (world.ca.der,), "b.test": (imitation, world.partner.der)}
    give(world, {name: ders[name] for name in order})
    assert await world.get() == 204
    world.server.state = replace(world.server.state, **_own(world.partner.issue("spiffe://b.test/x")))
    assert await world.get("spiffe://b.test/x") == 204, "the partner's other root still counts"


SPELT: dict[str, Callable[[str], x509.NameAttribute[str]]] = {
    "in capitals": lambda name: x509.NameAttribute(NameOID.COMMON_NAME, name.upper()),
    "with more blanks": lambda name: x509.NameAttribute(
        NameOID.COMMON_NAME, f" {name.replace(' ', '   ')}  "
    ),
    "as another type of string": lambda name: x509.NameAttribute(
        NameOID.COMMON_NAME, name, _ASN1Type.PrintableString
    ),
}


@pytest.mark.parametrize("identifier", [True, False])
@pytest.mark.parametrize("spelt", SPELT)
async def test_a_partners_root_whose_name_openssl_takes_for_ours_disturbs_nobody(
    world: World, spelt: str, identifier: bool
) -> None:
    """OpenSSL compares names without case, blanks and type; so must we."""
    assert await world.get() == 204
    (attribute,) = world.ca.name
    subject = x509.Name([SPELT[spelt](str(attribute.value))])
    assert subject.public_bytes() != world.ca.name.public_bytes()
    imitation = world.partner.imitating(world.ca, identifier=identifier, subject=subject)
    give(world, {"b.test": (imitation, world.partner.der), "a.test": (world.ca.der,)})
    assert await world.get() == 204
    world.server.state = replace(world.server.state, **_own(world.partner.issue("spiffe://b.test/x")))
    assert await world.get("spiffe://b.test/x") == 204, "the partner's other root still counts"


async def test_a_root_that_openssl_cannot_read_disturbs_nobody_else(world: World) -> None:
    assert await world.get() == 204
    give(world, {"b.test": (b"0\x03\x02\x01\x01",), "a.test": (world.ca.der,)})
    assert await world.get() == 204


def give(world: World, bundles: dict[str, tuple[bytes, ...]]) -> None:
    """The same bundles to both ends, as DER."""
    for who in (world.server, world.client):
        assert who.state is not None
        who.state = replace(who.state, bundles=bundles, generation=who.state.generation + 1)


def _own(shown: Issued) -> dict[str, Any]:
    made = identity(shown, {}).state
    assert made is not None
    return {
        "chain": made.chain,
        "private_key": made.private_key,
        "generation": 99,
    }
