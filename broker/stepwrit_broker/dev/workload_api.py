"""A SPIFFE Workload API for development: one Unix socket per identity, so the file system says who is who.

    domain = DevTrustDomain(Path("/tmp/dev"))
    await domain.start()
    domain.socket_for("mcp-server/ledger")  # unix:///tmp/dev/mcp-server/ledger.sock

Whoever may open a socket is that workload: no attestation. It runs on a thread of its own, so every
method may be called from any thread, with or without an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import grpc.aio
from spiffe._proto import workload_pb2_grpc  # pyright: ignore[reportPrivateUsage]

from stepwrit.spiffe_id import check_workload_id
from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN
from stepwrit_broker.dev._workload_service import WorkloadService
from stepwrit_broker.dev.ca import Clock, DevCa, DevelopmentModeWarning

_log = logging.getLogger("stepwrit.dev")
_T = TypeVar("_T")
_MAX_SOCKET_PATH: Final = 107  # sun_path of unix(7), without its end


class DevTrustDomain:
    """A whole development trust domain.

    folder: gets mode 0700; its sockets live below. x509_life, jwt_life: seconds. rotate_every: seconds
    between fresh X.509-SVIDs (default: half of their life). names: by ID path, see DevCa.
    """

    def __init__(
        self,
        folder: Path,
        *,
        trust_domain: str = DEV_TRUST_DOMAIN,
        x509_life: float = 3600.0,
        jwt_life: float = 300.0,
        rotate_every: float | None = None,
        clock: Clock = time.time,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        named = {f"spiffe://{trust_domain}/{path}": hosts for path, hosts in (names or {}).items()}
        self.ca: Final = DevCa(trust_domain, x509_life=x509_life, jwt_life=jwt_life, clock=clock, names=named)
        self.trust_domain: Final = trust_domain
        self._folder = folder
        self._rotate_every = rotate_every or x509_life / 2
        self._entries: dict[str, tuple[WorkloadService, Any]] = {}
        self._partners: dict[str, tuple[bytes, ...]] = {}
        self._partner_keys: dict[str, bytes] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Start serving; emits DevelopmentModeWarning."""
        self.start_sync()

    async def stop(self) -> None:
        """Close every socket and forget every key."""
        await asyncio.to_thread(self.stop_sync)

    def start_sync(self) -> None:
        """`start` without an event loop."""
        message = f"DEVELOPMENT trust domain {self.trust_domain}: anyone who opens its sockets is believed"
        warnings.warn(message, DevelopmentModeWarning, stacklevel=2)
        _log.warning("!!! %s; never use it in production !!!", message)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="stepwrit-dev-spiffe", daemon=True
        )
        self._thread.start()

    def stop_sync(self) -> None:
        """`stop` without an event loop."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._run(self._close_all())
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def socket_for(self, path: str) -> str:
        """The socket (`unix:///…`) of the workload with this ID path, made on first use; ValueError."""
        check_workload_id(self.id_of(path))
        file = self._folder.absolute() / f"{path}.sock"
        if len(bytes(file)) > _MAX_SOCKET_PATH:
            raise ValueError(f"{file}: longer than a Unix socket's path may be")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run(self._open(path, file))
        file.chmod(0o600)
        return f"unix://{file}"

    def environment(self, path: str) -> dict[str, str]:
        """What a process needs to be this workload; ValueError."""
        return {"SPIFFE_ENDPOINT_SOCKET": self.socket_for(path)}

    def id_of(self, path: str) -> str:
        """The SPIFFE ID of a path in this domain."""
        return f"spiffe://{self.trust_domain}/{path}"

    def rotate_ca(self, *, keep_previous: bool = True) -> None:
        """A new authority signs from now on; without `keep_previous` the old one is out at once."""
        self._change(lambda: self.ca.rotate(keep_previous=keep_previous))

    def withdraw(self) -> None:
        """Withdraw the domain's own bundle: it becomes empty, so nobody is to trust anyone of it."""
        self._change(self.ca.withdraw)

    def trust(self, domain: str, authorities: tuple[bytes, ...], jwks: bytes | None = None) -> None:
        """Hand out another domain's bundle to every workload here; empty means distrust.

        authorities: DER. jwks: its JWT authorities (JWT-SVID.md section 6), None to hand out none.
        """
        self._change(lambda: self._add(domain, authorities, jwks))

    def forget(self, domain: str) -> None:
        """Hand out another domain's bundle no longer."""
        self._change(lambda: self._drop(domain))

    def delete_entry(self, path: str) -> None:
        """The workload loses its identity: its socket answers PermissionDenied."""
        self._change(self._entries[path][0].deny)

    def renew(self) -> None:
        """Push a fresh SVID to every workload now."""
        self._change(lambda: None)

    def _add(self, domain: str, authorities: tuple[bytes, ...], jwks: bytes | None) -> None:
        self._partners[domain] = authorities
        if jwks is not None:
            self._partner_keys[domain] = jwks

    def _drop(self, domain: str) -> None:
        self._partners.pop(domain, None)
        self._partner_keys.pop(domain, None)

    def _change(self, deed: Callable[[], None]) -> None:
        async def do() -> None:
            deed()
            for service, _ in self._entries.values():
                service.changed()

        self._run(do())

    async def _open(self, path: str, file: Path) -> None:
        if path in self._entries:
            return
        service = WorkloadService(
            self.id_of(path), self.ca, self._partners, self._partner_keys, self._rotate_every
        )
        server = cast(Any, grpc.aio).server()
        # the generated function is untyped
        cast(Any, workload_pb2_grpc).add_SpiffeWorkloadAPIServicer_to_server(service, server)
        server.add_insecure_port(f"unix:{file}")
        await server.start()
        self._entries[path] = service, server

    async def _close_all(self) -> None:
        await asyncio.gather(*(server.stop(None) for _, server in self._entries.values()))
        self._entries.clear()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._loop is None:
            work.close()
            raise RuntimeError("the development trust domain is not started")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
