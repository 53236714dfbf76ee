"""Server TLS contexts that follow rotation: each new handshake uses what is in force at that moment.

The servers hold one outer context for ever; it owns no certificate and hands every connection to the
current inner one. Connections already made are not touched. Session tickets are off: a ticket would carry
a caller past an authority that has been withdrawn since.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, cast

from stepwrit._tls import load_snapshot
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import X509Snapshot

_log = logging.getLogger("stepwrit.edge")

OnRefused = Callable[[str], None]
"""Told the reason of each handshake that failed: a few stable words, fit for a metric's label."""


class ServerIdentity(Protocol):
    """The part of `stepwrit.identity.WorkloadIdentity` that a listener needs."""

    def snapshot(self) -> X509Snapshot:
        """The current state, or IdentityUnavailable."""
        ...

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class _InnerContext(ssl.SSLContext):
    on_refused: OnRefused


class _CountedHandshake(ssl.SSLObject):
    """asyncio and uvloop drop failed handshakes before the application sees them; here they are counted."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            cast(_InnerContext, self.context).on_refused(_why(error))
            raise

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Event loops ask for the parsed form, which nobody reads and which raises for names that are odd."""
        return super().getpeercert(True) if binary_form else {}


class SwappingContext(ssl.SSLContext):
    """The outer context: `current` says which inner one the next connection gets."""

    def __new__(cls, current: Callable[[], ssl.SSLContext]) -> Self:  # noqa: ARG004
        """A server's context, whatever it is built from."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, current: Callable[[], ssl.SSLContext]) -> None:
        self._current = current

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """What an event loop calls for each connection."""
        return self._current().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def wrap_socket(self, *_: Any, **__: Any) -> ssl.SSLSocket:
        """Not for servers of ours."""
        raise NotImplementedError("listeners are served by an event loop")


class SvidContexts:
    """Our SVID, a client certificate demanded, TLS 1.3.

    The roots of all trust domains are in one pool here, so passing this handshake proves no identity:
    attestation verifies the chain again, against the bundle of the claimed trust domain.
    """

    def __init__(self, on_refused: OnRefused, identity: ServerIdentity) -> None:
        self._on_refused = on_refused
        self._identity = identity
        self._lock = threading.Lock()
        self._inner: tuple[int, ssl.SSLContext] | None = None
        self._nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # no certificate: every handshake fails

    def current(self) -> ssl.SSLContext:
        """Follows the identity; while there is none, a context that refuses everyone."""
        try:
            snapshot = self._identity.snapshot()
        except IdentityUnavailable:
            self._on_refused("identity_unavailable")
            return self._nobody
        with self._lock:
            if self._inner is None or self._inner[0] != snapshot.generation:
                self._inner = snapshot.generation, self._build(snapshot)
            return self._inner[1]

    def _build(self, snapshot: X509Snapshot) -> ssl.SSLContext:
        inner = _fresh(self._on_refused, ssl.TLSVersion.TLSv1_3)
        inner.verify_mode = ssl.CERT_REQUIRED
        load_snapshot(inner, snapshot)
        return inner


class FileContexts:
    """Certificate and key from PEM files, read again when they change; no client certificate."""

    def __init__(self, on_refused: OnRefused, certfile: Path, keyfile: Path) -> None:
        self._on_refused = on_refused
        self._files = (certfile, keyfile)
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._inner: ssl.SSLContext = self._build()

    def current(self) -> ssl.SSLContext:
        """Follows the files; while they do not fit together, the last pair that did."""
        with self._lock:
            seen = self._signature()
            if seen != self._seen:
                self._seen = seen  # also if they do not load: the next change is the next try
                self._reload()
            return self._inner

    def _reload(self) -> None:
        try:
            self._inner = self._build()
        except (OSError, ssl.SSLError) as error:
            _log.warning("certificate files not taken over, the last good ones stay: %s", error)

    def _build(self) -> ssl.SSLContext:
        inner = _fresh(self._on_refused, ssl.TLSVersion.TLSv1_2)
        inner.load_cert_chain(*self._files)
        return inner

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        try:
            states = [os.stat(path) for path in self._files]
        except OSError:
            return ()
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _fresh(on_refused: OnRefused, minimum: ssl.TLSVersion) -> _InnerContext:
    inner = _InnerContext(ssl.PROTOCOL_TLS_SERVER)
    inner.minimum_version = minimum
    inner.num_tickets = 0
    inner.options |= ssl.OP_NO_TICKET
    inner.set_alpn_protocols(["http/1.1"])
    inner.sslobject_class = _CountedHandshake
    inner.on_refused = on_refused
    return inner


def _why(error: ssl.SSLError) -> str:
    reason = (error.reason or "broken_handshake").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}:{error.verify_message}"
    return reason
