"""The credential handle that a tool is given: mints on use, one credential per request sent.

The credential is bound to method, URL and body of that one request, within the tool's plan. The handle itself
opens nothing, belongs to one step, and is dead when that step's call has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Final, NamedTuple

import anyio
import anyio.from_thread
import httpx2

from stepwrit._blocking import Blocking, now
from stepwrit._reply import local
from stepwrit.digest import DigestError, body_digest, normalise_url
from stepwrit.dpop import make_proof, token_hash
from stepwrit.errors import ConfigurationError, RefusedError
from stepwrit.lineage import Performs, Step
from stepwrit.wire import ACTION_TYPE, HEADER_DPOP, RequestDetails


class Presented(NamedTuple):
    """One credential, and the headers that present it (RFC 9449 section 7.1). Unpacks as (token, headers)."""

    token: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return "Presented(…)"


class Credential(httpx2.Auth):
    """The right to ask for credentials at one audience, for one step.

    As `auth=` of an httpx2 client it mints one for each request sent; do not follow redirects, it is for one
    URL. For other HTTP clients there is `token`. A reply that was lost after sending may have taken
    effect: `last_grant` is the idempotency key to ask the resource about.
    """

    requires_request_body = True

    def __init__(self, audience: str, step: Step) -> None:
        self.audience: Final = audience
        self._step: Final = step
        self.last_grant: str | None = None

    @property
    def broker(self) -> Performs:
        """Whom it asks."""
        return self._step.broker

    def __repr__(self) -> str:
        return f"Credential({self.audience!r}, step={self._step.id!r})"

    async def token(self, method: str, url: str, body: bytes = b"") -> Presented:
        """A credential for exactly this request, and the headers to send with it.

        url: absolute, with query. body: the bytes as they will be sent.

        Raises:
            RefusedError: `closed` after the tool has returned, `no_step` from another step, or the broker's
                no: `plan`, `policy`, `limit`, …
        """
        self._step.check()
        try:
            return await self._mint(method.upper(), url, body)
        except RefusedError as no:
            self._step.refused = no.refusal
            raise

    async def _mint(self, method: str, url: str, body: bytes) -> Presented:
        broker = self._step.broker
        try:
            url = normalise_url(url)
        except DigestError as bad:
            raise RefusedError(local("invalid_request", f"the request's URL: {bad}")) from None
        details = RequestDetails(type=ACTION_TYPE, method=method, url=url, body=body_digest(body))
        granted = await broker.credential(step=self._step.id, resource=self.audience, details=details)
        self.last_grant = granted.grant
        token = granted.access_token
        proof = make_proof(broker.key, method, url, broker.now(), broker.random_id(), ath=token_hash(token))
        return Presented(token, {"Authorization": f"DPoP {token}", HEADER_DPOP: proof})

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """httpx2's seam for `AsyncClient`."""
        body = await request.aread()
        request.headers.update((await self.token(request.method, _sent_url(request), body)).headers)
        yield request

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """httpx2's seam for `Client`, in tools that are plain functions."""
        body = request.read()
        request.headers.update(from_thread(self, request.method, _sent_url(request), body).headers)
        yield request


class SyncCredential(Credential):
    """The same for tools that are plain functions: `token_sync` blocks."""

    def token_sync(self, method: str, url: str, body: bytes = b"") -> Presented:
        """As `Credential.token`, from the thread that a plain function runs in."""
        return from_thread(self, method, url, body)


def from_thread(handle: Credential, method: str, url: str, body: bytes) -> Presented:
    """`handle.token` on the event loop that this worker thread belongs to.

    Raises:
        ConfigurationError: not in such a thread: an async tool must not block on a sync client.
    """
    if isinstance(handle.broker, Blocking):
        return now(handle.token(method, url, body))
    try:
        return anyio.from_thread.run(handle.token, method, url, body)
    except anyio.NoEventLoopError as wrong:
        raise ConfigurationError(
            "a sync HTTP client works in tools that are plain functions; in async ones use httpx2.AsyncClient"
        ) from wrong


def _sent_url(request: httpx2.Request) -> str:
    """Without the fragment, which is never sent."""
    return str(request.url).partition("#")[0]
