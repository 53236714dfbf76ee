"""The ASGI applications of the listeners: hot routes first, FastAPI for the rest."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Problem, Unavailable, Unproven
from stepwrit_broker.edge.caller import record
from stepwrit_broker.edge.forwarded import take
from stepwrit_broker.edge.http import Asgi, Receive, Request, Response, Scope, Send, receive_request
from stepwrit_broker.edge.problems import render, render_oauth
from stepwrit_broker.edge.verbs import Verbs
from stepwrit_broker.flows.asking import is_news
from stepwrit_broker.observe import Metrics

_log = structlog.get_logger("stepwrit.edge")


Endpoint = Callable[[Request], Awaitable[Response]]
BEARER_VERBS: Final = frozenset(
    {"open", "token", "accept", "wait", "heartbeat", "close", "attend", "ended", "resume"}
)
"""What a caller with nothing but a bearer may ask for: never to redeem, never to operate."""
STRANGERS_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint: its name in metrics, its method, and how its problems are said."""

    verb: str
    endpoint: Endpoint
    method: str = "POST"
    rendered: Callable[[Problem], Response] = render


Routes = Callable[[str], Route | None]  # by the path


class WorkloadApp:
    """One listener's workloads: OAuth's endpoints, our verbs, then `rest` (metadata, keys, operators).

    oauth: path -> name in metrics, endpoint. advice: AuthZEN's routes. only: the verbs that are served, None
    for all. nonce: the DPoP nonce that goes with every answer (RFC 9449 section 8.2), where one is demanded.
    """

    def __init__(
        self,
        *,
        verbs: Verbs,
        oauth: Mapping[str, tuple[str, Endpoint]],
        rest: Asgi,
        metrics: Metrics,
        only: frozenset[str] | None = None,
        nonce: Callable[[], str] | None = None,
        advice: Routes = lambda _: None,
    ) -> None:
        self._verbs, self._oauth, self._rest, self._metrics = verbs, oauth, rest, metrics
        self._advice = advice
        self._only, self._nonce = only, nonce
        self._told: dict[str, float] = {}  # faults are words of ours: a few dozen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered whatever happens."""
        if scope["type"] != "http":
            return await self._rest(scope, receive, send)
        take(scope)
        path: str = scope["path"]
        asked = self._oauth.get(path)
        if asked is not None:
            route = Route(verb=asked[0], endpoint=asked[1], rendered=render_oauth)
            return await self._answer(route, scope, receive, send)
        advised = self._advice(path)
        if advised is not None:
            return await self._answer(advised, scope, receive, send)
        found = self._verbs.route(path)
        if found is None or (self._only is not None and found[0] not in self._only):
            return await self._rest(scope, receive, send)
        verb, method, step = found

        async def call(request: Request) -> Response:
            return await method(request, step)

        return await self._answer(Route(verb=verb, endpoint=call), scope, receive, send)

    async def _answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        began, outcome, code, verb = time.perf_counter(), "ok", "", route.verb
        try:
            if scope["method"] != route.method:
                response = Response(
                    status=405,
                    value={"type": "about:blank", "title": f"{route.method} only", "status": 405},
                    content_type=b"application/problem+json",
                    headers=((b"allow", route.method.encode()),),
                )
            else:
                response = await route.endpoint(await receive_request(scope, receive))
        except Problem as problem:
            outcome, code = _outcome(problem), problem.code
            await record(self._verbs.refusals, verb, problem, scope)
            self._tell(verb, problem, scope)
            response = route.rendered(problem)
        except Exception:  # noqa: BLE001  the last line: no detail leaves, the log has it
            outcome, code = "error", "internal"
            # the traceback as text: what renders it for itself may show locals, and those hold tokens
            _log.error("unexpected", verb=verb, traceparent=_trace(scope), exception=traceback.format_exc())
            response = route.rendered(
                Unavailable("unavailable", "an internal error; nothing was granted", retry_after=1.0)
            )
        self._metrics.request(verb, outcome, code, time.perf_counter() - began)
        more = (*self._fresh_nonce(), *self._echoed(scope))
        await replace(response, headers=(*response.headers, *more)).send(send)

    def _echoed(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        """AuthZEN section 10.1.3: an answer is known by what its request was called, if by one name."""
        if self._advice(scope["path"]) is None:
            return ()
        named = [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
        return tuple(named) if len(named) == 1 else ()

    def _fresh_nonce(self) -> tuple[tuple[bytes, bytes], ...]:
        """None while the clock is in doubt: the answer goes out nevertheless."""
        with suppress(Unavailable):
            return () if self._nonce is None else ((b"dpop-nonce", self._nonce().encode()),)
        return ()

    def _tell(self, verb: str, problem: Problem, scope: Scope) -> None:
        if isinstance(problem, Unproven) and problem.code == "unattested":
            self._metrics.unattested(problem.rule or "")
        if "stepwrit.caller" not in scope and not self._is_due(problem.rule or problem.code):
            return
        tell = _log.info if is_news(problem) else _log.warning
        tell(
            "waits" if is_news(problem) else "refused",
            verb=verb,
            code=problem.code,
            reason=problem.reason,
            rule=problem.rule,
            ref=problem.ref,
            via=_via(scope),
            traceparent=_trace(scope),
        )

    def _is_due(self, fault: str) -> bool:
        """Strangers may knock as often as they like: of each fault of theirs one line a while is written."""
        now, before = time.perf_counter(), self._told.get(fault)
        if before is not None and now - before < STRANGERS_EVERY_S:
            return False
        self._told[fault] = now
        return True


def _outcome(problem: Problem) -> str:
    if is_news(problem):
        return "waits"
    return "unavailable" if isinstance(problem, Unavailable) else "refused"


def _via(scope: Scope) -> str | None:
    caller: Caller | None = scope.get("stepwrit.caller")
    return None if caller is None else caller.workload.via


def _trace(scope: Scope) -> str | None:
    found = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
    return None if found is None else found.decode("latin-1")[:64]
