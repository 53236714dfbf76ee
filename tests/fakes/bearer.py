"""A workload that has nothing to show but a JWT-SVID: it talks to the `tls` listener, as any OAuth client
may.

bearer = Bearer(stage=stage, path="agent/lone")
reply = await bearer.form({...})
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import httpx2
from tests.fakes.stage import ISSUER, Reply, Stage, new, spiffe

from stepwrit.dpop import make_proof
from stepwrit.jws import SigningKey
from stepwrit.wire import CLIENT_ASSERTION_JWT_SPIFFE

OAUTH_FORM = "application/x-www-form-urlencoded"


def tls_client(stage: Stage) -> httpx2.AsyncClient:
    """Believes the stage's own certificate file, and shows none."""
    context = ssl.create_default_context(cafile=str(stage.folder / "tls.crt"))
    context.check_hostname = False
    return httpx2.AsyncClient(base_url=stage.tls_url, verify=context, timeout=10.0)


@dataclass(frozen=True, kw_only=True)
class Bearer:
    """One workload with one DPoP key and, unless it is given another, a fresh JWT-SVID for each request."""

    stage: Stage = field(repr=False)
    path: str
    key: SigningKey = field(default_factory=SigningKey.generate)
    svid: str | None = None

    @property
    def id(self) -> str:
        return spiffe(self.path, self.stage.domain)

    def with_new_key(self) -> Bearer:
        """Whoever has the same document and another key."""
        return replace(self, key=SigningKey.generate())

    def token(self, **claims: Any) -> str:
        """A JWT-SVID of this workload; `life` in seconds, `audience` a list."""
        life = claims.pop("life", None)
        audience = claims.pop("audience", [ISSUER])
        named = {"jti": new(), **claims}  # two of one second would be one document else
        return self.stage.trust.ca.jwt_svid(self.id, audience, life, **named)

    def holding(self, svid: str) -> Bearer:
        """The same workload, showing this very document."""
        return replace(self, svid=svid)

    def proof(self, path: str, *, nonce: str | None, base: str = ISSUER, at: float | None = None) -> str:
        now = self.stage.now() if at is None else at
        return make_proof(self.key, "POST", base + path, now, new(), nonce=nonce)

    async def nonce(self) -> str:
        """What the listener gives with any answer of an endpoint."""
        async with tls_client(self.stage) as http:
            answer = await http.post("/oauth/token", content=b"a=b", headers={"content-type": OAUTH_FORM})
        return answer.headers["dpop-nonce"]

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        async with tls_client(self.stage) as http:
            answer = await http.post(path, content=body, headers=dict(headers))
        read = json.loads(answer.content) if "json" in answer.headers.get("content-type", "") else {}
        return Reply(status=answer.status_code, body=read, raw=answer.content, headers=answer.headers)

    async def form(self, members: Mapping[str, str], path: str = "/oauth/token", **how: Any) -> Reply:
        """An OAuth request, authenticated by client_assertion. `proof`, `op` and members may be given."""
        asked = {
            "client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE,
            "client_assertion": self.svid or self.token(),
            **members,
        }
        body = urlencode({name: value for name, value in asked.items() if value}).encode()
        return await self.post(path, body, await self._headers(path, OAUTH_FORM, how))

    async def json(self, path: str, members: Mapping[str, Any], **how: Any) -> Reply:
        """One of our own verbs, authenticated by Authorization: Bearer."""
        sent = {
            "authorization": f"Bearer {self.svid or self.token()}",
            **await self._headers(path, "application/json", how),
        }
        return await self.post(path, json.dumps(members).encode(), sent)

    async def _headers(self, path: str, kind: str, how: Mapping[str, Any]) -> dict[str, str]:
        proof = how["proof"] if "proof" in how else self.proof(path, nonce=await self.nonce())
        shown = {} if proof is None else {"dpop": proof}
        return {"content-type": kind, "idempotency-key": how.get("op") or new(), **shown}
