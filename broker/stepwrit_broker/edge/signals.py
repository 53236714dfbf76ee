"""`POST /signals` on the `tls` listener: push delivery of Security Event Tokens (RFC 8935)."""

from __future__ import annotations

import time
import traceback
from typing import Final

import structlog

from stepwrit_broker.core.errors import Malformed, Problem, Unavailable, Unproven
from stepwrit_broker.edge.http import Asgi, Receive, Request, Response, Scope, Send, receive_request
from stepwrit_broker.edge.problems import render
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.signalling import receive as received
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_signal import Signals

PATH: Final = "/signals"
MEDIA_TYPE: Final = "application/secevent+jwt"
_log = structlog.get_logger("stepwrit.edge")


class SignalsApp:
    """ASGI: `/signals`, and `rest` for every other path."""

    def __init__(self, *, house: House, signals: Signals, metrics: Metrics, rest: Asgi) -> None:
        self._house, self._signals, self._metrics, self._rest = house, signals, metrics, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered whatever happens."""
        if scope["type"] != "http" or scope.get("path") != PATH:
            await self._rest(scope, receive, send)
            return
        began, outcome, code = time.perf_counter(), "ok", ""
        try:
            response = await self._answer(scope, await receive_request(scope, receive))
        except (Malformed, Unproven) as bad:
            outcome, code, response = "refused", _err(bad), _rendered(bad)
            self._metrics.signal("", code)
        except Problem as problem:
            outcome = "unavailable" if isinstance(problem, Unavailable) else "refused"
            code, response = problem.code, render(problem)
            self._metrics.signal("", code)
        except Exception:  # noqa: BLE001  the last line: no detail leaves, the log has it
            outcome, code = "error", "internal"
            _log.error("unexpected", verb="signal", exception=traceback.format_exc())
            response = render(Unavailable("unavailable", "an internal error", retry_after=1.0))
        self._metrics.request("signal", outcome, code, time.perf_counter() - began)
        await response.send(send)

    async def _answer(self, scope: Scope, request: Request) -> Response:
        if scope["method"] != "POST":
            return Response(status=405, value={}, headers=((b"allow", b"POST"),))
        kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != MEDIA_TYPE:
            raise Malformed("invalid_request", f"Content-Type must be {MEDIA_TYPE}")
        token = request.body.decode("ascii", "replace").strip()
        signal, changed = await received(self._house, self._signals, token, request.header(b"authorization"))
        self._metrics.signal(signal.event, "acted" if changed else "noted")
        _log.info("signal", says=signal.event, issuer=signal.issuer, changed=changed)
        return Response(status=202, value=None)


def _err(bad: Problem) -> str:
    return bad.rule if isinstance(bad, Unproven) and bad.rule is not None else "invalid_request"


def _rendered(bad: Problem) -> Response:
    """RFC 8935 section 2.3."""
    return Response(status=400, value={"err": _err(bad), "description": bad.reason})
