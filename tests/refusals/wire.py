"""The faces over the wire: real listeners of the broker, the SDK's real client, real TLS on loopback.

OpenSSL has the system's clock and cannot be given another. Authorities and leaves live for decades, so it
says yes at any time near ours; what is refused by time is refused by our own verifiers, who are told NOW.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlencode

import httpx2
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.pki import FakeCa, FakeIdentity, Issued, raw_client, write_pem
from tests.refusals.case import AUDIENCE, DECADE, DOMAIN, NOW, Case, Material, Trust
from tests.refusals.faces import Source

from stepwrit._tls import PeerRefused, client_context
from stepwrit.identity import X509Snapshot
from stepwrit.wire import CLIENT_ASSERTION_JWT_SPIFFE
from stepwrit_broker.attest.bundles import AuthoritySource, BundleSource
from stepwrit_broker.attest.jwt import JwtAttestor
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.edge.http import receive_request
from stepwrit_broker.edge.listeners import Listener, mtls_listener, tls_listener
from stepwrit_broker.edge.proving import ByAssertion, ByCertificate, Proving

HANDSHAKE = "handshake"  # TLS said no before our verifier was asked
REQUEST = "request"  # the listener said no to the request's form: it carries no token to verify
BEFORE = frozenset({HANDSHAKE, REQUEST})
_TLS_ERRORS = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError, httpx2.TransportError)


class Stand:
    """All faces of one material: `async with Stand(material) as stand: await stand.ask(face, case)`."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._ours = FakeCa(DOMAIN, begins=-DECADE, ends=DECADE)  # of the stand itself, known to nobody
        self._exit = AsyncExitStack()
        self._mtls: dict[str, Listener] = {}
        self._tls: Listener
        self.faces: Mapping[str, Callable[[Case], Awaitable[str | None]]] = MappingProxyType(
            {
                "broker mtls listener": self._by_mtls,
                "SDK client of a server": self._by_client,
                "broker tls listener, client_assertion": self._by_assertion,
                "broker tls listener, Bearer": self._by_bearer,
            }
        )

    async def __aenter__(self) -> Self:
        folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        for trust in self._material.trusts.values():
            self._mtls[trust.name] = await self._started(self._mtls_listener(trust), _by_certificate(trust))
        files = write_pem(self._issued(dns=("localhost",)), folder)
        usual = self._material.trusts["usual"]
        self._tls = await self._started(tls_listener("127.0.0.1", 0, *files), _by_assertion(usual))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def ask(self, face: str, case: Case) -> str | None:
        """None if the face accepts it; else its fault, HANDSHAKE or REQUEST."""
        return await self.faces[face](case)

    async def _by_mtls(self, case: Case) -> str | None:
        """Show the chain to the broker's listener, as an attacker's own TLS would."""
        host, port = self._mtls[case.trust].address
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=showing(case, server=False))
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                return _verdict(await reader.readexactly(size))
            finally:
                writer.close()
        except _TLS_ERRORS:
            return HANDSHAKE

    async def _by_client(self, case: Case) -> str | None:
        """The SDK connects to a server that shows the chain; it must say no before it sends a byte."""
        got = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(*_TLS_ERRORS):
                got.extend(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=showing(case, server=True))
        async with server:
            verdict = await self._dial(server.sockets[0].getsockname()[1], case.trust)
        assert verdict is None or not got, "something was sent to a server that was refused"
        return verdict

    async def _dial(self, port: int, trust: str) -> str | None:
        context = client_context(self._identity(self._material.trusts[trust]), lambda _: True)
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except PeerRefused as refused:
            return refused.why.partition(":")[0]
        except _TLS_ERRORS:
            return HANDSHAKE
        writer.write(b"hello")
        writer.close()
        return None

    async def _by_assertion(self, case: Case) -> str | None:
        form = {"client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE, "client_assertion": case.text}
        sent = {"content-type": "application/x-www-form-urlencoded"}
        return await self._post("/oauth/token", urlencode(form).encode(), sent)

    async def _by_bearer(self, case: Case) -> str | None:
        return await self._post("/v1/steps", b"{}", {"authorization": f"Bearer {case.text}"})

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> str | None:
        async with httpx2.AsyncClient(verify=raw_client(None), base_url=self._tls.url) as http:
            answer = await http.post(path, content=body, headers=headers)
        return _verdict(answer.content) if answer.status_code == 200 else REQUEST

    async def _started(self, listener: Listener, app: Any) -> Listener:
        await listener.start(app)
        self._exit.push_async_callback(listener.stop)
        return listener

    def _mtls_listener(self, trust: Trust) -> Listener:
        return mtls_listener("127.0.0.1", 0, self._identity(trust))

    def _identity(self, trust: Trust) -> FakeIdentity:
        issued = self._issued()
        snapshot = X509Snapshot(
            spiffe_id=f"spiffe://{DOMAIN}/broker",
            chain=issued.chain,
            private_key=issued.key,
            bundles=MappingProxyType(dict(trust.x509)),
            generation=1,
            expires_at=NOW + 3600,
        )
        return FakeIdentity(state=snapshot)

    def _issued(self, **shape: Any) -> Issued:
        return self._ours.issue(f"spiffe://{DOMAIN}/broker", begins=-DECADE / 2, ends=DECADE / 2, **shape)


def _by_certificate(trust: Trust) -> Any:
    return _app(ByCertificate(X509Attestor(BundleSource(Source(trust), max_age=60)), ignored=lambda _: None))


def _by_assertion(trust: Trust) -> Any:
    attestor = JwtAttestor(AuthoritySource(Source(trust), max_age=60), audience=AUDIENCE)
    return _app(ByAssertion(attestor, ignored=lambda _: None))


def _app(proving: Proving) -> Any:
    """Says who the caller is, by the listener's own way of proving it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            said = {"id": proving.workload(await receive_request(scope, receive), NOW).id}
        except Problem as problem:
            said = {"rule": str(problem.rule), "code": problem.code}
        body = json.dumps(said).encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return app


def _verdict(body: bytes) -> str | None:
    said = json.loads(body)
    if "id" in said:
        return None
    if said["code"] == "invalid_request" or said["rule"] == "jwt:no_assertion":
        return REQUEST
    return str(said["rule"]).partition(":")[2]


def showing(case: Case, *, server: bool) -> ssl.SSLContext:
    """A TLS side that shows the chain and has no scruples of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if not server:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    key = case.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(ssl.DER_cert_to_PEM_cert(der) for der in case.chain) + key)
        file.flush()
        context.load_cert_chain(file.name)
    return context
