"""What the guard itself answers: refusals, the challenge, the resource's metadata; and how it counts them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from stepwrit._guard_asgi import Scope, Send
from stepwrit.shape import write
from stepwrit.wire import ACTION_TYPE, DOC_BASE, Refusal

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
HEADER_REF: Final = b"stepwrit-ref"
RETRY_S: Final = 1.0
_STATUS: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "upgrade_required": 400,
    "invalid_token": 401,
    "invalid_proof": 401,
    "expired": 401,
    "no_step": 401,
    "unavailable": 503,
    "outcome_unknown": 503,
}
_CHALLENGE: Final[Mapping[str, str]] = {  # RFC 6750 section 3.1, RFC 9449 section 7.1
    "invalid_token": "invalid_token",
    "expired": "invalid_token",
    "invalid_proof": "invalid_dpop_proof",
}


class Denied(Exception):  # noqa: N818  reads as a verdict
    """The guard's no.

    status: the HTTP status. signed: the credential carries our signature. reported: the broker knows already.
    """

    def __init__(
        self, refusal: Refusal, *, status: int | None = None, signed: bool = False, reported: bool = False
    ) -> None:
        super().__init__(refusal.code)
        self.refusal: Final = replace(refusal, doc=refusal.doc or f"{DOC_BASE}{refusal.code}")
        self.status: Final = status or _STATUS.get(refusal.code, 403)
        self.signed: Final = signed
        self.reported: Final = reported

    def with_ref(self, ref: str) -> Denied:
        """The same no under the name of its record."""
        refusal = replace(self.refusal, ref=ref)
        return Denied(refusal, status=self.status, signed=self.signed, reported=True)


def denied(code: str, reason: str, *, status: int | None = None, signed: bool = False) -> Denied:
    """A no of the guard's own finding."""
    return Denied(Refusal(code=code, reason=reason), status=status, signed=signed)


def unavailable(reason: str, *, signed: bool = False) -> Denied:
    """In doubt: the application did not run; a later try, with a new credential, may succeed."""
    refusal = Refusal(code="unavailable", reason=reason, retry_after=RETRY_S)
    return Denied(refusal, signed=signed, reported=True)  # whoever is in doubt is not asked to record it


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """The URLs of a protected resource (RFC 9728 section 3): well-known goes between host and path."""

    audience: str
    metadata_path: str = field(init=False)
    metadata_url: str = field(init=False)

    def __post_init__(self) -> None:
        at = urlsplit(self.audience)
        path = "" if at.path == "/" else at.path  # only a slash right after the host goes (section 3.1)
        object.__setattr__(self, "metadata_path", WELL_KNOWN + path)
        object.__setattr__(self, "metadata_url", f"{at.scheme}://{at.netloc}{self.metadata_path}")

    def metadata(self, issuer: str) -> dict[str, object]:
        """The RFC 9728 document; no bearer method is supported, tokens are always DPoP-bound."""
        return {
            "resource": self.audience,
            "authorization_servers": [issuer],
            "bearer_methods_supported": [],
            "dpop_bound_access_tokens_required": True,
            "dpop_signing_alg_values_supported": ["ES256"],
            "authorization_details_types_supported": [ACTION_TYPE],
        }

    def challenge(self, code: str) -> str:
        """`WWW-Authenticate`: without an error word when no credential was sent (RFC 6750 section 3.1)."""
        error = f'error="{_CHALLENGE[code]}", ' if code in _CHALLENGE else ""
        return f'DPoP {error}algs="ES256", resource_metadata="{self.metadata_url}"'


async def send_refusal(send: Send, face: Face, no: Denied) -> None:
    """The refusal as problem details (RFC 9457) with the typed member `refusal`."""
    refusal = no.refusal
    body = {
        "type": refusal.doc,
        "title": refusal.code,
        "status": no.status,
        "detail": refusal.reason,
        "refusal": write(refusal),
    }
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if no.status == 401:
        headers.append((b"www-authenticate", face.challenge(refusal.code).encode()))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.retry_after)).encode()))
    if refusal.ref is not None:
        headers.append((HEADER_REF, refusal.ref.encode()))
    await _send(send, no.status, headers, json.dumps(body).encode())


async def send_metadata(scope: Scope, send: Send, face: Face, issuer: str) -> None:
    """The metadata document to GET and HEAD, 405 to the rest."""
    if scope["method"] not in ("GET", "HEAD"):
        await _send(send, 405, [(b"allow", b"GET, HEAD")], b"")
        return
    body = json.dumps(face.metadata(issuer)).encode()
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"max-age=300")]
    await _send(send, 200, headers, body, head=scope["method"] == "HEAD")


async def send_websocket_refusal(send: Send) -> None:
    """A websocket is many requests under one check, so none is opened: 403 to the handshake (ASGI close)."""
    await send({"type": "websocket.close", "code": 1008, "reason": "not under a step"})


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, head: bool = False
) -> None:
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
