"""Work that goes on while identities change: cycles of a trigger, a tool server and a resource, and a bearer.

Each request is sent once. Whatever is no success is a failure, and nothing here repeats it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from tests.fakes.bearer import Bearer
from tests.fakes.stage import BANK, ISSUER, Actor, Reply
from tests.live.spire.remote import RemoteStage

from stepwrit.wire import CeilingSpec

PAUSE_S = 0.4
ARGS = {"amount": 1}
CEILING = CeilingSpec(tools=("ledger/*",), impact="low")


def lanes(count: int) -> list[dict[str, Any]]:
    """A registry for `count` lanes, every lane with workloads of its own."""
    plan = [{"at": BANK, "request": "POST /v1/transfers"}]
    triggers = [
        {"id": f"trigger/night/{n}", "role": "trigger", "name": f"night-{n}", "owner": "ops@live.test",
         "may_start": {"tools": ["ledger/*"], "impact": "low"}, "attest": ["x509", "jwt"]}
        for n in range(count)
    ]  # fmt: skip
    return [
        *triggers,
        {"id": "mcp-server/ledger/*", "role": "mcp-server", "name": "ledger",
         "tools": {"transfer": {"impact": "low", "plan": plan}}},
        {"id": "resource/bank/*", "role": "resource", "name": "bank", "audience": BANK},
    ]  # fmt: skip


def workloads(count: int) -> list[str]:
    """The ID paths of those lanes."""
    return [
        f"{kind}/{n}"
        for kind in ("trigger/night", "mcp-server/ledger", "resource/bank")
        for n in range(count)
    ]


@dataclass(kw_only=True)
class Load:
    """`async with Load(stage=…, lanes=8):` works until it is left."""

    stage: RemoteStage
    lanes: int
    bearer: bool = True
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        jobs: list[Callable[[], Awaitable[None]]] = [await self._lane(n) for n in range(self.lanes)]
        if self.bearer:
            jobs.append(await self._bearer(0))
        for job in jobs:
            await job()
        assert not self.failed, self.failed
        self._tasks = [asyncio.ensure_future(self._again(job)) for job in jobs]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            await job()

    async def _lane(self, number: int) -> Callable[[], Awaitable[None]]:
        night, ledger, bank = await self.stage.actors(
            f"trigger/night/{number}", f"mcp-server/ledger/{number}", f"resource/bank/{number}"
        )

        async def cycle() -> None:
            await self._noting(f"lane {number}", self._cycle(night, ledger, bank))

        return cycle

    async def _cycle(self, night: Actor, ledger: Actor, bank: Actor) -> None:
        root = self._good(await night.form(night.intent_form(ceiling=CEILING)))
        opened = await night.open(root["step"], "ledger/transfer", args=ARGS)
        self._good(await ledger.accept(opened))
        got = self._good(await ledger.credential(opened.step))
        self._good(await bank.redeem(got["access_token"], ledger))
        self._good(await ledger.close(opened.step))
        self.requests += 1  # the one of `open`

    async def _bearer(self, number: int) -> Callable[[], Awaitable[None]]:
        """A fresh JWT-SVID for each intent, on the `tls` listener."""
        path = f"trigger/night/{number}"
        night = await self.stage.actor(path)
        bearer = Bearer(stage=self.stage, path=path, svid="")

        async def once() -> None:
            await self._noting("bearer", intent())

        async def intent() -> None:
            svid = await self.stage.jwt_svid(path, ISSUER)
            self._good(await bearer.holding(svid).form(night.intent_form(ceiling=CEILING)))

        return once

    def _good(self, reply: Reply) -> dict[str, Any]:
        body = reply.ok()
        self.requests += 1
        return body

    async def _noting(self, who: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as failure:  # noqa: BLE001  counted, whatever it was
            self.requests += 1
            self.failed.append(f"{time.strftime('%T')} {who}: {type(failure).__name__}: {failure}")
