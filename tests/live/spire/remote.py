"""Workloads that are processes: each has one SVID of its own, by the path of its executable.

A test says what they send, signs proofs with keys of its own, and sees how their identities are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fakes.stage import Stage, spiffe

from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost, Request, Response
from stepwrit_broker.dev.spire import SpireDomain

BROKER = "stepwrit/broker"
_ROOT = Path(__file__).resolve().parents[3]


class RemoteWorkload:
    """`await RemoteWorkload.start(spire, "agent/chat")`; a `Transport` to the broker at `url()`."""

    def __init__(
        self, path: str, python: Path, process: asyncio.subprocess.Process, url: Callable[[], str]
    ) -> None:
        self.path, self.python, self._process, self._url = path, python, process, url
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.ensure_future(self._read())
        self._count = 0

    @classmethod
    async def start(cls, spire: SpireDomain, path: str, url: Callable[[], str]) -> Self:
        """Enrolled with an executable of its own, and ready."""
        python = await spire.program(path)
        process = await asyncio.create_subprocess_exec(
            str(python), "-m", "tests.live.spire.worker", spire.socket, spiffe(BROKER, spire.trust_domain),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
            cwd=_ROOT, env={**os.environ, **spire.environment()},
        )  # fmt: skip
        return cls(path, python, process, url)

    async def send(self, request: Request) -> Response:
        """From that process, once. Raises Lost, IdentityUnavailable."""
        body = base64.b64encode(request.body).decode()
        said = await self._ask(
            "send", url=self._url(), method=request.method, path=request.path, headers=dict(request.headers),
            body=body,
        )  # fmt: skip
        return Response(status=said["status"], headers=said["headers"], body=base64.b64decode(said["body"]))

    async def close(self) -> None:
        """The connections are that process's own."""

    async def jwt_svid(self, audience: str) -> str:
        """A JWT-SVID of that process."""
        return str((await self._ask("jwt", audience=audience))["svid"])

    async def look(self) -> dict[str, Any]:
        """How its identity is: state, why, id, serial, signer, roots."""
        return await self._ask("look")

    async def stop(self) -> None:
        """End the process, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _ask(self, op: str, **members: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"n": number, "op": op, **members}).encode() + b"\n")
        said = await answer
        if said.get("failed") == "IdentityUnavailable":
            raise IdentityUnavailable(said["why"])
        if "failed" in said:
            raise Lost(said["why"], sent=True)
        return said

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            waiting = self._waiting.pop(said["n"])
            if not waiting.done():  # nobody waits any more for what was cancelled
                waiting.set_result(said)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Lost(f"{self.path}: its process has ended", sent=True))


class RemoteStage(Stage):
    """A broker in this process, enrolled as itself alone; everybody else is a process."""

    def __init__(self, spire: SpireDomain, **how: Any) -> None:
        super().__init__(domain=spire.trust_domain, identities=Alone(spire), **how)
        self.workloads: dict[str, RemoteWorkload] = {}
        self._spire = spire

    async def enrol(self, *paths: str) -> None:
        """Start workloads; wait until each has its identity."""
        for path in paths:
            self.workloads[path] = await RemoteWorkload.start(self._spire, path, lambda: self.url)
        async with asyncio.timeout(90):
            while not all(each["state"] == "ok" for each in await self.looks()):
                await asyncio.sleep(0.1)

    async def enrol_again(self) -> None:
        """Entries below a new node for the executables that run."""
        await self._spire.enrol(BROKER)
        for path, workload in self.workloads.items():
            await self._spire.enrol(path, executable=workload.python)

    async def looks(self) -> list[dict[str, Any]]:
        """How every workload's identity is."""
        return list(await asyncio.gather(*(each.look() for each in self.workloads.values())))

    async def jwt_svid(self, path: str, audience: str) -> str:
        """A JWT-SVID of a workload."""
        return await self.workloads[path].jwt_svid(audience)

    async def transport(self, path: str) -> RemoteWorkload:
        return self.workloads[path]

    async def __aexit__(self, *how: object) -> None:
        await asyncio.gather(*(each.stop() for each in self.workloads.values()))
        await super().__aexit__(*how)


@dataclass(frozen=True)
class Alone:
    """A process with one SVID needs no hint."""

    spire: SpireDomain

    def environment(self, path: str) -> dict[str, str]:
        return self.spire.environment()


@dataclass
class Serials:
    """The SVIDs that were seen in use, by workload."""

    seen: dict[str, set[int]] = field(default_factory=dict)

    def note(self, spiffe_id: str, serial: int) -> None:
        self.seen.setdefault(spiffe_id, set()).add(serial)

    @property
    def rotations(self) -> int:
        return sum(len(each) - 1 for each in self.seen.values())

    @property
    def fewest(self) -> int:
        return min((len(each) - 1 for each in self.seen.values()), default=0)


async def until(what: str, true: Callable[[], bool], within_s: float) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
