"""The callers' side of the wire: raw HTTP over mutual TLS to any broker, and every exchange on record."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.client import Answer, Line, connect, post
from tests.faults.observed import Effect, Exchange, write
from tests.faults.world import BASE, BROKER, spiffe

from stepwrit._tls import client_context
from stepwrit.dpop import make_proof
from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.jws import SigningKey

TIMEOUT_S = 5.0
IDLE_MOST = 8


def new() -> str:
    """A fresh operation id or jti."""
    return secrets.token_hex(12)


class CutError(Exception):
    """No answer; the message is the transport's word."""


class Book:
    """JSON lines, appended. synced: each is on disk before `put` returns."""

    def __init__(self, path: Path, *, synced: bool = False) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._synced = synced

    def put(self, part: Exchange | Effect) -> None:
        """One line."""
        os.write(self._file, f"{write(part)}\n".encode())
        if self._synced:
            os.fsync(self._file)


class Ways:
    """One workload's connections to all brokers; kept alive, thrown away at the first trouble."""

    def __init__(self, path: str, socket: str, brokers: dict[str, str]) -> None:
        """brokers: name -> URL, as seen from here."""
        self.id = spiffe(path)
        self._identity = WorkloadIdentity(socket)
        self._brokers = brokers
        self._idle: dict[str, list[Line]] = {name: [] for name in brokers}
        self._context: ssl.SSLContext

    async def start(self) -> None:
        """Get an identity."""
        await self._identity.start()
        await self._identity.wait_ready(60.0)
        self._context = client_context(self._identity, spiffe(BROKER))

    async def stop(self) -> None:
        """Let go."""
        for lines in self._idle.values():
            for line in lines:
                line.close()
        await self._identity.close()

    async def ask(self, broker: str, raw: bytes) -> Answer:
        """One exchange. Raises CutError."""
        line: Line | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                line = self._taken(broker) or await connect(self._brokers[broker], self._context)
                answer = await line.ask(raw)
        except (OSError, TimeoutError, IdentityUnavailable) as error:
            if line is not None:
                line.close()
            raise CutError(f"{type(error).__name__} {error}"[:200]) from error
        if len(self._idle[broker]) < IDLE_MOST:
            self._idle[broker].append(line)
        else:
            line.close()
        return answer

    def _taken(self, broker: str) -> Line | None:
        lines = self._idle[broker]
        while lines:
            line = lines.pop()
            if line._transport is not None and not line._transport.is_closing():
                return line
        return None


@dataclass(frozen=True, kw_only=True)
class Said:
    """What came of an exchange: its record, and the body of the answer."""

    exchange: Exchange
    body: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        return self.exchange.result == "ok"


@dataclass(frozen=True, kw_only=True)
class Asker:
    """One caller's hand in one role: its key, its name on the record."""

    name: str
    ways: Ways = field(repr=False)
    book: Book = field(repr=False)
    key: SigningKey = field(default_factory=SigningKey.generate, repr=False)

    def proof(self, path: str) -> str:
        """A fresh DPoP proof for a request to the brokers."""
        return make_proof(self.key, "POST", BASE + path, time.time(), new())

    async def ask(
        self,
        verb: str,
        path: str,
        body: bytes,
        *,
        via: str,
        op: str,
        proof: str = "",
        kind: str = "application/json",
        **about: Any,
    ) -> Said:
        """One exchange, on record whatever comes of it."""
        sent = time.time()
        base = {"caller": self.name, "via": via, "verb": verb, "op": op, "sent": sent, **about}
        try:
            status, raw = await self._exchanged(via, path, body, op, proof=proof, kind=kind)
        except CutError as cut:
            return self._noted(Exchange(**base, saw=time.time(), result="cut", said=str(cut)))
        return self._judged(base, status, raw)

    async def _exchanged(self, via: str, path: str, body: bytes, op: str, *, proof: str, kind: str) -> Answer:
        """Status and body. Raises CutError."""
        return await self.ways.ask(via, post(path, body, op, proof=proof, kind=kind))

    def _judged(self, base: dict[str, Any], status: int, raw: bytes) -> Said:
        base = {**base, "saw": time.time(), "status": status}
        try:
            body = json.loads(raw)
            refusal = None if status in (200, 201) else body["refusal"]
            if refusal is None:
                named = {k: body[k] for k in ("step", "txn", "grant", "ref") if k in body}
                return self._noted(Exchange(**{**base, **named}, result="ok"), body)
            said = {k: refusal.get(k) or "" for k in ("code", "rule", "ref")}
            return self._noted(Exchange(**base, **said, result="refused"), body)
        except (ValueError, KeyError, TypeError, AttributeError):
            said = raw[:300].decode(errors="replace")
            return self._noted(Exchange(**base, result="odd", said=said))

    def _noted(self, exchange: Exchange, body: dict[str, Any] | None = None) -> Said:
        self.book.put(exchange)
        return Said(exchange=exchange, body=body or {})
