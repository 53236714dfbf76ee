"""TLS with the workload's SVID: contexts that follow rotation and judge the peer by its SPIFFE ID.

OpenSSL checks a chain against one pool of roots, which lets any trust domain vouch for any ID. So each
context checks the peer once more, inside the handshake and before a byte of a request is sent, with the
verifier of `stepwrit.x509svid` against the bundle of the peer's own trust domain.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stepwrit._roots import without_imitations
from stepwrit.identity import X509Snapshot
from stepwrit.spiffe_id import trust_domain_of
from stepwrit.x509svid import Bundles, SvidRefused, TlsPeer, VerifiedSvid, verify_x509_svid

Expect = str | Collection[str] | Callable[[str], bool]
"""Whom to accept: one SPIFFE ID, any of several, or a predicate on the ID. Exact bytes, no patterns."""

_log = logging.getLogger("stepwrit.tls")
_ENCODING_DER: Final = 2  # _ssl.ENCODING_DER; the public name exists from 3.13 on


class Identity(Protocol):
    """The part of `WorkloadIdentity` that contexts need."""

    def snapshot(self) -> X509Snapshot:
        """The current state, or IdentityUnavailable."""
        ...

    def now(self) -> float:
        """Seconds since the epoch, by the identity's clock."""
        ...


NOT_EXPECTED: Final = "which is not who was asked for"


class PeerRefused(ssl.SSLCertVerificationError):
    """The peer's certificate is valid TLS, but not a workload we expect. `reason` names the fault."""

    def __init__(self, why: str) -> None:
        super().__init__(ssl.SSLErrorNumber.SSL_ERROR_SSL, f"peer refused: {why}")
        self.why: Final = why


def client_context(identity: Identity, expect: Expect) -> ssl.SSLContext:
    """A context for connections to workloads: shows our SVID, accepts only the `expect`ed SPIFFE IDs.

    Give it to httpx2 (`verify=`), asyncio, anyio or `wrap_socket`. The host name is not checked: the
    SPIFFE ID is. A handshake with anyone else raises `PeerRefused` (an `ssl.SSLError`); with no usable
    identity, `stepwrit.errors.IdentityUnavailable`.
    """
    return _ClientContext(identity, _predicate(expect))


def reader_context(bundles: Bundles, expect: Expect, now: Callable[[], float]) -> ssl.SSLContext:
    """A context for one connection to a workload to whom we show nothing ourselves.

    Only the `expect`ed SPIFFE IDs are accepted, each by the bundle of its own trust domain as it stands now.
    now: seconds since the epoch. A handshake with anyone else raises `PeerRefused` (an `ssl.SSLError`).
    """
    accepts = _predicate(expect)
    inner = _checking(lambda tls: _judged(tls, bundles, now(), accepts))
    inner.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_roots(inner, bundles)
    return inner


def sent_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> TlsPeer | None:
    """The peer's certificates as sent, leaf first; None if it sent none."""
    raw = cast(Any, tls)._sslobj  # SSLObject has the chain only from 3.13 on
    chain = [_as_der(certificate) for certificate in raw.get_unverified_chain() or ()]
    return TlsPeer(leaf=chain[0], intermediates=tuple(chain[1:])) if chain else None


def load_snapshot(context: ssl.SSLContext, snapshot: X509Snapshot) -> None:
    """Our chain and key, and the roots of every trust domain, into a fresh context."""
    with _pem_file(snapshot) as path:
        context.load_cert_chain(path)
    _load_roots(context, without_imitations(snapshot.bundles, trust_domain_of(snapshot.spiffe_id)))


def _load_roots(context: ssl.SSLContext, bundles: Bundles) -> None:
    for domain, bundle in bundles.items():
        try:
            if bundle:
                context.load_verify_locations(cadata=b"".join(bundle))
        except (ssl.SSLError, ValueError) as bad:  # a partner's oddity must not end everybody's handshakes
            _log.warning("the bundle of %s is left out: %s", domain, bad)
    # a bundle may hold an intermediate as its root
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


class _ClientContext(ssl.SSLContext):
    """What libraries hold for ever; each connection is made by the context of the current snapshot.

    It holds no certificate and no root of its own, so a use that slips past the delegation fails.
    """

    def __new__(cls, identity: Identity, accepts: Callable[[str], bool]) -> Self:  # noqa: ARG004
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, identity: Identity, accepts: Callable[[str], bool]) -> None:
        self.check_hostname = False
        self.verify_mode = ssl.CERT_REQUIRED
        self._identity = identity
        self._accepts = accepts
        self._lock = threading.Lock()
        self._alpn: list[str] = []
        self._current: tuple[int, _SnapshotContext] | None = None

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Remembered for every later snapshot's context (HTTP clients set it per connection)."""
        with self._lock:
            self._alpn = list(alpn_protocols)
            if self._current is not None:
                self._current[1].set_alpn_protocols(self._alpn)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002  a resumed session would skip the checks
    ) -> ssl.SSLObject:
        return self._inner().wrap_bio(incoming, outgoing, server_side, server_hostname)

    def wrap_socket(
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002
    ) -> ssl.SSLSocket:
        if not do_handshake_on_connect:
            raise ValueError("the handshake judges the peer: it cannot be left to the first write")
        return self._inner().wrap_socket(sock, server_side, True, suppress_ragged_eofs, server_hostname)

    def _inner(self) -> _SnapshotContext:
        snapshot = self._identity.snapshot()
        with self._lock:
            if self._current is None or self._current[0] != snapshot.generation:
                self._current = snapshot.generation, self._build(snapshot)
            return self._current[1]

    def _build(self, snapshot: X509Snapshot) -> _SnapshotContext:
        inner = _checking(self._judge)
        inner.minimum_version = ssl.TLSVersion.TLSv1_3
        load_snapshot(inner, snapshot)
        if self._alpn:
            inner.set_alpn_protocols(self._alpn)
        return inner

    def _judge(self, tls: ssl.SSLObject | ssl.SSLSocket) -> VerifiedSvid:
        """By the bundles of this moment."""
        return _judged(tls, self._identity.snapshot().bundles, self._identity.now(), self._accepts)


_Judge = Callable[[ssl.SSLObject | ssl.SSLSocket], VerifiedSvid]


class _SnapshotContext(ssl.SSLContext):
    judge: _Judge


def _checking(judge: _Judge) -> _SnapshotContext:
    """A client's context that has nobody but `judge` say whether the peer is right."""
    inner = _SnapshotContext(ssl.PROTOCOL_TLS_CLIENT)
    inner.check_hostname = False
    inner.verify_mode = ssl.CERT_REQUIRED
    inner.sslobject_class = _CheckedObject
    inner.sslsocket_class = _CheckedSocket
    inner.judge = judge
    return inner


def _judged(
    tls: ssl.SSLObject | ssl.SSLSocket, bundles: Bundles, now: float, accepts: Callable[[str], bool]
) -> VerifiedSvid:
    """Who the peer is; PeerRefused unless it is expected."""
    peer = sent_chain(tls)
    if peer is None:
        raise PeerRefused("no certificate")
    try:
        svid = verify_x509_svid(peer.leaf, peer.intermediates, bundles, now)
    except SvidRefused as refused:
        raise PeerRefused(str(refused)) from refused
    if not accepts(svid.spiffe_id):
        raise PeerRefused(f"it is {svid.spiffe_id}, {NOT_EXPECTED}")
    return svid


class _CheckedObject(ssl.SSLObject):
    judged = False

    def do_handshake(self) -> None:
        super().do_handshake()
        cast(_SnapshotContext, self.context).judge(self)
        self.judged = True

    def write(self, data: Any) -> int:
        if not self.judged:  # OpenSSL would do the handshake by itself, without the judgement
            raise PeerRefused("write before the handshake")
        return super().write(data)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the standard library's name
        if not self.judged:
            raise PeerRefused("read before the handshake")
        return super().read(len, buffer)


class _CheckedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        try:
            cast(_SnapshotContext, self.context).judge(self)
        except BaseException:
            self.close()
            raise


def _predicate(expect: Expect) -> Callable[[str], bool]:
    if callable(expect):
        return expect
    wanted = frozenset((expect,) if isinstance(expect, str) else expect)
    return wanted.__contains__


def _as_der(certificate: Any) -> bytes:
    return certificate if isinstance(certificate, bytes) else bytes(certificate.public_bytes(_ENCODING_DER))


@contextmanager
def _pem_file(snapshot: X509Snapshot) -> Generator[str]:
    """The ssl module reads keys from files only: an anonymous one, else a private short-lived one."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("svid"), "wb") as file:
            file.write(_pem(snapshot))
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:  # 0600, removed on leaving
        file.write(_pem(snapshot))
        file.flush()
        yield file.name


def _pem(snapshot: X509Snapshot) -> bytes:
    key = snapshot.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in snapshot.chain)
    return key + b"".join(chain)
