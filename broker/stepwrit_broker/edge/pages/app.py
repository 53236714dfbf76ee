"""The pages as one ASGI application in front of the rest of the `tls` listener.

Every answer carries the same headers. Who may not see something is told what everybody is told of what does
not exist; who is not signed in is asked to, whatever the address names.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import structlog

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.edge.http import Asgi, Receive, Request, Scope, Send, receive_request
from stepwrit_broker.edge.pages.door import Door
from stepwrit_broker.edge.pages.html import STATIC_PATH, Html, to
from stepwrit_broker.edge.pages.routes import Asked, Desk, Route
from stepwrit_broker.edge.pages.session import Session, is_foreign
from stepwrit_broker.observe import Metrics

_log = structlog.get_logger("stepwrit.pages")
STRANGERS_EVERY_S: Final = 1.0
PREFIXES: Final = ("/approvals", "/authenticators", "/sign-in", "/sign-out", STATIC_PATH)
_STATUS: Final = {"not_found": 404, "limit": 429, "expired_token": 410}
_HEADS: Final = {
    400: "That was not understood", 401: "That did not work", 403: "That is not allowed", 404: "Not found",
    405: "Not possible", 409: "Too late", 410: "Expired", 429: "Too many requests", 503: "Not now",
}  # fmt: skip


class Pages:
    """`rest` answers what is no page."""

    def __init__(self, desk: Desk, routes: Sequence[Route], metrics: Metrics, rest: Asgi) -> None:
        self._desk, self._routes, self._metrics, self._rest = desk, routes, metrics, rest
        self._told: dict[str, float] = {}  # faults are words of ours: a few dozen
        self._pages, self._doors = Door(burst=120, every_s=0.5), Door(burst=20, every_s=3.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered whatever happens."""
        if scope["type"] != "http" or not _is_page(scope["path"]):
            await self._rest(scope, receive, send)
            return
        began = time.perf_counter()
        answer, code = await self._answer(scope, receive)
        self._metrics.request("page", _outcome(code), code, time.perf_counter() - began)
        await answer.send(send, bare=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[Html, str]:
        """The page, and the code of what went wrong."""
        seen: list[Session] = []
        try:
            return await self._found(await receive_request(scope, receive), seen), ""
        except Problem as problem:
            return self._problem(scope, seen, problem), problem.code
        except Exception:  # noqa: BLE001  the last line: no detail leaves, the log has it
            _log.error("unexpected", path=_bare(scope).path, exception=traceback.format_exc())
            ours = Unavailable("unavailable", "an error of ours; nothing was signed or denied")
            return self._problem(scope, seen, ours), "internal"

    async def _found(self, request: Request, seen: list[Session]) -> Html:
        static = self._desk.templates.static(request.path) if request.method in ("GET", "HEAD") else None
        if static is not None:
            return static
        self._pages.check(request, self._desk.house.clock.now())
        method = "GET" if request.method == "HEAD" else request.method
        found = [(each, match) for each in self._routes if (match := each.path.match(request.path))]
        for route, match in found:
            if route.method == method:
                return await self._serve(route, request, match.groupdict().get("id", ""), seen)
        asked = Asked(request=request, id="", session=None)
        status = 405 if found else 404
        return self._message(
            asked, status, "There is no such page." if status == 404 else "Try the page again."
        )

    async def _serve(self, route: Route, request: Request, name: str, seen: list[Session]) -> Html:
        sessions = self._desk.sessions
        if route.is_door:
            self._doors.check(request, self._desk.house.clock.now())
        if request.method == "POST":
            sessions.check_origin(request)
        session = await sessions.of(request)
        if session is not None:
            seen.append(session)
        elif route.needs_session:
            return self._ask_who(request)
        if request.method == "POST" and route.needs_session and session is not None:
            sessions.check_form(request, session)
        return await route.answer(Asked(request=request, id=name, session=session))

    def _ask_who(self, request: Request) -> Html:
        """The sign-in page; from elsewhere first once more from here, with the cookie that may be there."""
        asked = Asked(request=request, id="", session=None)
        if request.method == "GET" and is_foreign(request):
            return self._desk.page("again.html", asked, path=request.path)
        path = request.path if request.method in ("GET", "HEAD") else request.path.rpartition("/")[0]
        return to(f"/sign-in?next={quote(path, safe='/')}")

    def _problem(self, scope: Scope, seen: list[Session], problem: Problem) -> Html:
        asked = Asked(request=_bare(scope), id="", session=seen[0] if seen else None)
        self._tell(problem, is_known=bool(seen))
        status = _STATUS.get(problem.code, problem.status)
        page = self._message(asked, status, problem.reason, ref=problem.ref)
        if problem.retry_after is None:
            return page
        return page.having((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))

    def _tell(self, problem: Problem, *, is_known: bool) -> None:
        """Of strangers one line a second for each fault; by whom, of others, the ledger tells."""
        now, fault = time.perf_counter(), problem.rule or problem.code
        if not is_known and now - self._told.get(fault, -STRANGERS_EVERY_S) < STRANGERS_EVERY_S:
            return
        self._told[fault] = now
        _log.warning(
            "refused",
            code=problem.code,
            reason=problem.reason,
            rule=problem.rule,
            ref=problem.ref,
            signed_in=is_known,
        )

    def _message(self, asked: Asked, status: int, says: str, ref: str | None = None) -> Html:
        head = _HEADS.get(status, "That did not work")
        said = says[:1].upper() + says[1:] + ("" if says.endswith((".", "?")) else ".")
        back = _back(asked.request.path)
        try:
            return self._desk.page(
                "message.html", asked, status=status, head=head, says=said, ref=ref, back=back
            )
        except Problem:  # not even a name can be had: the page of nobody
            nobody = Asked(request=asked.request, id="", session=None)
            return self._desk.page(
                "message.html", nobody, status=status, head=head, says=said, ref=ref, back=back
            )


def _is_page(path: str) -> bool:
    return path.startswith(PREFIXES)


def _bare(scope: Scope) -> Request:
    return Request(scope=scope, method=scope["method"], path=scope["path"], body=b"")


def _back(path: str) -> str:
    """The page that a form was on; of a page itself, the list."""
    above = path.rpartition("/")[0]
    return above if path.endswith(("/approve", "/deny")) else "/approvals"


def _outcome(code: str) -> str:
    return {"": "ok", "internal": "error", "unavailable": "unavailable"}.get(code, "refused")
