"""One watch of the SPIFFE Workload API: the messages of `FetchX509SVID`, read strictly.

Source: SPIFFE_Workload_API.md section 5.

The messages and the stub are those of the `spiffe` package. Its own client is not used for the watch: it
hides the status code that tells a denial from an outage, drops the `hint`, and gives up the whole update
when one partner's bundle is empty, which is a partner's way to say "trust nobody of mine".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key
from spiffe._proto import workload_pb2, workload_pb2_grpc  # pyright: ignore[reportPrivateUsage]

from stepwrit.errors import ConfigurationError
from stepwrit.spiffe_id import SCHEME, check_trust_domain, trust_domain_of
from stepwrit.x509svid import SvidRefused, leaf_spiffe_id

_HEADER: Final = (("workload.spiffe.io", "true"),)
# each attempt is a new channel of ours; without this they would share one connection and its backoff
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class WatchEnded(Exception):  # noqa: N818  an ending, not always an error
    """The stream is over. `withdrawn`: what it gave before must not be used any longer."""

    def __init__(self, why: str, *, withdrawn: bool) -> None:
        super().__init__(why)
        self.why: Final = why
        self.withdrawn: Final = withdrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Update:
    """One full state: anything that is absent from it is gone. An empty bundle means distrust."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    private_key: PrivateKeyTypes = field(repr=False)
    bundles: Mapping[str, tuple[bytes, ...]]
    expires_at: float


class Watch:
    """One attempt: open, iterate `updates()`, until `WatchEnded`. `cancel` is safe from any thread."""

    def __init__(self, socket: str, hint: str | None) -> None:
        self._hint = hint
        # grpc and the generated stub are untyped
        self._channel = cast(Any, grpc).insecure_channel(grpc_target(socket), options=_OPTIONS)
        stub = cast(Any, workload_pb2_grpc.SpiffeWorkloadAPIStub)(self._channel)
        self._call = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=_HEADER)

    def updates(self) -> Iterator[X509Update]:
        """Every update; never ends but by `WatchEnded`."""
        try:
            for message in self._call:
                yield parse_update(message, self._hint)
        except grpc.RpcError as error:
            code = cast(Any, error).code()
            denied = code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
            raise WatchEnded(f"the Workload API answered {code.name}", withdrawn=denied) from None
        raise WatchEnded("the Workload API closed the stream", withdrawn=False)

    def cancel(self) -> None:
        """End the stream and free its connection."""
        self._call.cancel()
        self._channel.close()


def grpc_target(socket: str) -> str:
    """`unix:///abs/path` as gRPC wants it; ConfigurationError for anything else."""
    path = socket.removeprefix("unix:")
    if not socket.startswith("unix:") or not path.startswith("/"):
        raise ConfigurationError(f"Workload API socket {socket!r}: use unix:///absolute/path")
    return "unix:/" + path.lstrip("/")


def parse_update(message: workload_pb2.X509SVIDResponse, hint: str | None) -> X509Update:
    """One message as our state; `WatchEnded(withdrawn=True)` if it holds no usable SVID for us."""
    chosen = _choose(message, hint)
    try:
        chain = tuple(split_der(chosen.x509_svid))
        key = load_der_private_key(chosen.x509_svid_key, None)
        leaf = x509.load_der_x509_certificate(chain[0])
        named = leaf_spiffe_id(leaf)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm, SvidRefused) as error:
        raise WatchEnded(f"malformed X.509-SVID: {error}", withdrawn=True) from None
    if named != chosen.spiffe_id or leaf.public_key() != key.public_key():
        raise WatchEnded("malformed X.509-SVID: name, certificate and key differ", withdrawn=True)
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
    wanted = "no X.509-SVID" if hint is None else f"no X.509-SVID with the hint {hint!r}"
    raise WatchEnded(f"the Workload API gave {wanted}", withdrawn=True)


def _bundles(
    message: workload_pb2.X509SVIDResponse, chosen: workload_pb2.X509SVID
) -> Mapping[str, tuple[bytes, ...]]:
    found: dict[str, tuple[bytes, ...]] = {}
    for name, der in message.federated_bundles.items():
        domain = trust_domain_of(name) if name.startswith(SCHEME) else name
        if _is_trust_domain(domain):
            found[domain] = _authorities(der)
    found[trust_domain_of(chosen.spiffe_id)] = _authorities(chosen.bundle)
    return found


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
            x509.load_der_x509_certificate(certificate)
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
