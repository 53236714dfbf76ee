"""As much of OPA's REST API as we need (www.openpolicyagent.org/docs/rest-api), on kept-alive connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import msgspec

from stepwrit_broker.policy.rego import RegoModule

BODY_MAX: Final = 1_048_576
CONNECTIONS_MAX: Final = 64
UNIX: Final = "unix://"
_JSON: Final = {"content-type": "application/json"}
_STRICT: Final = "?strict-builtin-errors=true"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaServer:
    """Where OPA is. url: `http(s)://host:port`, or `unix:///path`. timeout_s: of one decision, all in all.

    failures, open_s: after so many failures in a row it is not asked for so many seconds.
    """

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None
    timeout_s: float = 0.2
    failures: int = 5
    open_s: float = 1.0


class OpaFailed(Exception):  # noqa: N818  reads as what happened
    """No answer, or none to be believed. why: one word for metrics and log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why: Final = why


class EvaluationFailed(Exception):  # noqa: N818  reads as what happened
    """OPA answered that the policy itself errs on this input."""


class OpaHttp:
    """A client. Nothing here waits for ever, but only the caller knows how long it may take."""

    def __init__(self, server: OpaServer) -> None:
        """Reads the CA and token files. Raises OSError, ssl.SSLError."""
        headers = {"accept-encoding": "identity"}
        if server.token_file is not None:
            headers["authorization"] = f"Bearer {server.token_file.read_text(encoding='ascii').strip()}"
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)
        uds = server.url.removeprefix(UNIX) if server.url.startswith(UNIX) else None
        self._http = httpx2.AsyncClient(
            base_url=server.url.rstrip("/") if uds is None else "http://opa",
            transport=httpx2.AsyncHTTPTransport(uds=uds, verify=_context(server), limits=limits, retries=0),
            headers=headers,
            trust_env=False,
            follow_redirects=False,
            timeout=None,
        )

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def query(self, path: str, body: bytes) -> bytes:
        """The body of a 200. Raises OpaFailed, EvaluationFailed."""
        status, answer = await self._send("POST", f"/v1/data/{path}{_STRICT}", body, _JSON)
        if status == 200:
            return answer
        if status == 500 and _is_evaluation(answer):
            raise EvaluationFailed
        raise OpaFailed(f"status_{status}")

    async def put(self, module: RegoModule) -> list[str]:
        """Give OPA a module; what its compiler says against it, as `file:line: what`. Raises OpaFailed."""
        status, answer = await self._send(
            "PUT", f"/v1/policies/{module.id}", module.text.encode(), {"content-type": "text/plain"}
        )
        if status == 200:
            return []
        if status == 400:
            return [_told(each, module) for each in _errors(answer)] or ["policy: OPA does not take it"]
        raise OpaFailed(f"status_{status}")

    async def parsed(self, module: RegoModule) -> Mapping[str, object]:
        """A module as OPA compiled it. Raises OpaFailed."""
        status, answer = await self._send("GET", f"/v1/policies/{module.id}", b"", {})
        try:
            return cast("Mapping[str, object]", msgspec.json.decode(answer)["result"]["ast"])
        except (msgspec.MsgspecError, KeyError, TypeError) as bad:
            raise OpaFailed("shape" if status == 200 else f"status_{status}") from bad

    async def forget(self, module: RegoModule) -> None:
        """Take a module away. Raises OpaFailed."""
        await self._send("DELETE", f"/v1/policies/{module.id}", b"", {})

    async def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Once more on a connection that was closed under us: whatever we send may be sent twice."""
        try:
            return await self._once(method, path, body, headers)
        except httpx2.TransportError:
            await asyncio.sleep(0)
        try:
            return await self._once(method, path, body, headers)
        except httpx2.HTTPError as bad:
            raise OpaFailed("connection") from bad

    async def _once(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        async with self._http.stream(method, path, content=body, headers=headers) as answer:
            read = bytearray()
            async for part in answer.aiter_raw():
                read += part
                if len(read) > BODY_MAX and method == "POST":
                    raise OpaFailed("too_large")
            return answer.status_code, bytes(read)


def _context(server: OpaServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if server.ca_file is None else str(server.ca_file))


def _errors(body: bytes) -> list[dict[str, Any]]:
    """The `errors` of an error response; none where it has none."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return []
    listed = found.get("errors") if isinstance(found, dict) else None
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _is_evaluation(body: bytes) -> bool:
    """The policy erred, not the server: an input that a policy cannot stand must not open the breaker."""
    codes = [str(each.get("code")) for each in _errors(body)]
    return bool(codes) and all(code.startswith("eval_") and code != "eval_cancel_error" for code in codes)


def _told(error: dict[str, Any], module: RegoModule) -> str:
    """OPA's word about a row of the module, told of the file; our own name for the package is left out."""
    location = error.get("location")
    row = location.get("row") if isinstance(location, dict) else None
    place = module.place(row) if isinstance(row, int) else "policy"
    return f"{place}: {str(error.get('message'))[:300].replace(f'.{module.name}', '')}"
