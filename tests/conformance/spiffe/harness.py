"""The SDK as a process that a foreign suite talks to over the network; see README.md.

It gets its identity and its bundles from the Workload API at SPIFFE_ENDPOINT_SOCKET, and every verdict is the
SDK's or the broker's own code.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from stepwrit._tls import client_context, sent_chain
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit.jwtsvid import JwtSvidRefused, verify_jwt_svid
from stepwrit.x509svid import SvidRefused, VerifiedSvid, verify_x509_svid
from stepwrit_broker.edge.certificates import SvidContexts, SwappingContext
from stepwrit_broker.edge.http import receive_request
from stepwrit_broker.edge.listeners import plain_listener

Said = tuple[int, dict[str, Any]]
_STATUS = {"ok": 200, "rejected": 422, "error": 500, "unsupported": 501}


def _said(status: str, **more: Any) -> Said:
    return _STATUS[status], {"status": status, **more}


class Harness:
    """One workload. `await run(say)` prints its ports and serves until it is told to end."""

    def __init__(self, socket: str) -> None:
        self._identity, self._jwt = WorkloadIdentity(socket), JwtBundleWatch(socket)
        self._routes: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Said]]] = {
            "/v1/jwt/validate": self._validate,
            "/v1/jwt/fetch": self._fetch,
            "/v1/x509/dial": self._dial,
        }

    async def run(self, say: Callable[[str], None], ended: asyncio.Event) -> None:
        """Start, say READY once there is an SVID, serve until `ended`."""
        self._identity.start_sync()
        self._jwt.start()
        control = plain_listener("127.0.0.1", 0, name="control")
        context = SwappingContext(SvidContexts(lambda _: None, self._identity).current)
        x509 = await asyncio.start_server(self._greet, "127.0.0.1", 0, ssl=context)
        await control.start(self._control)
        try:
            await self._ready(ended)
            port = int(control.address[1])
            for line in (
                "VERSION=1",
                f"X509_PORT={x509.sockets[0].getsockname()[1]}",
                f"CONTROL_PORT={port}",
            ):
                say(f"SPIFFE_{'HARNESS_' if line[0] == 'V' else ''}{line}")
            say("READY")
            await ended.wait()
        finally:
            x509.close()
            await control.stop()
            self._jwt.close()
            await self._identity.close()

    async def _ready(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                await self._identity.wait_ready(1.0)
            except IdentityUnavailable as none:
                print(none, file=sys.stderr)
            else:
                return

    async def _greet(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The client's SPIFFE ID as a line, or nothing if it is not believed."""
        try:
            found = self._judged(writer)
        except (SvidRefused, IdentityUnavailable) as refused:
            print(refused, file=sys.stderr)
        else:
            writer.write(f"{found.spiffe_id}\n".encode())
        writer.close()

    def _judged(self, writer: asyncio.StreamWriter) -> VerifiedSvid:
        peer = sent_chain(writer.get_extra_info("ssl_object"))
        if peer is None:
            raise SvidRefused("no_certificate")
        bundles = self._identity.snapshot().bundles
        return verify_x509_svid(peer.leaf, peer.intermediates, bundles, self._identity.now())

    async def _validate(self, asked: Mapping[str, Any]) -> Said:
        """By the JWT bundles; a token may have further audiences, as the specification lets it."""
        try:
            found = verify_jwt_svid(
                str(asked["token"]),
                audience=str(asked["audience"]),
                authorities=self._jwt.current().by_domain,
                now=self._identity.now(),
                sole_audience=False,
            )
        except JwtSvidRefused as refused:
            return _said("rejected", message=str(refused))
        return _said("ok", spiffe_id=found.spiffe_id)

    async def _fetch(self, asked: Mapping[str, Any]) -> Said:
        audience = asked["audience"]
        if len(audience) != 1 or asked.get("spiffe_id"):
            return _said("unsupported", message="the SDK asks for one audience, as the identity it is")
        token = await asyncio.to_thread(self._identity.jwt_svid, str(audience[0]))
        return _said("ok", svids=[{"spiffe_id": self._identity.snapshot().spiffe_id, "token": token}])

    async def _dial(self, asked: Mapping[str, Any]) -> Said:
        """As a client; whoever it is, if it is somebody."""
        host, _, port = str(asked["address"]).rpartition(":")
        context = client_context(self._identity, lambda _: True)
        try:
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        except ssl.SSLError as refused:
            return _said("rejected", message=str(refused))
        try:
            return _said("ok", spiffe_id=self._judged(writer).spiffe_id)
        finally:
            writer.close()

    async def _control(self, scope: Any, receive: Any, send: Any) -> None:
        status, body = await self._answer(scope, receive)
        raw = json.dumps(body).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": raw})

    async def _answer(self, scope: Any, receive: Any) -> Said:
        if scope["path"] == "/v1/info":
            return 200, {"sdk": "stepwrit", "language": "python"}
        route = self._routes.get(scope["path"])
        if route is None:
            return _said("unsupported")
        try:
            asked = json.loads((await receive_request(scope, receive)).body)
            return await route(asked)
        except Exception as broken:  # noqa: BLE001  a fault of the harness is never a refusal
            return _said("error", message=f"{type(broken).__name__}: {broken}")


async def serve() -> None:
    """Until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await Harness(os.environ["SPIFFE_ENDPOINT_SOCKET"]).run(lambda line: print(line, flush=True), ended)
