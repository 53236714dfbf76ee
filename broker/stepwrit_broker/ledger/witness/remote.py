"""Asking a witness to cosign (C2SP tlog-witness, the client's side).

A witness that cannot be reached, or does not know us, is an alarm. One that has seen another history of this
log than we have is doubt about the log itself: only a log whose key signed elsewhere, or that was set back,
can get there.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.tlog import AddCheckpoint, parse_size
from stepwrit_broker.ledger.cosignature import CosignatureVerifier, Cosigned, cosigned
from stepwrit_broker.ports_ledger import Published

TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 16_384
_SIZE: Final = "text/x.tlog.size"
Prove = Callable[[int, int], Awaitable[tuple[bytes, ...]]]


class NotCosigned(Exception):  # noqa: N818  reads as a state
    """The witness did not answer, or refused for a reason that says nothing about the log."""


class Contradicted(Exception):  # noqa: N818  reads as a state
    """The witness has seen another history of this log."""


class Ahead(Contradicted):
    """It has cosigned more than it was shown: the log was set back, or another broker of it showed more."""

    def __init__(self, size: int, shown: int) -> None:
        super().__init__(f"it cosigned {size} entries, here are {shown}: the ledger was set back")
        self.size: Final = size


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteWitness:
    """Where a witness is and by which key it is known. url: the submission prefix, without the verb."""

    url: str
    verifier: CosignatureVerifier
    ca_file: Path | None = None

    @property
    def name(self) -> str:
        """As in its cosignatures."""
        return self.verifier.name


class WitnessClient:
    """One witness's connection. Used by one task at a time."""

    def __init__(self, remote: RemoteWitness, prove: Prove) -> None:
        """prove: the consistency proof between two sizes. Raises OSError, ValueError for a bad CA file."""
        self.remote: Final = remote
        self._prove = prove
        self._known = 0
        tls = ssl.create_default_context(cafile=None if remote.ca_file is None else str(remote.ca_file))
        self._http: Final = httpx2.AsyncClient(
            verify=tls, trust_env=False, follow_redirects=False, timeout=TIMEOUT_S
        )

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._http.aclose()

    async def cosign(self, signed: Published) -> Cosigned:
        """The witness's verified cosignature on this checkpoint. Raises NotCosigned, Contradicted."""
        self._known = min(self._known, signed.size)
        status, kind, text = await self._ask(signed)
        if status == 409 and kind == _SIZE:  # it knows another size than we think, and says so
            self._known = self._told(signed, text)
            status, kind, text = await self._ask(signed)
            if status == 409 and kind == _SIZE:
                self._told(signed, text)
        if status == 200:
            return self._taken(signed, text)
        if status == 422 and self._known:
            raise Contradicted(f"it cosigned {self._known} entries of which ours are no continuation")
        raise NotCosigned(f"it answered {status}")

    async def _ask(self, signed: Published) -> tuple[int, str, str]:
        proof = await self._prove(self._known, signed.size)
        body = AddCheckpoint(old=self._known, proof=proof, checkpoint=signed.note).text()
        try:
            async with self._http.stream(
                "POST", f"{self.remote.url.rstrip('/')}/add-checkpoint", content=body.encode()
            ) as answer:
                read = b""
                async for part in answer.aiter_raw():
                    read += part
                    if len(read) > MAX_ANSWER_BYTES:
                        raise NotCosigned("its answer is too long")
                kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                return answer.status_code, kind, read.decode("utf-8", "replace")
        except httpx2.HTTPError as error:
            raise NotCosigned(f"it cannot be reached ({type(error).__name__})") from error

    def _told(self, signed: Published, text: str) -> int:
        try:
            size = parse_size(text.removesuffix("\n"))
        except Problem as bad:
            raise NotCosigned("its answer is not in the format") from bad
        if size > signed.size:
            raise Ahead(size, signed.size)
        if size == signed.size == self._known:
            raise Contradicted(f"it cosigned another root for {size} entries: the ledger forked")
        return size

    def _taken(self, signed: Published, text: str) -> Cosigned:
        try:
            found = cosigned(signed.note + text, (self.remote.verifier,))
        except Problem as bad:
            raise NotCosigned("its cosignature does not verify") from bad
        if not found:
            raise NotCosigned("its answer has no cosignature of the key we know")
        self._known = signed.size
        return found[0]
