"""A Workload API that says exactly what a test wrote down, message by message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
from spiffe._proto import workload_pb2, workload_pb2_grpc
from tests.fakes.pki import FakeCa, Issued, key_der

END = object()


class ScriptedWorkloadApi:
    """Says each thing once, in order. What follows an ending is kept for the stream after it."""

    def __init__(self, socket: Path) -> None:
        self.address = f"unix://{socket}"
        self._script: list[tuple[int, object, bool]] = []
        self._lock = threading.Condition()
        self._written = 0  # endings in the script so far
        self._happened = 0  # endings that took place
        self._server: Any = None

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(8))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def say(self, *items: object) -> None:
        """Responses, and status codes or END, which end the stream."""
        for item in items:
            self._write(item, ends=item is END or isinstance(item, grpc.StatusCode))

    def say_badly(self, item: object) -> None:
        """A response after which the client hangs up."""
        self._write(item, ends=True)

    def hung_up(self) -> None:
        """The client closed its stream by itself."""
        with self._lock:
            self._written += 1
            self._happened += 1

    def _write(self, item: object, *, ends: bool) -> None:
        with self._lock:
            self._script.append((self._written, item, ends))
            self._written += ends
            self._lock.notify_all()

    def _next(self, era: int) -> object:
        with self._lock:
            self._lock.wait_for(lambda: bool(self._script) and self._script[0][0] == era, 0.02)
            if not self._script or self._script[0][0] != era:
                return None
            _, item, ends = self._script.pop(0)
            self._happened += ends
            return item

    def FetchX509SVID(self, _: object, context: Any) -> Iterator[object]:  # noqa: N802
        era = self._happened
        while context.is_active():
            item = self._next(era)
            if isinstance(item, grpc.StatusCode):
                context.abort(item, "as scripted")
            if item is END:
                return
            if item is not None:
                yield item

    FetchX509Bundles = FetchJWTSVID = FetchJWTBundles = ValidateJWTSVID = None


def svid(spiffe_id: str, issued: Issued, bundle: bytes, *, hint: str = "") -> workload_pb2.X509SVID:
    return workload_pb2.X509SVID(
        spiffe_id=spiffe_id,
        x509_svid=b"".join(issued.chain),
        x509_svid_key=key_der(issued),
        bundle=bundle,
        hint=hint,
    )


def state(ca: FakeCa, spiffe_id: str, **partners: bytes) -> workload_pb2.X509SVIDResponse:
    """A full state: one SVID of the authority, its bundle, and partners (`b_test=…`) beside it."""
    return response([svid(spiffe_id, ca.issue(spiffe_id), ca.der)], partners)


def response(
    svids: list[workload_pb2.X509SVID], partners: Mapping[str, bytes]
) -> workload_pb2.X509SVIDResponse:
    named = {f"spiffe://{name.replace('_', '.')}": der for name, der in partners.items()}
    return workload_pb2.X509SVIDResponse(svids=svids, federated_bundles=named)


def eventually(true: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for another thread; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
