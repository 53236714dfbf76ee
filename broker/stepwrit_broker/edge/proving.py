"""What a request shows of its caller, by listener: a certificate of its connection, or a JWT-SVID of its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast

from stepwrit.wire import CLIENT_ASSERTION_JWT_SPIFFE
from stepwrit.x509svid import TlsPeer
from stepwrit_broker.core.errors import Malformed, Unproven
from stepwrit_broker.core.workload import SpiffeId, Workload
from stepwrit_broker.edge.forwarded import Forwarding, sent
from stepwrit_broker.edge.http import Request

OAUTH: Final = "/oauth/"


class CertificateAttestor(Protocol):
    """Stage 1 for a certificate: of a connection, or forwarded by the proxy `via`."""

    def attest(self, tls: TlsPeer | None, now: float, via: SpiffeId | None = None) -> Workload:
        """The attested workload. Raises Unproven(`unattested`), Unavailable."""
        ...


class AssertionAttestor(Protocol):
    """Stage 1 for a JWT-SVID."""

    def attest(self, unverified: str, now: float) -> Workload:
        """The attested workload. Raises Unproven(`unattested`), Unavailable."""
        ...


class Proving(Protocol):
    """How a listener's callers prove who they are."""

    def workload(self, request: Request, now: float) -> Workload:
        """The attested workload. Raises Malformed, Unproven(`unattested`), Unavailable."""
        ...


Ignored = Callable[[str], None]
"""Told each header with a client certificate that came from somebody who is not believed."""


class ByCertificate:
    """The `mtls` listener: the client certificate of the connection; of the proxy's, the forwarded one."""

    def __init__(
        self, attestor: CertificateAttestor, *, ignored: Ignored, forwarding: Forwarding | None = None
    ) -> None:
        self._attestor, self._ignored, self._forwarding = attestor, ignored, forwarding

    def workload(self, request: Request, now: float) -> Workload:
        """By the connection alone, whatever the request says: only the proxy's own may say more.

        The proxy itself is never the caller, neither without a forwarded certificate nor by its own.
        """
        peer = cast("TlsPeer | None", request.scope.get("extensions", {}).get("stepwrit.tls"))
        direct = self._attestor.attest(peer, now)
        if self._forwarding is None or direct.id != self._forwarding.proxy.id:
            ignore(request, self._ignored)
            return direct
        client = self._attestor.attest(self._forwarding.peer(sent(request.scope)), now, direct.id)
        if client.id == direct.id:
            raise Unproven(
                "unattested",
                "the proxy is nobody's caller, and no proxy stands behind it",
                rule="proxy:itself",
                who_can_change_it="the operator of the proxy",
            )
        return client


def ignore(request: Request, ignored: Ignored) -> None:
    """Tell of certificates in headers that count for nothing."""
    for name, _ in sent(request.scope):
        ignored(name.decode())


class ByAssertion:
    """The `tls` listener: a JWT-SVID, as `client_assertion` on OAuth routes, as a bearer on the others.

    Sources: draft-ietf-oauth-spiffe-client-auth section 3; JWT-SVID.md section 5.
    """

    def __init__(self, attestor: AssertionAttestor, *, ignored: Ignored) -> None:
        self._attestor, self._ignored = attestor, ignored

    def workload(self, request: Request, now: float) -> Workload:
        """By what the request carries. Two ways at once are refused (RFC 6749 section 2.3).

        A certificate in a header counts for nothing here, whoever sends it.
        """
        ignore(request, self._ignored)
        bearer = _bearer(request)
        if not request.path.startswith(OAUTH):
            return self._attestor.attest(_there(bearer, "Authorization: Bearer with a JWT-SVID"), now)
        if bearer is not None:
            raise Malformed("invalid_request", "a client authenticates once: by client_assertion here")
        form = request.form()
        assertion = _there(form.get("client_assertion"), "client_assertion with a JWT-SVID")
        if form.get("client_assertion_type") != CLIENT_ASSERTION_JWT_SPIFFE:
            raise _unproven(f"client_assertion_type must be {CLIENT_ASSERTION_JWT_SPIFFE}", "assertion_type")
        return self._attestor.attest(assertion, now)


def _bearer(request: Request) -> str | None:
    sent = request.header(b"authorization")
    if sent is None:
        return None
    scheme, _, token = sent.partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token:
        raise Malformed("invalid_request", "Authorization: one Bearer token")
    return token


def _there(sent: str | None, what: str) -> str:
    if not sent:
        raise _unproven(f"there is no {what}", "no_assertion")
    return sent


def _unproven(reason: str, fault: str) -> Unproven:
    return Unproven("unattested", reason, rule=f"jwt:{fault}", who_can_change_it="the operator of the caller")
