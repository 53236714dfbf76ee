"""The guard's view of one ASGI request: headers, URL, body; and the body played again to the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

from stepwrit.digest import DigestError, normalise_url

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_PCHAR: Final = "/!$&'()*+,;=:@-._~"  # RFC 3986 section 3.3: what a path holds unencoded


class BadRequest(ValueError):  # noqa: N818  reads as a verdict
    """The request has no single meaning; the text may be shown to its sender."""


class TooLarge(BadRequest):
    """The body is over the guard's cap."""


class Disconnected(Exception):  # noqa: N818  reads as an event
    """The client went away before its request was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What the Authorization header shows: scheme in lower case, credential as sent."""

    scheme: str
    token: str = field(repr=False)


def only(scope: Scope, name: bytes) -> str | None:
    """The one value of a header, or None. Raises BadRequest for two of them, or one beyond ASCII."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise BadRequest(f"more than one {name.decode()} header")
    try:
        return values[0].decode("ascii") if values else None
    except UnicodeDecodeError:
        raise BadRequest(f"the {name.decode()} header is not ASCII") from None


def presented(scope: Scope) -> Presented | None:
    """The credential (RFC 9449 section 7.1); None without an Authorization header.

    Raises:
        BadRequest: the header is there twice, or is not one scheme and one token.
    """
    authorization = only(scope, b"authorization")
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if not token or " " in token:
        raise BadRequest("Authorization is not one scheme and one token")
    return Presented(scheme=scheme.lower(), token=token)


def target(scope: Scope, base: str) -> str:
    """The URL that the request was sent to: `base` from configuration, path and query from the request.

    `Host` and `X-Forwarded-*` are the sender's words and are never read. A mount (`root_path`) is part of
    `base`.

    Raises:
        BadRequest: the path as sent and the path that the application sees may differ in meaning.
    """
    path: str = scope["path"]
    raw = _raw_path(scope)
    if unquote(raw) != path or not {".", ".."}.isdisjoint(path.split("/")):
        raise BadRequest("the path has dot segments or was rewritten on its way")
    mount = quote(scope.get("root_path", ""), safe=_PCHAR)
    if mount and (raw == mount or raw.startswith(mount + "/")):
        raw = raw[len(mount) :]
    query = scope.get("query_string", b"").decode("latin-1")
    try:
        return normalise_url(f"{base}{raw}{'?' + query if query else ''}")
    except DigestError as bad:
        raise BadRequest(str(bad)) from None


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"], safe=_PCHAR) if raw is None else raw.decode("latin-1")


async def read_body(scope: Scope, receive: Receive, cap: int) -> bytes:
    """The whole body, at most `cap` bytes; nothing is read when Content-Length already says more.

    Raises:
        TooLarge: over the cap. BadRequest: two lengths. Disconnected: the client left.
    """
    length = only(scope, b"content-length")
    if length is not None and (not length.isdecimal() or len(length) > 18 or int(length) > cap):
        raise TooLarge(f"the body is over {cap} bytes")
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > cap:
            raise TooLarge(f"the body is over {cap} bytes")
    return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body that was checked, then whatever really comes (a disconnect)."""
    unread = True

    async def again() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
