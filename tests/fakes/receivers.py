"""A real SMTP server and a real HTTP receiver on loopback, which keep what they get."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


@dataclass
class Mailbox:
    """What a server took. refuse: what it answers to a recipient instead of 250; empty for yes."""

    port: int = 0
    got: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refuse: str = ""
    sessions: list[bool] = field(default_factory=list)  # of each mail: whether the session was encrypted

    @property
    def mails(self) -> list[EmailMessage]:
        return [mail for _, mail in self.got]


class _Handler:
    def __init__(self, box: Mailbox) -> None:
        self._box = box

    async def handle_RCPT(  # noqa: N802  the library's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if self._box.refuse:
            return self._box.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        mail = cast("EmailMessage", message_from_bytes(envelope.content, policy=default))
        self._box.got.append((list(envelope.rcpt_tos), mail))
        self._box.sessions.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"


@contextlib.asynccontextmanager
async def smtp_server(
    cert: tuple[Path, Path] | None = None, *, starttls: bool = True, login: tuple[str, str] | None = None
) -> AsyncIterator[Mailbox]:
    """In the running loop. cert: certificate and key; None speaks plainly. starttls: else TLS at once."""
    box, tls = Mailbox(), None
    if cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*cert)

    def check(*said: Any) -> AuthResult:
        data: LoginPassword = said[-1]
        known = login is not None and (data.login, data.password) == (login[0].encode(), login[1].encode())
        return AuthResult(success=known, handled=False)

    inside = tls if starttls else None
    made: list[asyncio.BaseTransport] = []

    class Kept(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)
            super().connection_made(transport)

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not see TLS that is there from the start
            return Kept(
                _Handler(box),
                hostname="localhost",
                tls_context=inside,
                require_starttls=inside is not None,
                auth_required=login is not None,
                auth_require_tls=inside is not None,
                authenticator=check if login else None,
            )

    serving = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", 0, ssl=None if starttls else tls
    )
    box.port = serving.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        serving.close()
        for each in made:
            each.close()
        await serving.wait_closed()
        await asyncio.sleep(0)


@dataclass
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """answers: status and headers of the next answers; 204 when there is none left."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)


@contextlib.contextmanager
def http_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.got.append(Received(self.path, headers, body))
            status, more = receiver.answers.pop(0) if receiver.answers else (204, {})
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET: Callable[..., None] = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
