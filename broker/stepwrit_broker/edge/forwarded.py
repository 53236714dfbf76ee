"""The client certificate that a TLS-terminating proxy forwards, from exactly one configured header.

    peer = Forwarding(proxy).peer(sent(scope))  # as `stepwrit.x509svid.TlsPeer`; nothing of it is trusted yet

`client-cert`: RFC 9440, `Client-Cert` and `Client-Cert-Chain` as RFC 8941 byte sequences. `xfcc`: Envoy's
`X-Forwarded-Client-Cert` with `Cert=`, perhaps `Chain=`. Whoever the certificate names is left to the same
path validation as on a direct connection: this module only reads, strictly, and says what it could not read.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from stepwrit.x509svid import TlsPeer
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.workload import ForwardedSource, Proxy
from stepwrit_broker.edge.encoded import canonical_base64
from stepwrit_broker.edge.http import Scope
from stepwrit_broker.edge.xfcc import read_xfcc

CLIENT_CERT: Final = b"client-cert"
CLIENT_CERT_CHAIN: Final = b"client-cert-chain"
XFCC: Final = b"x-forwarded-client-cert"
NAMES: Final = frozenset({CLIENT_CERT, CLIENT_CERT_CHAIN, XFCC})
SPELLED: Final = {
    CLIENT_CERT: "Client-Cert",
    CLIENT_CERT_CHAIN: "Client-Cert-Chain",
    XFCC: "X-Forwarded-Client-Cert",
}
FIELDS: Final[dict[ForwardedSource, tuple[bytes, frozenset[bytes]]]] = {
    "client-cert": (CLIENT_CERT, frozenset({CLIENT_CERT, CLIENT_CERT_CHAIN})),
    "xfcc": (XFCC, frozenset({XFCC})),
}
"""Source -> the field that must be there, all fields that may be."""

MAX_FIELD_BYTES: Final = 32_768
MAX_CERTIFICATE_BYTES: Final = 8_192
MAX_INTERMEDIATES: Final = 4
MAX_PEERS: Final = 4_096

Fields = tuple[tuple[bytes, bytes], ...]


def take(scope: Scope) -> None:
    """Out of the request's headers, kept aside for `sent`: nothing else ever reads these fields."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    if any(name in NAMES for name, _ in headers):
        scope["stepwrit.forwarded"] = tuple((name, value) for name, value in headers if name in NAMES)
        scope["headers"] = [each for each in headers if each[0] not in NAMES]


def sent(scope: Scope) -> Fields:
    """The fields that `take` put aside."""
    found: Fields = scope.get("stepwrit.forwarded", ())
    return found


class Forwarding:
    """Reads what one proxy forwards. Many clients share its connections, so certificates are known by their
    content, never by connection.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy: Final = proxy
        self._peers: OrderedDict[bytes, TlsPeer] = OrderedDict()

    def peer(self, fields: Fields) -> TlsPeer:
        """The client's certificates as forwarded; the same object for the same bytes, so that an attestor's
        memo serves. Raises Unproven(`unattested`).
        """
        name = _digest(fields)
        known = self._peers.get(name)
        if known is None:
            known = self._peers[name] = read_peer(self.proxy.source, fields)
            if len(self._peers) > MAX_PEERS:
                self._peers.popitem(last=False)
        self._peers.move_to_end(name)
        return known


def read_peer(source: ForwardedSource, fields: Fields) -> TlsPeer:
    """The certificates in these fields, leaf first. Raises Unproven(`unattested`)."""
    needed, allowed = FIELDS[source]
    spelled = SPELLED[needed]
    values = dict(fields)
    if not values.keys() <= allowed:
        raise _no("other_source", f"the proxy sent a certificate in another header than {spelled} too")
    if len(values) < len(fields):
        raise _no("sent_twice", f"the proxy sent the client's certificate more than once in {spelled}")
    if needed not in values:
        raise _no("no_certificate", f"the proxy sent no {spelled} header: who its client is, is not known")
    if max(map(len, values.values())) > MAX_FIELD_BYTES:
        raise _no("too_large", f"the certificates in {spelled} are larger than allowed")
    try:
        leaf, *others = _rfc9440(values) if source == "client-cert" else read_xfcc(values[XFCC])
        return _peer(leaf, others)
    except (ValueError, x509.InvalidVersion) as bad:
        raise _no("malformed", f"what the proxy sent in {spelled} is no client certificate") from bad


def _peer(leaf: bytes, intermediates: list[bytes]) -> TlsPeer:
    if len(intermediates) > MAX_INTERMEDIATES:
        raise ValueError("too many intermediates")
    for der in (leaf, *intermediates):
        if len(der) > MAX_CERTIFICATE_BYTES:
            raise ValueError("too large a certificate")
        x509.load_der_x509_certificate(der)  # ValueError also for bytes behind its end
    return TlsPeer(leaf=leaf, intermediates=tuple(intermediates))


def _rfc9440(values: dict[bytes, bytes]) -> list[bytes]:
    """RFC 9440 sections 2.2 and 2.3: an Item, and a List whose members each certify the one before."""
    chain = values.get(CLIENT_CERT_CHAIN)
    members = [] if chain is None else chain.split(b",", MAX_INTERMEDIATES + 1)
    return [_byte_sequence(values[CLIENT_CERT]), *(_byte_sequence(each.strip(b" \t")) for each in members)]


def _byte_sequence(value: bytes) -> bytes:
    """RFC 8941 section 3.3.5, canonical base64, no parameters. Raises ValueError."""
    if len(value) < 2 or value[:1] != b":" or value[-1:] != b":":
        raise ValueError("not a byte sequence")
    return canonical_base64(value[1:-1])


def _digest(fields: Fields) -> bytes:
    whole = hashlib.sha256()
    for name, value in fields:
        whole.update(b"%b:%d:%b\n" % (name, len(value), value))
    return whole.digest()


def _no(fault: str, reason: str) -> Unproven:
    return Unproven(
        "unattested", reason, rule=f"proxy:{fault}", who_can_change_it="the operator of the proxy"
    )
