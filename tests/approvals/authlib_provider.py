"""An OpenID provider made of Authlib's own grants: what a standard library makes of our requests.

Only what the framework leaves to its user stands here: where clients, codes, persons and keys are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl

from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwrit_broker.edge.listeners import Listener, plain_listener


@dataclass(frozen=True, kw_only=True)
class Client:
    """A registered client. method: how it authenticates; secret or jwk: by what."""

    client_id: str
    redirect_uri: str
    method: str
    secret: str = ""
    jwk: dict[str, Any] | None = None
    id_token_signed_response_alg: str = "ES256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, uri: str) -> bool:
        return uri == self.redirect_uri

    def check_client_secret(self, secret: str) -> bool:
        return secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.method or (method == "client_assertion_jwt" and self.jwk is not None)

    def check_response_type(self, kind: str) -> bool:
        return kind == "code"

    def check_grant_type(self, kind: str) -> bool:
        return kind == "authorization_code"


@dataclass(frozen=True, kw_only=True)
class Code:
    """An authorization code as it was given."""

    code: str
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    acr: str | None
    user: str
    auth_time: int = field(default_factory=lambda: int(time.time()))

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> str | None:
        return self.acr

    def get_amr(self) -> None:
        return None


class _Request(OAuth2Request):
    def __init__(self, method: str, path: str, headers: dict[str, str], members: dict[str, str]) -> None:
        super().__init__(method, f"https://provider.test{path}", headers=headers)
        self.payload = BasicOAuth2Payload(members)
        self._members = members

    @property
    def args(self) -> dict[str, str]:
        return self._members

    @property
    def form(self) -> dict[str, str]:
        return self._members


class AuthlibProvider:
    """`async with AuthlibProvider(clients) as provider:`; whoever is asked signs in as `person`."""

    def __init__(self, *clients: Client, person: str = "alice") -> None:
        self.person, self.acr_given = person, True
        self._clients = {each.client_id: each for each in clients}
        self._codes: dict[str, Code] = {}
        self._key = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256", "use": "sig"}, private=True)
        self._listener: Listener = plain_listener("127.0.0.1", 0, name="provider")
        self._server = self._made()

    @property
    def url(self) -> str:
        return self._listener.url

    async def __aenter__(self) -> Self:
        routes = [
            Route("/.well-known/openid-configuration", self._configuration),
            Route("/jwks", self._jwks),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
        ]
        await self._listener.start(Starlette(routes=routes))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.stop()

    def _made(self) -> Any:
        provider = self

        class Server(AuthorizationServer):
            def query_client(self, client_id: str) -> Client | None:
                return provider._clients.get(client_id)

            def save_token(self, token: Any, request: Any) -> None:
                return

            def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
                return

            def create_oauth2_request(self, request: Any) -> Any:
                return request

            def handle_response(self, status: int, body: Any, headers: Any) -> Response:
                made = JSONResponse(body or None, status_code=status)
                made.headers.update(dict(headers))
                return made

        class Grant(AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "none", "client_assertion_jwt")

            def save_authorization_code(self, code: str, request: Any) -> None:
                asked = request.payload.data
                acr = asked.get("acr_values", "").split()
                provider._codes[code] = Code(
                    code=code, client_id=request.client.client_id, redirect_uri=asked["redirect_uri"],
                    scope=asked["scope"], nonce=asked.get("nonce"), user=provider.person,
                    code_challenge=asked.get("code_challenge"),
                    code_challenge_method=asked.get("code_challenge_method"),
                    acr=acr[0] if acr and provider.acr_given else None,
                )  # fmt: skip

            def query_authorization_code(self, code: str, client: Client) -> Code | None:
                found = provider._codes.get(code)
                return found if found is not None and found.client_id == client.client_id else None

            def delete_authorization_code(self, authorization_code: Code) -> None:
                del provider._codes[authorization_code.code]

            def authenticate_user(self, authorization_code: Code) -> str:
                return authorization_code.user

        class IdTokens(OpenIDCode):
            def exists_nonce(self, nonce: str, request: Any) -> bool:
                return any(each.nonce == nonce for each in provider._codes.values())

            def resolve_client_private_key(self, client: Client) -> Any:
                return provider._key

            def get_encode_header(self, client: Client) -> dict[str, str]:
                return {"alg": "ES256", "kid": "k1"}

            def get_client_claims(self, client: Client) -> dict[str, Any]:
                return {"iss": provider.url, "aud": client.client_id}

            def generate_user_info(self, user: str, scope: str) -> UserInfo:
                return UserInfo(sub=user)

        class Assertions(JWTBearerClientAssertion):
            def get_audiences(self) -> list[str]:
                return [provider.url]

            def validate_jti(self, claims: Any, jti: str) -> bool:
                return bool(jti)

            def resolve_client_public_key(self, client: Client) -> Any:
                return ECKey.import_key(client.jwk or {})

        server = Server()
        server.register_token_generator("default", BearerTokenGenerator(lambda **_: "access"))
        server.register_grant(Grant, [IdTokens(require_nonce=True), CodeChallenge(required=True)])
        server.register_client_auth_method("client_assertion_jwt", Assertions())
        return server

    async def _configuration(self, _: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def _jwks(self, _: Request) -> JSONResponse:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        asked = _Request("GET", "/authorize", dict(request.headers), dict(request.query_params))
        grant = self._server.get_consent_grant(asked, end_user=self.person)
        response: Response = self._server.create_authorization_response(asked, self.person, grant)
        return response

    async def _token(self, request: Request) -> Response:
        members = dict(parse_qsl((await request.body()).decode()))
        headers = {name.title(): value for name, value in request.headers.items()}
        response: Response = self._server.create_token_response(_Request("POST", "/token", headers, members))
        return response
