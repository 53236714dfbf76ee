"""A development OIDC issuer on loopback: signs whatever person it is asked for. Never for production."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Awaitable, Callable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.oidc_code import CodeFlow
from stepwrit_broker.edge.listeners import Listener, plain_listener

CLIENT_ID = "dev-agent"
PERSON = "dev-person"


class DevIssuer:
    """`/.well-known/openid-configuration`, `/jwks`, and `POST /mint` for anyone on this machine.

    code: the authorization code flow, for the clients that are put there.
    """

    def __init__(self, port: int = 0) -> None:
        warnings.warn(
            "development OIDC issuer: anyone here can be anyone", DevelopmentModeWarning, stacklevel=2
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._listener: Listener = plain_listener("127.0.0.1", port, name="dev-oidc")
        self.code = CodeFlow(url=lambda: self.url, mint=self.mint)
        self.extra: dict[str, Callable[[Request], Awaitable[Response]]] = {}  # further POST routes

    @property
    def url(self) -> str:
        """The issuer's identifier, once started."""
        return self._listener.url

    async def start(self) -> None:
        """Serve on loopback."""
        routes = [
            Route("/.well-known/openid-configuration", self._configuration),
            Route("/jwks", self._jwks),
            Route("/mint", self._mint, methods=["POST"]),
            *self.code.routes(),
            *(Route(path, handler, methods=["POST"]) for path, handler in self.extra.items()),
        ]
        await self._listener.start(Starlette(routes=routes))

    async def stop(self) -> None:
        """End it."""
        await self._listener.stop()

    def mint(
        self,
        subject: str,
        *,
        client_id: str = CLIENT_ID,
        nonce: str | None = None,
        auth_age_s: float = 0.0,
        life_s: float = 300.0,
        **more: object,
    ) -> str:
        """An ID token for `subject`, who signed in `auth_age_s` seconds ago, with `more` claims."""
        now = time.time()
        claims: dict[str, object] = {
            "iss": self.url,
            "sub": subject,
            "aud": client_id,
            "iat": int(now),
            "exp": int(now + life_s),
            "auth_time": int(now - auth_age_s),
            "jti": secrets.token_hex(8),
            **more,
        }
        if nonce is not None:
            claims["nonce"] = nonce
        return jwt.encode(claims, self._key, "ES256", headers={"kid": "dev"})

    async def _configuration(self, _: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "id_token_signing_alg_values_supported": ["ES256"],
                "subject_types_supported": ["public"],
                **self.code.metadata(),
            }
        )

    async def _jwks(self, _: Request) -> JSONResponse:
        jwk = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**jwk, "kid": "dev", "use": "sig", "alg": "ES256"}]})

    async def _mint(self, request: Request) -> JSONResponse:
        asked = await request.json()
        token = self.mint(
            str(asked.get("sub", PERSON)),
            client_id=str(asked.get("client_id", CLIENT_ID)),
            nonce=asked.get("nonce"),
            auth_age_s=float(asked.get("auth_age_s", 0.0)),
        )
        return JSONResponse({"id_token": token})
