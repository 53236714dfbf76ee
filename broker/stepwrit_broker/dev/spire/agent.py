"""A real SPIRE agent: attested by join token against the server's bundle, `unix` workload attestor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stepwrit_broker.dev import tools
from stepwrit_broker.dev.spire.hcl import Block, render
from stepwrit_broker.dev.spire.process import Process, Program, serving, socket_in
from stepwrit_broker.dev.spire.server import SpireServer


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What tests vary.

    sync_s: how often the agent asks the server what is new, seconds. settings: more of its `agent` block.
    """

    sync_s: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)


class SpireAgent(Program):
    """`async with SpireAgent(server, folder) as agent:`; `agent.socket` is the Workload API.

    folder: as the server's. A later `start` is a restart with the same node identity; `attest_again` takes a
    new one, which an evicted agent needs. Raises ToolMissing, and ProcessFailed with the log's end.
    """

    def __init__(self, server: SpireServer, folder: Path, options: AgentOptions | None = None) -> None:
        self.server: Final = server
        self.folder, self.options = folder.absolute(), options or AgentOptions()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path: Final = socket_in(self.folder, "agent.sock")
        self.spiffe_id = ""
        self.process = Process(
            [tools.find("spire-agent"), "run", "-config", self.folder / "agent.conf"],
            log=self.folder / "agent.log",
        )

    @property
    def socket(self) -> str:
        """The Workload API's address, as SPIFFE_ENDPOINT_SOCKET takes it."""
        return f"unix://{self.path}"

    async def start(self) -> None:
        """Start, or start again, and wait until it serves. The first time it joins with a token."""
        token = None
        if not self.spiffe_id:
            token = await self.server.api.join_token()
            self.spiffe_id = f"spiffe://{self.server.trust_domain}/spire/agent/join_token/{token}"
            roots = await self.server.api.bundle("pem")
            (self.folder / "roots.pem").write_text(roots, encoding="ascii")
        config = self.folder / "agent.conf"
        config.touch(mode=0o600)  # a join token is a secret until it is used
        config.write_text(render(self._settings(token)), encoding="utf-8")
        await self.process.start(lambda: serving(self.path))

    async def attest_again(self) -> None:
        """Forget who it was and join with a new token, under a new ID: entries need the new parent."""
        await self.stop()
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.spiffe_id = ""
        await self.start()

    def _settings(self, token: str | None) -> Block:
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        agent: dict[str, Any] = {
            "data_dir": data,
            "log_level": "INFO",
            "trust_domain": self.server.trust_domain,
            "server_address": "127.0.0.1",
            "server_port": self.server.port,
            "trust_bundle_path": self.folder / "roots.pem",
            "join_token": token,
            "socket_path": self.path,
            "experimental": {"sync_interval": f"{self.options.sync_s:g}s"},
            **self.options.settings,
        }
        return {"agent": agent, "plugins": _plugins(data)}


def _plugins(data: Path) -> Block:
    # the path tells workloads of one uid apart; hashing each executable as well would only cost time
    unix = {"discover_workload_path": True, "workload_size_limit": -1}
    return {
        'KeyManager "disk"': {"plugin_data": {"directory": data}},
        'NodeAttestor "join_token"': {"plugin_data": {}},
        'WorkloadAttestor "unix"': {"plugin_data": unix},
    }
