"""One poll of a bundle endpoint (SPIFFE_Federation.md section 5): TLS by its profile, and a bounded answer.

Redirects are not followed: the operator names the endpoint. The environment's proxies are not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx2

from stepwrit._tls import reader_context
from stepwrit.spiffe_bundle import MAX_BUNDLE_BYTES
from stepwrit.spiffe_id import trust_domain_of
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Partner

TIMEOUT_S: Final = 15.0
_GONE: Final = frozenset({404, 410})
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity"}


async def fetch(partner: Partner, roots: Sequence[bytes], now: Callable[[], float]) -> bytes:
    """The document that the endpoint serves, unread. Raises BundleNotTaken.

    roots: for `https_spiffe`, the CA certificates (DER) of the endpoint's own trust domain. now: seconds
    since the epoch.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            tls = await asyncio.to_thread(_context, partner, roots, now)
            return await _get(partner.url, tls)
    except TimeoutError:
        raise BundleNotTaken("timeout", f"no whole answer within {TIMEOUT_S:g} s") from None
    except httpx2.HTTPError as failed:
        raise _failed(failed) from failed
    except (OSError, ValueError) as bad:  # the CA file, or roots that are no certificates
        raise BundleNotTaken("tls", f"{type(bad).__name__}: {bad}") from bad


def _context(partner: Partner, roots: Sequence[bytes], now: Callable[[], float]) -> ssl.SSLContext:
    """Made for each poll: what was withdrawn since counts at the next one, and no session is resumed."""
    if partner.endpoint_id is None:
        return ssl.create_default_context(cafile=None if partner.ca_file is None else str(partner.ca_file))
    bundles: Mapping[str, Sequence[bytes]] = {trust_domain_of(partner.endpoint_id): roots}
    return reader_context(bundles, partner.endpoint_id, now)


async def _get(url: str, tls: ssl.SSLContext) -> bytes:
    opened: list[Any] = []

    async def note(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(info["return_value"])

    try:
        async with (
            httpx2.AsyncClient(verify=tls, trust_env=False, timeout=TIMEOUT_S) as http,
            http.stream("GET", url, headers=_HEADERS, extensions={"trace": note}) as answer,
        ):
            return await _body(answer)
    finally:  # the client forgets a connection whose handshake was cut short, by our time limit or our stop
        for stream in opened:
            await stream.aclose()


async def _body(answer: httpx2.Response) -> bytes:
    _check(answer)
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MAX_BUNDLE_BYTES:
            raise BundleNotTaken("too_large", f"more than {MAX_BUNDLE_BYTES} bytes")
    return bytes(body)


def _check(answer: httpx2.Response) -> None:
    status = answer.status_code
    if status in _GONE:
        raise BundleNotTaken("gone", f"status {status}: is the relation ended? Then remove it here as well")
    if answer.is_redirect:
        raise BundleNotTaken(
            "redirect", f"status {status}: name the new URL here; redirects are not followed"
        )
    if status != 200:
        raise BundleNotTaken("status", f"status {status}")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise BundleNotTaken("encoded", "the answer is encoded, though that was not asked for")


def _failed(failed: httpx2.HTTPError) -> BundleNotTaken:
    cause: BaseException | None = failed
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return BundleNotTaken("tls", str(cause))
    if isinstance(failed, httpx2.TimeoutException):
        return BundleNotTaken("timeout", type(failed).__name__)
    return BundleNotTaken("unreachable", f"{type(failed).__name__}: {failed}")
