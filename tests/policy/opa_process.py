"""A real OPA, as `make tools` builds it, on a socket of its own."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwrit_broker.dev.spire.process import Process
from stepwrit_broker.dev.tools import find


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningOpa:
    """url: as broker.toml names it. It can be stopped and started again, and then has lost everything."""

    process: Process
    path: Path

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def start(self) -> None:
        await self.process.start(self._is_ready)

    async def stop(self) -> None:
        await self.process.stop()
        self.path.unlink(missing_ok=True)

    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as tried:
            return tried.connect_ex(str(self.path)) == 0


@asynccontextmanager
async def running_opa(folder: Path) -> AsyncIterator[RunningOpa]:
    short = Path(tempfile.mkdtemp(prefix="opa-"))  # a socket's path is bounded
    path = short / "opa.sock"
    command = [find("opa"), "run", "--server", "--disable-telemetry", "--addr", f"unix://{path}"]
    opa = RunningOpa(process=Process(command, log=folder / "opa.log"), path=path)
    try:
        await opa.start()
        yield opa
    finally:
        await opa.stop()
        shutil.rmtree(short)
