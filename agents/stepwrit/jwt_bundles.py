"""The JWT authorities of every trust domain that the Workload API gives us, kept fresh.

Absent is unknown, empty is distrusted, and what the API takes back is gone at once; see `stepwrit.identity`,
which does the same for X.509.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from stepwrit._supervise import Clock, Health, Supervisor
from stepwrit._workload_api import grpc_target, watch_jwt_bundles
from stepwrit.spiffe_bundle import JwtAuthorities

_NONE: Final[Mapping[str, JwtAuthorities]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtBundles:
    """One coherent state: trust domain -> key id -> key. generation: grows with each update."""

    by_domain: Mapping[str, JwtAuthorities] = field(repr=False)
    generation: int


class JwtBundleWatch:
    """Watches `FetchJWTBundles` from `start` to `close`, which may be called from any thread."""

    def __init__(self, socket: str, *, clock: Clock = time.time) -> None:
        grpc_target(socket)
        self._current = JwtBundles(by_domain=_NONE, generation=0)
        self._supervisor: Supervisor[Mapping[str, JwtAuthorities]] = Supervisor(
            socket,
            lambda: watch_jwt_bundles(socket),
            publish=self._publish,
            withdraw=lambda: self._publish(_NONE),
            clock=clock,
            name="jwt-bundles",
        )

    def start(self) -> None:
        """Start to watch and return at once."""
        self._supervisor.start()

    def close(self) -> None:
        """Stop watching; nothing is known any more."""
        self._supervisor.close()
        self._publish(_NONE)

    def current(self) -> JwtBundles:
        """The newest state; empty before the first answer and after a withdrawal."""
        return self._current

    def lost_at(self) -> float | None:
        """When the stream ended (seconds since the epoch), or None while it stands."""
        return self._supervisor.lost_at

    def health(self) -> Health:
        """How the stream is."""
        return self._supervisor.health

    def _publish(self, bundles: Mapping[str, JwtAuthorities]) -> None:
        self._current = JwtBundles(by_domain=bundles, generation=self._current.generation + 1)
