"""The demo's stage: a development broker in this process, three programs beside it, all under one folder.

On real SPIRE each program is a Python of its own, told apart by its path; this process, which is the broker,
the agent and every attacker, chooses by hint.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import httpx2

from stepwrit.agent import Broker as AgentBroker
from stepwrit.client import Broker as Workload
from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN
from stepwrit_broker.dev.broker import BROKER_PATH, DevBroker, DevOptions, dev_id
from stepwrit_broker.dev.ports import free_port
from stepwrit_broker.dev.spire import SpireDomain

START_S = 120.0  # a busy machine is slow, not wrong
PROGRAMS = {
    "ledger": "mcp-server/ledger",
    "audit": "mcp-server/audit",
    "archive": "mcp-server/archive",
    "bank": "resource/bank",
}
HERE = (BROKER_PATH, "agent/dev", "mcp-server/ledger", "mcp-server/archive", "mcp-server/mallory")


class Stage:
    """`async with Stage(folder) as stage:`; everything it starts, it ends. spire: on real SPIRE processes."""

    def __init__(self, folder: Path, *, spire: bool = False) -> None:
        self.folder: Final = folder
        self._folder, self._stack = folder, AsyncExitStack()
        self.spire = SpireDomain(DEV_TRUST_DOMAIN) if spire else None
        self.ports = {name: free_port() for name in PROGRAMS}
        self.dev: DevBroker

    @property
    def bank(self) -> str:
        """The bank's origin, which is also its audience."""
        return f"http://127.0.0.1:{self.ports['bank']}"

    def mcp(self, name: str) -> str:
        """An MCP server's URL."""
        return f"http://127.0.0.1:{self.ports[name]}/mcp"

    async def __aenter__(self) -> Self:
        """Broker first, then the programs, then wait until all answer."""
        try:
            if self.spire is not None:
                await self._stack.enter_async_context(self.spire)
                await self.spire.enrol(*HERE)
            self.dev = await self._stack.enter_async_context(DevBroker(self._folder, self._options()))
            for name, path in PROGRAMS.items():
                await self._program(name, path)
            await asyncio.gather(*(self._answers(port) for port in self.ports.values()))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of it."""
        await self._stack.aclose()

    def _options(self) -> DevOptions:
        return DevOptions(entries=tuple(self._entries()), identities=self.spire)

    def _entries(self) -> list[Mapping[str, Any]]:
        transfer = {"at": self.bank, "request": "POST /v1/transfers"}
        return [
            {
                "id": dev_id("mcp-server/ledger"),
                "role": "mcp-server",
                "name": "ledger",
                "url": self.mcp("ledger"),
                "tools": {
                    "pay_invoice": {"impact": "medium", "facts": {"cents": "/cents"}, "plan": [transfer]},
                    "close_books": {"impact": "high", "plan": [transfer]},
                    "reconcile": {"impact": "low", "plan": "self"},
                    "summarise": {"impact": "low", "plan": "self"},
                    "month_end": {"impact": "low", "plan": "self"},
                },
                "may_start": {"tools": ["audit/*", "archive/*", "client/sampling"], "impact": "medium"},
            },
            {
                "id": dev_id("mcp-server/audit"),
                "role": "mcp-server",
                "name": "audit",
                "url": self.mcp("audit"),
                "tools": {
                    "record": {"impact": "low", "plan": "self"},
                    "look": {"impact": "low", "plan": "self"},
                    "purge": {"impact": "medium", "plan": "self"},
                },
                "may_start": {"tools": ["archive/store"], "impact": "low"},
            },
            {
                "id": dev_id("mcp-server/archive"),
                "role": "mcp-server",
                "name": "archive",
                "url": self.mcp("archive"),
                "tools": {
                    "store": {"impact": "low", "plan": "self"},
                    "report": {"impact": "low", "plan": [{"at": self.bank, "request": "POST /v1/reports"}]},
                },
            },
            {
                "id": dev_id("mcp-server/mallory"),
                "role": "mcp-server",
                "name": "mallory",
                "url": "http://127.0.0.1:9/mcp",
                "tools": {},
            },
            {"id": dev_id("resource/bank"), "role": "resource", "name": "bank", "audience": self.bank},
        ]

    async def _program(self, name: str, identity: str) -> None:
        environment = {
            **os.environ,
            **self.dev.environment(identity),
            "DEMO_BANK": self.bank,
            "DEMO_AUDIT": self.mcp("audit"),
            "DEMO_ARCHIVE": self.mcp("archive"),
        }
        log = (self._folder / f"{name}.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable if self.spire is None else await self.spire.program(identity),
            "-m",
            "stepwrit_broker.dev.demo.parts",
            name,
            str(self.ports[name]),
            env=environment,
            stdout=log,
            stderr=log,
        )
        log.close()

        async def end() -> None:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                process.kill()
                await process.wait()

        self._stack.push_async_callback(end)

    async def _answers(self, port: int) -> None:
        """Wait until the program accepts connections."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return

    def agent(self) -> AgentBroker:
        """The agent's way to the broker."""
        return AgentBroker.from_env(self.dev.environment("agent/dev"))

    def workload(self, path: str) -> Workload:
        """Any workload's way to the broker."""
        return Workload.from_env(self.dev.environment(path))

    def admin(self) -> httpx2.AsyncClient:
        """The operator, on the admin socket."""
        return httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(self._folder / "admin.sock")), base_url="http://admin"
        )
