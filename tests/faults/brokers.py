"""Broker processes behind a relay each, and what can be done to them."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import time
from pathlib import Path

import httpx2
from tests.faults.plan import Injection
from tests.faults.process import Disk, FakeClock, Process, faketime
from tests.faults.relay import Behaviour, Relay
from tests.faults.world import World

from stepwrit_broker.dev.ports import steady_port

READY_S = 240.0  # since it was started last; an import alone takes many seconds where others work too
SMALL = 65_536  # bytes; smaller than what a broker has written by then


class NotReadyError(RuntimeError):
    """A broker did not come up; its last words are in the message."""


class Served:
    """A process that serves callers, with a relay before it, a shim under its syncs and a clock of its own.

    port: where it listens itself. more: further environment.
    """

    def __init__(self, folder: Path, name: str, command: list[str], port: int, shim: Path) -> None:
        self.name = name
        own = folder / name
        own.mkdir(exist_ok=True)
        self.disk, self.clock = Disk(own / "fsync"), FakeClock(own / "clock")
        preload = {"LD_PRELOAD": f"{shim}:{faketime()}", "FAULTS_FSYNC": str(self.disk.path)}
        self.process = Process(
            name, command, log=folder / f"{name}.log", environ={**preload, **self.clock.environ()}
        )
        self.relay = Relay(name, to=("127.0.0.1", port))
        self._lock = asyncio.Lock()

    async def is_ready(self) -> bool:
        """Whether it says so now."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where callers reach it."""
        return f"https://127.0.0.1:{self.relay.port}"

    async def start(self) -> None:
        """Run, and be ready. Raises NotReadyError."""
        await self.relay.start()
        await self.ready()

    async def _begin(self) -> None:
        async with self._lock:
            if not self.process.pid:
                await self.process.start()

    async def ready(self) -> None:
        """Wait until it says so; one that ended by itself is started again, as its supervisor would.

        Raises NotReadyError.
        """
        await self._begin()
        while not await self.is_ready():
            if time.monotonic() - self.process.started_at > READY_S:
                raise NotReadyError(f"{self.name} is not ready:\n{self.process.last_words()}")
            await asyncio.sleep(0.3)
            await self._begin()

    async def stop(self) -> None:
        """An orderly end."""
        await self.process.end()
        await self.relay.stop()

    # --- faults

    async def inject(self, fault: Injection) -> str:
        """Begin it; by what means."""
        match fault.kind:
            case "kill_broker":
                async with self._lock:
                    await self.process.kill()
                return "kill -9"
            case "pause_broker":
                self.process.send(signal.SIGSTOP)
                return "SIGSTOP, SIGCONT"
            case "cut" | "half_open" | "delay" | "drop_replies":
                self.relay.misbehave(Behaviour(fault.kind, fault.amount))
                return "relay between callers and broker"
            case "full_disk":
                self.process.limit_files(SMALL)
                return "RLIMIT_FSIZE"
            case "slow_fsync":
                self.disk.set(wait_s=fault.amount)
                return "preloaded shim"
            case "failed_fsync":
                self.disk.set(error=errno.EIO)
                return "preloaded shim (EIO)"
            case _:
                assert fault.kind == "clock_jump", fault
                self.clock.set(fault.amount)
                return "libfaketime"

    async def heal(self, fault: Injection) -> None:
        """End it; a broker that was killed, or gave up, is started again. Raises NotReadyError."""
        match fault.kind:
            case "pause_broker":
                self.process.send(signal.SIGCONT)
            case "cut" | "half_open" | "delay" | "drop_replies":
                self.relay.heal()
            case "full_disk":
                self.process.limit_files(None)
            case "slow_fsync" | "failed_fsync":
                self.disk.set()
            case "clock_jump":
                self.clock.set(0.0)
        if not self.process.pid:
            await self.ready()


class BrokerUnderTest(Served):
    """`stepwrit broker --config …`."""

    def __init__(self, world: World, name: str, shim: Path, more: str = "") -> None:
        mtls, self._ops = steady_port(), steady_port()
        config = world.config(name, mtls, self._ops, more)
        program = Path(sys.executable).with_name("stepwrit")
        super().__init__(world.folder, name, [str(program), "broker", "--config", str(config)], mtls, shim)

    async def is_ready(self) -> bool:
        """`/readyz`."""
        try:
            async with httpx2.AsyncClient() as http:
                said = await http.get(f"http://127.0.0.1:{self._ops}/readyz", timeout=10.0)
        except httpx2.TransportError:
            return False
        return said.status_code == 200
