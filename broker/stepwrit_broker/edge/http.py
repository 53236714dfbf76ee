"""The little HTTP that the hot routes need: plain ASGI in front of FastAPI, with its own bounds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from stepwrit.digest import DigestError, parse_json
from stepwrit.shape import ShapeError, read
from stepwrit.wire import ACCEPTED_VERSIONS, BODY_MAX_BYTES
from stepwrit_broker.core.errors import Malformed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPERATION = re.compile(r"[\x21-\x7e]{16,128}\Z")
_FIELDS_MAX = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: what a hot route needs of it. `trace`: the W3C traceparent, for logs only."""

    scope: Scope
    method: str
    path: str
    body: bytes

    def header(self, name: bytes) -> str | None:
        """The one value of a header; Malformed when it is sent twice."""
        found = [value for each, value in self.scope["headers"] if each == name]
        if len(found) > 1:
            raise Malformed("invalid_request", f"header {name.decode()} is sent more than once")
        return found[0].decode("latin-1") if found else None

    @property
    def operation(self) -> str:
        """The required `Idempotency-Key`."""
        name = self.header(b"idempotency-key")
        if name is None or not _OPERATION.match(name):
            raise Malformed(
                "invalid_request", "Idempotency-Key: 16 to 128 visible ASCII characters are required"
            )
        return name

    def operation_or(self, fresh: Callable[[], str]) -> str:
        """`Idempotency-Key`, or a fresh name where standard clients send none."""
        return fresh() if self.header(b"idempotency-key") is None else self.operation

    @property
    def digest(self) -> str:
        """Names path and body: what an operation id stands for."""
        return hashlib.sha256(self.path.encode() + b"\x00" + self.body).hexdigest()

    def shape(self, kind: type[T]) -> T:
        """The body as a wire shape. Raises Malformed."""
        return shaped(kind, self.body)

    def form(self) -> Mapping[str, str]:
        """The body as a form, no field twice; read once. Raises Malformed."""
        read: Mapping[str, str] | None = self.scope.get("stepwrit.form")
        if read is None:
            read = self.scope["stepwrit.form"] = self._form()
        return read

    def _form(self) -> dict[str, str]:
        content = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if content != "application/x-www-form-urlencoded":
            raise Malformed("invalid_request", "the body must be application/x-www-form-urlencoded")
        try:
            pairs = _pairs(self.body.decode("ascii"))
        except ValueError as bad:
            raise Malformed("invalid_request", "the body is not a form") from bad
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise Malformed(_twice(pairs), "a parameter is included more than once")
        return {name: value for name, value in fields.items() if value}  # RFC 6749 section 3.2


def _twice(pairs: list[tuple[str, str]]) -> str:
    """The word for a repeated field: one credential is for one target (RFC 8707 section 2)."""
    names = [name for name, _ in pairs]
    targets = any(names.count(each) > 1 for each in ("resource", "audience"))
    return "invalid_target" if targets else "invalid_request"


def _pairs(text: str) -> list[tuple[str, str]]:
    """application/x-www-form-urlencoded, strictly: every field has a name and `=`. Raises ValueError."""
    fields = text.split("&")
    if len(fields) > _FIELDS_MAX:
        raise ValueError("too many fields")
    return [_pair(field) for field in fields]


def _pair(field: str) -> tuple[str, str]:
    name, equals, value = field.partition("=")
    if not name or not equals:
        raise ValueError("a field without name or value")
    return _plain(name), _plain(value)


def _plain(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")


def shaped(kind: type[T], raw: bytes | str) -> T:
    """A wire shape of raw JSON.

    Raises Malformed(`invalid_request` | `invalid_arguments` | `upgrade_required`).
    """
    try:
        value = parse_json(raw)
    except DigestError as bad:
        raise Malformed("invalid_arguments", str(bad)) from bad
    version = value.get("v", 1) if isinstance(value, Mapping) else 1
    if type(version) is int and version not in ACCEPTED_VERSIONS:
        raise Malformed("upgrade_required", f"v: this broker speaks {sorted(ACCEPTED_VERSIONS)}")
    try:
        return read(kind, value)  # type: ignore[type-var]
    except ShapeError as bad:
        raise Malformed("invalid_request", str(bad)) from bad


async def receive_request(scope: Scope, receive: Receive) -> Request:
    """The whole request, its body within BODY_MAX_BYTES. Raises Malformed."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # half a body never stands for a whole one
            raise Malformed("invalid_request", "the connection ended before the body did")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > BODY_MAX_BYTES:
            raise Malformed("invalid_request", f"the body is larger than {BODY_MAX_BYTES} bytes")
    return Request(scope=scope, method=scope["method"], path=scope["path"], body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A JSON answer; without a value, an empty one."""

    status: int
    value: object
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send) -> None:
        """Write it out, never to be cached (RFC 6749 section 5.1)."""
        raw = b"" if self.value is None else _encode(self.value)
        head = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(raw)).encode()),
            (b"cache-control", b"no-store"),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": raw})


class BodyLimit:
    """ASGI middleware: no application behind it holds more than `most` bytes of a body, whoever sends it."""

    def __init__(self, app: Asgi, *, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; a body that goes on beyond the bound ends there, as an error of its reader."""
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._most:
                raise Malformed("invalid_request", f"the body is larger than {self._most} bytes")
            return message

        await self._app(scope, bounded, send)


_encode = msgspec.json.Encoder().encode
