"""The streams of the SPIFFE Workload API, one attempt each, read strictly, and one call for a JWT-SVID.

Source: SPIFFE_Workload_API.md sections 5 and 6.

The messages and the stub are those of the `spiffe` package. Its own client is not used: it hides the status
code that tells a denial from an outage, drops the `hint`, and gives up a whole update when one partner's
bundle is empty, which is a partner's way to say "trust nobody of mine".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar, cast

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key
from spiffe._proto import workload_pb2, workload_pb2_grpc  # pyright: ignore[reportPrivateUsage]

from stepwrit._reach import trouble
from stepwrit.errors import ConfigurationError, IdentityUnavailable
from stepwrit.spiffe_bundle import BundleRefused, JwtAuthorities, parse_jwt_authorities
from stepwrit.spiffe_id import SCHEME, check_trust_domain, trust_domain_of
from stepwrit.x509svid import SvidRefused, load_authority, read_leaf

U = TypeVar("U")
B = TypeVar("B")
HEADER: Final = (("workload.spiffe.io", "true"),)
# each attempt is a new channel of ours; without this they would share one connection and its backoff
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


Ending = Literal["lost", "denied", "unusable"]


class WatchEnded(Exception):  # noqa: N818  an ending, not always an error
    """The stream is over.

    kind: `lost` (what it gave still counts), `denied` (it said that nothing is ours; only the first answer of
    a stream can be taken for that), `unusable` (what it said makes no sense, so nothing that it gave counts).
    """

    def __init__(self, why: str, kind: Ending) -> None:
        super().__init__(why)
        self.why: Final = why
        self.kind: Final[Ending] = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Update:
    """One full state: anything that is absent from it is gone. An empty bundle means distrust."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    private_key: PrivateKeyTypes = field(repr=False)
    bundles: Mapping[str, tuple[bytes, ...]]
    expires_at: float


class Watch(Generic[U]):
    """One attempt: open, iterate `updates()`, until `WatchEnded`. `cancel` is safe from any thread.

    call: opens the stream of a stub. read: makes one message an update.
    """

    def __init__(self, socket: str, call: Callable[[Any], Any], read: Callable[[Any], U]) -> None:
        self._socket, self._read = socket, read
        self._channel = _channel(socket)
        self._call = call(_stub(self._channel))

    def updates(self) -> Iterator[U]:
        """Every update; never ends but by `WatchEnded`."""
        try:
            for message in self._call:
                yield self._read(message)
        except grpc.RpcError as error:
            raise _ended(cast(Any, error).code(), self._socket) from None
        raise WatchEnded("the Workload API closed the stream", "lost")

    def cancel(self) -> None:
        """End the stream and free its connection."""
        self._call.cancel()
        self._channel.close()


def watch_x509(socket: str, hint: str | None) -> Watch[X509Update]:
    """Follow our X.509-SVID and the X.509 bundles."""
    return Watch(
        socket,
        lambda stub: stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER),
        lambda message: parse_update(message, hint),
    )


def watch_jwt_bundles(socket: str) -> Watch[Mapping[str, JwtAuthorities]]:
    """Follow the JWT authorities of every trust domain that we are given."""
    return Watch(
        socket,
        lambda stub: stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=HEADER),
        jwt_bundles,
    )


def fetch_jwt_svid(socket: str, audience: str, *, spiffe_id: str | None, timeout: float) -> str:
    """One JWT-SVID for this audience alone; the first that the API gives, or `spiffe_id`'s. Seconds.

    Raises IdentityUnavailable; its cause is a `WatchEnded` that says what kind of answer it was.
    """
    with _channel(socket) as channel:
        request = workload_pb2.JWTSVIDRequest(audience=[audience], spiffe_id=spiffe_id or "")
        try:
            answer = _stub(channel).FetchJWTSVID(request, metadata=HEADER, timeout=timeout)
        except grpc.RpcError as error:
            ended = _ended(cast(Any, error).code(), socket)
            raise IdentityUnavailable(f"no JWT-SVID from {socket}: {ended.why}") from ended
    if not answer.svids:
        raise IdentityUnavailable(f"no JWT-SVID from {socket}: the Workload API gave none")
    return str(answer.svids[0].svid)


def _channel(socket: str) -> Any:
    return cast(Any, grpc).insecure_channel(grpc_target(socket), options=_OPTIONS)  # grpc is untyped


def _stub(channel: Any) -> Any:
    return cast(Any, workload_pb2_grpc.SpiffeWorkloadAPIStub)(channel)


_KINDS: Final[Mapping[grpc.StatusCode, Ending]] = {
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.INVALID_ARGUMENT: "unusable",  # the request itself was refused
}


def _ended(code: grpc.StatusCode, socket: str) -> WatchEnded:
    """What a status means, in words that say what to do."""
    why = f"the Workload API answered {code.name}"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        why += f": no registration entry matches this process ({_me()}); see stepwrit spire entries"
    elif code is grpc.StatusCode.UNAVAILABLE:
        path = Path(socket.removeprefix("unix:"))
        why += f": {trouble(path) or f'nobody on {path} speaks gRPC (yet)'}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        why += ": somebody listens there and says nothing; is it the Workload API?"
    return WatchEnded(why, _KINDS.get(code, "lost"))


def _me() -> str:
    """What a `unix` workload attestor would see of us."""
    return f"uid {os.geteuid()}, pid {os.getpid()}, {os.path.realpath(sys.executable)}"


def grpc_target(socket: str) -> str:
    """`unix:///abs/path` as gRPC wants it; ConfigurationError for anything else."""
    path = socket.removeprefix("unix:")
    if not socket.startswith("unix:") or not path.startswith("/"):
        raise ConfigurationError(f"Workload API socket {socket!r}: use unix:///absolute/path")
    return "unix:/" + path.lstrip("/")


def parse_update(message: workload_pb2.X509SVIDResponse, hint: str | None) -> X509Update:
    """One message as our state; `WatchEnded` if it holds no usable SVID for us."""
    chosen = _choose(message, hint)
    try:
        chain = tuple(split_der(chosen.x509_svid))
        key = load_der_private_key(chosen.x509_svid_key, None)
        leaf, named = read_leaf(chain[0])
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm, SvidRefused) as error:
        raise WatchEnded(f"malformed X.509-SVID: {error}", "unusable") from None
    if named != chosen.spiffe_id or leaf.public_key() != key.public_key():
        raise WatchEnded("malformed X.509-SVID: name, certificate and key differ", "unusable")
    return X509Update(
        spiffe_id=named,
        chain=chain,
        private_key=key,
        bundles=_bundles(message, chosen),
        expires_at=leaf.not_valid_after_utc.timestamp(),
    )


def _choose(message: workload_pb2.X509SVIDResponse, hint: str | None) -> workload_pb2.X509SVID:
    """The first SVID is the default; of equal hints the first counts (Workload API section 5.2.1)."""
    for svid in message.svids:
        if hint is None or svid.hint == hint:
            return svid
    why = "the Workload API gave no X.509-SVID"
    if hint is not None:
        offered = ", ".join(repr(svid.hint) if svid.hint else "one without a hint" for svid in message.svids)
        why += f" with the hint {hint!r}; it offers {offered or 'none at all'}"
    raise WatchEnded(why, "denied")


def _bundles(
    message: workload_pb2.X509SVIDResponse, chosen: workload_pb2.X509SVID
) -> Mapping[str, tuple[bytes, ...]]:
    found = _by_domain(message.federated_bundles, _authorities)
    found[trust_domain_of(chosen.spiffe_id)] = _authorities(chosen.bundle)
    return found


def jwt_bundles(message: workload_pb2.JWTBundlesResponse) -> Mapping[str, JwtAuthorities]:
    """Trust domain -> its JWT authorities. One that does not parse is distrusted, alone."""
    return MappingProxyType(_by_domain(message.bundles, _authorities_of))


def _by_domain(bundles: Mapping[str, bytes], read: Callable[[bytes], B]) -> dict[str, B]:
    """Trust domain -> what its bundle holds. One that is named twice, as name and as ID, is distrusted."""
    found: dict[str, B] = {}
    for name, raw in bundles.items():
        domain = name.removeprefix(SCHEME)
        if _is_trust_domain(domain):
            found[domain] = read(b"" if domain in found else raw)  # of nothing: nobody
    return found


def _authorities_of(raw: bytes) -> JwtAuthorities:
    try:
        return parse_jwt_authorities(raw)
    except BundleRefused:
        return MappingProxyType({})


def _is_trust_domain(name: str) -> bool:
    try:
        return bool(check_trust_domain(name))
    except ValueError:
        return False  # a bundle nobody can claim: left out, so unknown


def _authorities(der: bytes) -> tuple[bytes, ...]:
    """The CA certificates of one bundle. One that does not parse is distrusted, alone."""
    try:
        found = tuple(split_der(der))
        for certificate in found:
            load_authority(certificate)
    except ValueError:
        return ()
    return found


def split_der(concatenated: bytes) -> Iterator[bytes]:
    """The ASN.1 SEQUENCEs that stand one after another; ValueError if that is not what it is (X.690 8.1)."""
    rest = memoryview(concatenated)
    while rest:
        if len(rest) < 2 or rest[0] != 0x30:  # SEQUENCE, constructed
            raise ValueError("not DER certificates")
        size, head = rest[1], 2
        if size >= 0x80:
            head = 2 + (size & 0x7F)
            size = int.from_bytes(rest[2:head], "big")
        if not 2 <= head <= 6 or head + size > len(rest):
            raise ValueError("a certificate is cut off")
        yield bytes(rest[: head + size])
        rest = rest[head + size :]
