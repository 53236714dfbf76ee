"""One HTTP connection: what its transport proves goes into the scope, and nobody may hold it idle.

`scope["extensions"]` gets `stepwrit.listener` (the listener's name) and, by kind of listener,
`stepwrit.tls` (a `stepwrit.x509svid.TlsPeer`, one object per connection) or `stepwrit.unix` (`UnixPeer`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import uvicorn
from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stepwrit._tls import sent_chain
from stepwrit.x509svid import TlsPeer

MAX_HEAD_BYTES: Final = 65_536
MAX_EXPIRY_MARGIN_S: Final = 5.0

Evidence = Callable[[asyncio.Transport], Mapping[str, object] | None]
"""What a new connection's transport proves, as scope extensions; None closes the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixPeer:
    """Who is at the other end of a Unix socket, by the kernel's word at connect time."""

    uid: int
    gid: int
    pid: int | None


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with evidence, deadlines for requests and a size for their heads, and an end.

    head_timeout: seconds in which a request's head must arrive; body_timeout: the rest of it. closes_in:
    seconds until the connection is closed gracefully (its certificate ends), from its evidence, or None.
    """

    def __init__(
        self,
        *,
        config: uvicorn.Config,
        server_state: ServerState,
        evidence: Evidence,
        closes_in: Callable[[Mapping[str, object]], float | None],
        head_timeout: float,
        body_timeout: float,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self._evidence = evidence
        self._closes_in = closes_in
        self._head_timeout, self._body_timeout = head_timeout, body_timeout
        self._extensions: Mapping[str, object] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._in_head = True
        self._moved = False  # whether the data of this moment began or held a body
        self._head_bytes = self._named_bytes = 0  # as they come, and as the parser names them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        """Take the evidence; without it there is no connection."""
        super().connection_made(transport)
        found = self._evidence(transport)
        if found is None:
            transport.abort()
            return
        self._extensions = found
        self._arm("head", self._head_timeout, transport.abort)
        ends = self._closes_in(found)
        if ends is not None:
            self._arm("end", ends, self.shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        for name in tuple(self._timers):
            self._disarm(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hold a request's head to its deadline and size, and its trailers, which are held in memory too."""
        if self._in_head and "head" not in self._timers:
            self._arm("head", self._head_timeout, self.transport.abort)
        self._moved = False
        super().data_received(data)
        if self._moved:  # what came with a part of a body is mostly that body
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head or trailers too large.")

    def on_message_begin(self) -> None:
        """Show the evidence to the application."""
        super().on_message_begin()
        self._named_bytes = 0
        cast(dict[str, Any], self.scope)["extensions"] = dict(self._extensions)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Hold the head to its size also when all of it came at once: the parser stops here, with a 400.

        A trailer field is no header field (RFC 9110 section 6.5.1): what comes after a body is left out, for
        a proxy that sets or removes header fields lets it through.
        """
        self._named_bytes += len(name) + len(value) + 4
        if self._named_bytes > MAX_HEAD_BYTES:
            raise ValueError("request head too large")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is in time."""
        self._in_head, self._moved = False, True
        self._disarm("head")
        self._arm("body", self._body_timeout, self.transport.abort)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body; the application counts it."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; wait for the next head."""
        self._in_head = self._moved = True
        self._disarm("body")
        super().on_message_complete()

    def _arm(self, name: str, delay: float, deed: Callable[[], None]) -> None:
        self._disarm(name)
        self._timers[name] = self.loop.call_later(max(delay, 0.0), deed)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def tls_evidence(transport: asyncio.Transport) -> Mapping[str, object] | None:
    """The client's certificates as sent; None without any (the handshake should not have passed)."""
    tls = transport.get_extra_info("ssl_object")
    peer = None if tls is None else sent_chain(tls)
    return None if peer is None else {"stepwrit.tls": peer}


def unix_evidence(transport: asyncio.Transport) -> Mapping[str, object] | None:
    """The peer's credentials by the kernel; None where the platform has no such word."""
    raw = transport.get_extra_info("socket")
    if sys.platform == "linux":
        pid, uid, gid = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return {"stepwrit.unix": UnixPeer(uid=uid, gid=gid, pid=pid)}
    if sys.platform == "darwin":
        # struct xucred of <sys/ucred.h>: version, uid, number of groups, groups (first: the gid)
        _, uid, _, gid = struct.unpack("IIh2xI60x", raw.getsockopt(0, socket.LOCAL_PEERCRED, 76))
        return {"stepwrit.unix": UnixPeer(uid=uid, gid=gid, pid=None)}
    return None


def no_evidence(_: asyncio.Transport) -> Mapping[str, object]:
    """Nothing is proved about the peer."""
    return {}


def until_certificate_ends(extensions: Mapping[str, object], now: float) -> float | None:
    """Seconds until shortly before the client's certificate ends, so that it reconnects with its next.

    None for one that cannot be read: attestation refuses each of its requests.
    """
    peer = cast(TlsPeer, extensions["stepwrit.tls"])
    try:
        leaf = x509.load_der_x509_certificate(peer.leaf)
    except (ValueError, x509.InvalidVersion):
        return None
    life = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    return leaf.not_valid_after_utc.timestamp() - now - min(MAX_EXPIRY_MARGIN_S, life / 10)
