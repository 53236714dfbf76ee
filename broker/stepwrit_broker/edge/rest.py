"""FastAPI: everything that is not hot. Metadata, keys and the admin face; health on the ops listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.edge.admin import AdminPorts, admin_router
from stepwrit_broker.edge.authzen.endpoints import CONFIGURATION
from stepwrit_broker.edge.caller import record
from stepwrit_broker.edge.http import BodyLimit
from stepwrit_broker.edge.operator import Asked
from stepwrit_broker.edge.problems import render
from stepwrit_broker.flows.house import Refusals

ADMIN_BODY_MAX = 8_388_608  # bytes: a document of 4 million characters, as JSON writes it


def rest_app(
    *,
    title: str,
    metadata: Callable[[], dict[str, object]] | None,
    jwks: Callable[[], dict[str, object]] | None,
    admin: tuple[AdminPorts, Asked] | None,
    advice: Callable[[], dict[str, object]] | None = None,
    tlog: APIRouter | None = None,
) -> FastAPI:
    """One listener's quiet routes; a part that is None is not served there."""
    app = FastAPI(
        title=title,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,  # a redirect would be made of the Host header
    )
    app.add_middleware(BodyLimit, most=ADMIN_BODY_MAX)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    if metadata is not None and jwks is not None:
        _public(app, metadata, jwks)
    if advice is not None:
        _advice(app, advice)
    if admin is not None:
        app.state.reader = admin[1]
        app.state.refusals = admin[0].house.refusals
        app.include_router(admin_router(admin[0]))
    if tlog is not None:
        app.include_router(tlog)
    return app


def _public(
    app: FastAPI, metadata: Callable[[], dict[str, object]], jwks: Callable[[], dict[str, object]]
) -> None:
    @app.get("/.well-known/oauth-authorization-server", tags=["oauth"])
    def authorization_server() -> dict[str, object]:
        """RFC 8414, only what is served."""
        return metadata()

    @app.get("/oauth/jwks", tags=["oauth"])
    def keys() -> dict[str, object]:
        """RFC 7517. `kid` begins with `st-` for step tokens, `at-` for credentials."""
        return jwks()


def _advice(app: FastAPI, configuration: Callable[[], dict[str, object]]) -> None:
    @app.get(CONFIGURATION, tags=["authzen"])
    def authzen_configuration() -> dict[str, object]:
        """AuthZEN Authorization API 1.0 section 9: where to ask for advice."""
        return configuration()


def ops_app(
    *,
    text: Callable[[], bytes],
    ready: Callable[[], str | None],
    health: Callable[[], dict[str, object]],
    doubts: Callable[[], list[str]] = list,
) -> FastAPI:
    """`/metrics`, `/healthz`, `/readyz`. Readiness speaks of this process only; doubts are told beside it."""
    app = FastAPI(title="Stepwrit ops", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/healthz")
    def healthz(verbose: bool = False) -> dict[str, object]:
        return {"status": "alive", **(health() if verbose else {})}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        why_not = ready()
        status = 200 if why_not is None else 503
        told = {"ready": why_not is None, "reason": why_not, "doubts": doubts()}
        return JSONResponse(told, status_code=status)

    return app


async def _problem(request: Request, problem: Exception) -> Response:
    if not isinstance(problem, Problem):
        raise problem
    refusals: Refusals | None = getattr(request.app.state, "refusals", None)
    if refusals is not None:
        await record(refusals, "admin", problem, request.scope)
    return _as_starlette(problem)


def _as_starlette(problem: Problem) -> Response:
    rendered = render(problem)
    headers = {name.decode(): value.decode() for name, value in rendered.headers}
    return JSONResponse(
        rendered.value, status_code=rendered.status, headers=headers, media_type="application/problem+json"
    )


async def _invalid(_: Request, error: Exception) -> Response:
    first: Any = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = ".".join(str(part) for part in first.get("loc", ()))
    return _as_starlette(Malformed("invalid_request", f"{where}: {first.get('msg', 'invalid')}"))


async def _http(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse(
        {"type": "about:blank", "title": str(getattr(error, "detail", "error")), "status": status},
        status_code=status,
        media_type="application/problem+json",
    )
