"""Tells systems of approvals: an HTTP POST, signed as Standard Webhooks has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

The operator names the URL; no redirect is followed, no proxy of the environment is used, and of the answer
only the status is read. The body holds names and the page's address: no argument, no text, no secret.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2

from stepwrit_broker.approvals.outbox import NotDelivered
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.ports import Clock
from stepwrit_broker.ports_approval import Notice

TIMEOUT_S: Final = 10.0
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = (24, 64)
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
NameOf = Callable[[Identity], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Where to, and what. events, initiators: empty for all; `spiffe://…/*` covers what begins so."""

    name: str
    url: str
    secret_file: Path
    events: frozenset[str] = frozenset()
    initiators: tuple[str, ...] = ()
    ca_file: Path | None = None

    def wants(self, notice: Notice) -> bool:
        """Whether this notice goes there."""
        return (not self.events or notice.event in self.events) and (
            not self.initiators or any(_covers(each, notice.initiator) for each in self.initiators)
        )


def _covers(pattern: str, spiffe_id: str) -> bool:
    return pattern == spiffe_id or (pattern.endswith("/*") and spiffe_id.startswith(pattern[:-1]))


def read_secret(path: Path) -> bytes:
    """The key in a file of `whsec_` and base64. Raises ValueError, OSError."""
    text = path.read_text(encoding="ascii").strip()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(PREFIX) or not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
        raise ValueError(f"{path}: must hold {PREFIX} and the base64 of 24 to 64 random bytes")
    return key


def signature(key: bytes, message: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = f"{message}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def body_of(notice: Notice, now: float, name_of: NameOf) -> bytes:
    """What is sent: the same for every try, since a receiver may compare."""
    data: dict[str, object] = {
        "approval": notice.approval,
        "tenant": notice.tenant,
        "txn": notice.txn,
        "step": notice.step,
        "ref": notice.ref,
        "tool": notice.tool,
        "impact": notice.impact,
        "initiator": notice.initiator,
        "requester": None if notice.requester is None else name_of(notice.requester),
        "approvers": list(notice.to),
        "url": notice.url,
        "asked_at": _time(notice.asked_at),
        "expires_at": _time(notice.expires_at),
    }
    said = {"type": f"approval.{notice.event}", "timestamp": _time(now), "data": data}
    return json.dumps(said, separators=(",", ":")).encode()


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One notice on its way. id: the same for each try, so that a receiver can tell a repeat."""

    id: str
    body: bytes


class Webhook:
    """Delivers messages of one hook. Raises OSError, ValueError for a secret or CA that cannot be read."""

    def __init__(self, hook: Hook, clock: Clock, name_of: NameOf) -> None:
        self.hook: Final = hook
        self._key, self._clock, self._name_of = read_secret(hook.secret_file), clock, name_of
        tls = ssl.create_default_context(cafile=None if hook.ca_file is None else str(hook.ca_file))
        self._http: Final = httpx2.AsyncClient(
            verify=tls, trust_env=False, follow_redirects=False, timeout=TIMEOUT_S
        )

    def message(self, notice: Notice) -> Message:
        """What `deliver` takes."""
        body = body_of(notice, self._clock.now(), self._name_of)
        return Message(id=f"msg_{notice.approval}_{notice.event}_{notice.ref}", body=body)

    async def deliver(self, message: Message) -> None:
        """One try. Raises NotDelivered."""
        now = int(self._clock.now())
        headers = {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._key, message.id, now, message.body),
        }
        try:
            sent = self._http.stream("POST", self.hook.url, content=message.body, headers=headers)
            async with sent as answer:
                _check(answer, now)
        except httpx2.HTTPError as lost:
            raise NotDelivered(type(lost).__name__, again=True) from None

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._http.aclose()


def _check(answer: httpx2.Response, now: float) -> None:
    status = answer.status_code
    if 200 <= status < 300:
        return
    if answer.is_redirect:
        raise NotDelivered(f"status {status}: redirects are not followed; name the new URL", again=False)
    after = _after(answer.headers.get("retry-after", ""), now)
    raise NotDelivered(f"status {status}", again=status in _AGAIN, after=after)


def _after(said: str, now: float) -> float | None:
    """Seconds, from a number or a date (RFC 9110 section 10.2.3)."""
    if said.isascii() and said.isdigit() and len(said) < 7:
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError):
        return None
