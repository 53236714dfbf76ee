"""A witness's faces: `POST /add-checkpoint` (C2SP tlog-witness) for logs, metrics for its operator."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import anyio
import anyio.to_thread
import structlog
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.witnessing import Declined
from stepwrit_broker.edge.http import BodyLimit
from stepwrit_broker.ports_ledger import Witnessed, Witnesses

AT_ONCE: Final = 4  # signatures that are verified; the rest wait
_PLAIN: Final = "text/plain; charset=utf-8"
_SIZE: Final = "text/x.tlog.size"
_log = structlog.get_logger("stepwrit.witness")


class WitnessMetrics:
    """A witness's Prometheus metrics. Labels are the logs that it was given, and HTTP statuses."""

    def __init__(self, logs: Callable[[], Mapping[str, Witnessed | None]], now: Callable[[], float]) -> None:
        self.registry: Final = CollectorRegistry()
        self._logs, self._now = logs, now
        self._asked = Counter(
            "stepwrit_witness_requests",
            "Requests for a cosignature, by status",
            ("status",),
            registry=self.registry,
        )
        self._forks = Counter(
            "stepwrit_witness_forks",
            "Two signed roots for one size: a log that forked",
            registry=self.registry,
        )
        self._size = Gauge(
            "stepwrit_witness_log_size",
            "Size of the latest cosigned checkpoint",
            ("log",),
            registry=self.registry,
        )
        self._age = Gauge(
            "stepwrit_witness_log_age_seconds", "Time since a log's latest cosignature", ("log",),
            registry=self.registry,
        )  # fmt: skip

    def answered(self, status: int, *, forked: bool) -> None:
        """One request was."""
        self._asked.labels(str(status)).inc()
        if forked:
            self._forks.inc()

    def text(self) -> bytes:
        """The exposition."""
        with contextlib.suppress(Unavailable):  # the clock jumped: no ages for a moment
            for origin, latest in self._logs().items():
                if latest is not None:
                    self._size.labels(origin).set(latest.size)
                    self._age.labels(origin).set(round(self._now() - latest.at, 1))
        return generate_latest(self.registry)


def witness_app(witness: Witnesses, metrics: WitnessMetrics, most: int) -> FastAPI:
    """What logs reach. most: bytes of a request."""
    app = FastAPI(
        title="Stepwrit witness", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_middleware(BodyLimit, most=most)
    limit = anyio.Semaphore(AT_ONCE)

    @app.post("/add-checkpoint")
    async def add_checkpoint(request: Request) -> Response:
        try:
            body = await request.body()
            async with limit:
                line = await anyio.to_thread.run_sync(witness.add_checkpoint, body)
        except Declined as declined:
            return _declined(declined, metrics)
        except Unavailable as doubt:
            _log.error("in doubt", why=doubt.reason)
            metrics.answered(503, forked=False)
            return Response(f"{doubt.reason}\n", status_code=503, media_type=_PLAIN)
        except Problem as bad:
            metrics.answered(bad.status, forked=False)
            return Response(f"{bad.reason}\n", status_code=bad.status, media_type=_PLAIN)
        metrics.answered(200, forked=False)
        return Response(line, media_type=_PLAIN)

    @app.get("/checkpoints/{name}")
    def latest(name: str) -> Response:
        """The latest cosigned checkpoint of a log, by the SHA-256 of its origin (hexadecimal)."""
        for origin, known in witness.witnessed().items():
            if known is not None and name == hashlib.sha256(origin.encode()).hexdigest():
                return Response(known.note, media_type=_PLAIN, headers={"cache-control": "no-cache"})
        return Response("no such log, or nothing of it yet\n", status_code=404, media_type=_PLAIN)

    return app


def _declined(declined: Declined, metrics: WitnessMetrics) -> Response:
    metrics.answered(declined.status, forked=declined.forked)
    if declined.forked:
        _log.error("a log forked: two signed roots for one size", size=declined.size)
    if declined.size is not None:
        return Response(f"{declined.size}\n", status_code=declined.status, headers={"content-type": _SIZE})
    return Response(f"{declined.reason}\n", status_code=declined.status, media_type=_PLAIN)
