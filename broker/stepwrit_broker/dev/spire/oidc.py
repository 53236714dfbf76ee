"""A real SPIRE OIDC discovery provider: a trust domain's JWT authorities for those who speak only OIDC."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from stepwrit_broker.dev import tools
from stepwrit_broker.dev.ports import steady_port
from stepwrit_broker.dev.spire.hcl import Block, render
from stepwrit_broker.dev.spire.process import Process, Program
from stepwrit_broker.dev.spire.server import SpireServer


class OidcDiscoveryProvider(Program):
    """`async with OidcDiscoveryProvider(server, folder) as oidc:`; plain HTTP on loopback, for tests.

    It asks the server itself each second. The issuer that it names is `url`; give the server the same
    `jwt_issuer` where JWT-SVIDs are to be checked by it.
    """

    def __init__(self, server: SpireServer, folder: Path, *, port: int = 0) -> None:
        self.folder: Final = folder.absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port: Final = port or steady_port()
        self._server = server
        self.process = Process(
            [tools.find("oidc-discovery-provider"), "-config", self.folder / "oidc.conf"],
            log=self.folder / "oidc.log",
        )

    @property
    def url(self) -> str:
        """The issuer; its metadata is at /.well-known/openid-configuration, its keys at /keys."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, and wait until it has keys to give."""
        (self.folder / "oidc.conf").write_text(render(self._settings()), encoding="utf-8")
        await self.process.start(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/keys", timeout=2.0) as answer:  # noqa: S310  a loopback URL
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _settings(self) -> Block:
        return {
            "log_level": "INFO",
            "domains": ["127.0.0.1", "localhost"],
            "allow_insecure_scheme": True,
            "insecure_addr": f"127.0.0.1:{self.port}",
            "server_api": {"address": f"unix://{self._server.socket}", "poll_interval": "1s"},
        }
