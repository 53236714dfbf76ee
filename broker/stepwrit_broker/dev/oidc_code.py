"""The development issuer's authorization code flow: a form that asks who you would like to be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import jwt
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from stepwrit_broker.approvals.oidc import Provider
from stepwrit_broker.config_sign_in import CALLBACK

CODE_S: Final = 60.0
PAGES: Final = "dev-pages"
_KEPT: Final = ("client_id", "redirect_uri", "state", "nonce", "code_challenge", "acr_values")
Mint = Callable[..., str]


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DevClient:
    """A relying party. secret, jwk: it authenticates by that; neither: it is public."""

    redirect_uri: str
    secret: str | None = field(default=None, repr=False)
    jwk: Mapping[str, str] | None = None


def pages_client(flow: CodeFlow, issuer: str) -> Provider:
    """The pages of the broker with this issuer URL, as a client here, where anyone may be anyone."""
    redirect = issuer + CALLBACK
    flow.clients[PAGES] = DevClient(redirect_uri=redirect)
    label = "the development issuer"
    return Provider(issuer=flow.url(), client_id=PAGES, redirect_uri=redirect, label=label, acr=("dev",))


@dataclass(slots=True)
class CodeFlow:
    """`/authorize` and `/token`. url: the issuer's. altered: what the claims of an ID token become."""

    url: Callable[[], str]
    mint: Mint
    clients: dict[str, DevClient] = field(default_factory=dict)
    altered: Callable[[dict[str, Any]], dict[str, Any]] = dict
    codes: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def routes(self) -> list[Route]:
        """Both endpoints."""
        return [
            Route("/authorize", self._ask, methods=["GET"]),
            Route("/authorize", self._said, methods=["POST"]),
            Route("/token", self._token, methods=["POST"]),
        ]

    def metadata(self) -> dict[str, object]:
        """What discovery says of it."""
        return {
            "authorization_endpoint": f"{self.url()}/authorize",
            "token_endpoint": f"{self.url()}/token",
            "response_types_supported": ["code", "id_token"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "private_key_jwt"],
        }

    async def _ask(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "") for name in _KEPT}
        client = self.clients.get(asked["client_id"])
        if client is None or client.redirect_uri != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_request"}, status_code=400)
        if request.query_params.get("response_type") != "code":
            return self._back({**asked, "error": "unsupported_response_type"})
        if request.query_params.get("code_challenge_method") != "S256" or not asked["code_challenge"]:
            return self._back({**asked, "error": "invalid_request"})
        hint = html.escape(request.query_params.get("login_hint", "dev-person"), quote=True)
        hidden = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(value, quote=True)}">'
            for name, value in asked.items()
        )
        return HTMLResponse(
            '<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>Sign in</title>'
            "<h1>Who would you like to be?</h1>"
            f'<form method="post" action="/authorize">{hidden}<label>Name <input name="sub" value="{hint}" '
            'required></label> <button name="said" value="yes">Sign in</button> '
            '<button name="said" value="no">Refuse</button></form></html>'
        )

    async def _said(self, request: Request) -> Response:
        form = await _form(request)
        client = self.clients.get(form.get("client_id", ""))
        if client is None or client.redirect_uri != form.get("redirect_uri"):
            return JSONResponse({"error": "invalid_request"}, status_code=400)
        if form.get("said") != "yes":
            return self._back({**form, "error": "access_denied"})
        code = secrets.token_urlsafe(24)
        self.codes[code] = {**form, "at": repr(time.time())}
        return self._back({**form, "code": code})

    def _back(self, told: Mapping[str, str]) -> Response:
        query = {name: told[name] for name in ("code", "error", "state") if told.get(name)}
        query["iss"] = self.url()  # RFC 9207
        return RedirectResponse(f"{told['redirect_uri']}?{urlencode(query)}", status_code=303)

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        client_id = self._client(request, form)
        if client_id is None:
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        kept = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        shown = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            kept is None
            or time.time() - float(kept["at"]) > CODE_S
            or (kept["client_id"], kept["redirect_uri"]) != (client_id, form.get("redirect_uri"))
            or kept["code_challenge"] != shown
        ):
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        return JSONResponse(
            {
                "token_type": "Bearer",
                "access_token": secrets.token_urlsafe(24),
                "id_token": self._signed(kept),
            }
        )

    def _signed(self, kept: Mapping[str, str]) -> str:
        acr = kept["acr_values"].split()
        claims: dict[str, Any] = {"subject": kept["sub"], "client_id": kept["client_id"]}
        claims |= {"nonce": kept["nonce"]} if kept["nonce"] else {}
        return self.mint(**self.altered({**claims, **({"acr": acr[0]} if acr else {})}))

    def _client(self, request: Request, form: Mapping[str, str]) -> str | None:
        """The client that authenticated, in the one way that it has."""
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            name, _, secret = (unquote(each) for each in base64.b64decode(pair).decode().partition(":"))
            client = self.clients.get(name)
            good = client is not None and client.secret is not None
            return name if client and good and hmac.compare_digest(client.secret or "", secret) else None
        client = self.clients.get(form.get("client_id", ""))
        if client is None or client.secret is not None:
            return None
        if client.jwk is not None and not self._asserted(form, client.jwk):
            return None
        return form["client_id"]

    def _asserted(self, form: Mapping[str, str], jwk: Mapping[str, str]) -> bool:
        try:
            claims = jwt.decode(
                form.get("client_assertion", ""), jwt.PyJWK({**jwk}), ["ES256"], audience=self.url()
            )
        except jwt.PyJWTError:
            return False
        return claims.get("sub") == claims.get("iss") == form["client_id"]
