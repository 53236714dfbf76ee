"""`/v1/approvals`, as an approver's own machine calls it: over TLS, by the approver's key."""

from __future__ import annotations

import json
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import httpx2

from stepwrit import _reply
from stepwrit.clock import SystemClock, SystemEntropy, random_id
from stepwrit.digest import b64u, body_digest
from stepwrit.errors import ConfigurationError, RefusedError, UnavailableError
from stepwrit.wire import Refusal
from stepwrit_broker.cli.approver_key import ApproverKey
from stepwrit_broker.cli.failures import NoBroker
from stepwrit_broker.cli.locate import read_dev
from stepwrit_broker.core.statement import APPROVAL, REQUEST, approval_statement, request_statement

TIMEOUT_S: Final = 30.0
BASE: Final = "/v1/approvals"


@dataclass(slots=True, kw_only=True)
class ApproverClient:
    """Asks one broker. url: its issuer, which every statement names. Raises RefusedError, NoBroker."""

    http: httpx2.Client = field(repr=False)
    url: str
    nonce: str = ""

    def get(self, key: ApproverKey, path: str = "") -> dict[str, Any]:
        """The answer to a question."""
        return self._proved(key, "GET", path, b"")

    def deny(self, key: ApproverKey, name: str, reason: str, *, freeze: bool) -> dict[str, Any]:
        """Say no."""
        body = json.dumps({"v": 1, "reason": reason, "freeze": freeze}).encode()
        return self._proved(key, "POST", f"/{name}/denial", body)

    def sign(self, name: str, key_id: str, attempt: str, signature: bytes) -> dict[str, Any]:
        """Hand a signature in; it is its own proof."""
        sent = {"v": 1, "key": key_id, "attempt": attempt, "signature": b64u(signature)}
        return self._ask("POST", f"/{name}/signatures", json.dumps(sent).encode(), {})

    def statement(self, key: ApproverKey, name: str, attempt: str, digest: str) -> bytes:
        """What is to be signed for an approval."""
        return approval_statement(issuer=self.url, approval=name, key=key.id, attempt=attempt, digest=digest)

    def _proved(self, key: ApproverKey, method: str, path: str, body: bytes) -> dict[str, Any]:
        """A nonce of the listener first, if there is none yet: signing may cost a touch of a token."""
        if not self.nonce:
            self._http(method="GET", path="", body=b"", headers={})
        said = request_statement(
            key=key.id,
            method=method,
            url=self.url + BASE + path,
            body=body_digest(body),
            at=int(SystemClock().now()),
            jti=random_id(SystemEntropy()),
            nonce=self.nonce,
        )
        token = f"{b64u(said)}.{b64u(key.sign(REQUEST, said))}"
        return self._ask(method, path, body, {"Authorization": f"Stepwrit-Key {token}"})

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        reply = self._http(method=method, path=path, body=body, headers=headers)
        try:
            if reply.status_code >= 400:
                raise _no(reply)
            return cast("dict[str, Any]", _reply.json_object(reply.content))
        except _reply.Garbled:
            raise NoBroker(f"{self.url} answered HTTP {reply.status_code}, not as a broker does") from None

    def _http(self, *, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        kind = {"Content-Type": "application/json"} if body else {}
        try:
            reply = self.http.request(method, BASE + path, content=body, headers={**kind, **headers})
        except httpx2.RequestError as lost:
            raise NoBroker(f"no answer from {self.url} ({type(lost).__name__}: {lost})") from None
        self.nonce = reply.headers.get("stepwrit-nonce", self.nonce)
        return reply


@contextmanager
def approver(url: str, ca: Path | None) -> Generator[ApproverClient]:
    """A client of the broker with this issuer. ca: PEM, for a certificate that this system does not know.

    For the development broker that runs here it is known. Raises ConfigurationError for a file that is none.
    """
    dev = read_dev(None) if ca is None else None
    file = dev.ca if dev is not None and dev.issuer == url and dev.ca else ca
    try:
        context = ssl.create_default_context(cafile=None if file is None else str(file))
    except OSError as bad:
        raise ConfigurationError(f"--ca {file}: {bad}") from bad
    with httpx2.Client(base_url=url, verify=context, timeout=TIMEOUT_S) as http:
        yield ApproverClient(http=http, url=url)


def _no(reply: httpx2.Response) -> RefusedError:
    refusal: Refusal = _reply.refusal(reply.content)
    return UnavailableError(refusal) if reply.status_code >= 500 else RefusedError(refusal)


__all__ = ["APPROVAL", "ApproverClient", "approver"]
