"""One look at the Workload API: what it offers this process now, for whoever asks why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from spiffe._proto import workload_pb2  # pyright: ignore[reportPrivateUsage]

from stepwrit._workload_api import HEADER, Watch, WatchEnded, X509Update, jwt_bundles, parse_update
from stepwrit.errors import IdentityUnavailable
from stepwrit.spiffe_bundle import JwtAuthorities

U = TypeVar("U")
LOOK_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One X.509-SVID on offer, by its name and its hint (empty: none)."""

    spiffe_id: str
    hint: str

    def __str__(self) -> str:
        return f"{self.spiffe_id} (hint {self.hint!r})" if self.hint else self.spiffe_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`offered`: all, in order. `mine`: the one that a process with our hint takes."""

    offered: tuple[Offered, ...]
    mine: X509Update


def offered_x509(socket: str, *, timeout: float = LOOK_S) -> tuple[Offered, ...]:
    """Every X.509-SVID that this process is offered, waiting up to `timeout` seconds.

    Raises IdentityUnavailable, ConfigurationError for a socket of another shape.
    """
    return _offered(_first(socket, _x509(socket, lambda message: message, timeout)))


def look_x509(socket: str, hint: str | None, *, timeout: float = LOOK_S) -> Look:
    """The same, and the one that is ours."""
    return _first(
        socket,
        _x509(socket, lambda said: Look(offered=_offered(said), mine=parse_update(said, hint)), timeout),
    )


def look_jwt(socket: str, *, timeout: float = LOOK_S) -> Mapping[str, JwtAuthorities]:
    """Trust domain -> its JWT authorities; those of an empty one are distrusted. Raises as above."""
    request = workload_pb2.JWTBundlesRequest()
    return _first(
        socket,
        Watch(
            socket,
            lambda stub: stub.FetchJWTBundles(request, metadata=HEADER, timeout=timeout),
            jwt_bundles,
        ),
    )


def _x509(socket: str, read: Callable[[Any], U], timeout: float) -> Watch[U]:
    request = workload_pb2.X509SVIDRequest()
    return Watch(socket, lambda stub: stub.FetchX509SVID(request, metadata=HEADER, timeout=timeout), read)


def _offered(message: workload_pb2.X509SVIDResponse) -> tuple[Offered, ...]:
    return tuple(Offered(spiffe_id=each.spiffe_id, hint=each.hint) for each in message.svids)


def _first(socket: str, watch: Watch[U]) -> U:
    try:
        return next(watch.updates())
    except WatchEnded as ended:
        raise IdentityUnavailable(f"{socket}: {ended.why}") from None
    finally:
        watch.cancel()
