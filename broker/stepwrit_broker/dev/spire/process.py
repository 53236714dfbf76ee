"""One foreign program: started, waited for, ended by its pid. Its output is a file, shown when it fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import grpc

START_S: Final = 60.0
STOP_S: Final = 10.0
SOCKET_PATH_MAX: Final = 100  # sun_path of unix(7) has 108; some of SPIRE's own paths are longer than ours
_POLL_S: Final = 0.05
_TAIL: Final = 12


class ProcessFailed(RuntimeError):  # noqa: N818  reads as a state
    """It ended by itself, or was not ready in time; the message has its last lines."""


class Process:
    """A program that is not ours.

    log: gets its output, appended. environ: beside this process's own. Not bound to an event loop: what one
    loop started, another may stop. It is killed when the thread that started it ends, however that comes
    about (Linux).
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name: Final = Path(command[0]).name
        self.log: Final = log
        self._command, self._environ = [str(each) for each in command], dict(environ or {})
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process. ProcessFailed if there is none."""
        if self._running is None:
            raise ProcessFailed(f"{self.name} is not running")
        return self._running.pid

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._running is not None and self._running.poll() is None

    async def start(self, ready: Callable[[], bool], *, within_s: float = START_S) -> None:
        """Start it and wait until `ready` (asked on a thread). ProcessFailed; then it has ended again."""
        if self.runs:
            return
        self._spawn()
        try:
            await self._wait_for(ready, within_s)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Ask it to end (SIGTERM), and kill it where it does not within ten seconds."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        await self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send it any signal: SIGSTOP and SIGCONT suspend it and wake it."""
        os.kill(self.pid, number)

    def tail(self) -> str:
        """Its last lines."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL:])

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(  # noqa: S603  the caller's own command
                [*_dies_with_us(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environ},
                start_new_session=True,  # a Ctrl-C is ours to handle
            )

    async def _wait_for(self, ready: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not await asyncio.to_thread(ready):
            if not self.runs:
                raise ProcessFailed(f"{self.name} ended by itself; {self.log} says:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(
                    f"{self.name} is not ready after {within_s:g} s; {self.log} says:\n{self.tail()}"
                )
            await asyncio.sleep(_POLL_S)

    async def _end(self, number: signal.Signals) -> None:
        running, self._running = self._running, None
        if running is None or running.poll() is not None:
            return
        running.send_signal(number)
        try:
            await asyncio.to_thread(running.wait, STOP_S)
        except subprocess.TimeoutExpired:
            running.kill()
            await asyncio.to_thread(running.wait)


def serving(address: Path) -> bool:
    """Whether a gRPC server answers SERVING on a Unix socket (grpc.health.v1, which SPIRE speaks)."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    with cast(Any, grpc).insecure_channel(f"unix:{address}", options=options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda _: b"",  # pyright: ignore[reportUnknownLambdaType]
            response_deserializer=bytes,
        )
        try:
            return bool(check(None, timeout=2.0) == b"\x08\x01")  # HealthCheckResponse{status: SERVING}
        except grpc.RpcError:
            return False


def socket_in(folder: Path, name: str) -> Path:
    """A socket's path, short enough for the kernel. ValueError."""
    path = folder.absolute() / name
    if len(bytes(path)) >= SOCKET_PATH_MAX:
        raise ValueError(f"{path}: too long for a Unix socket; take a shorter folder")
    return path


def _dies_with_us() -> list[str]:
    """PR_SET_PDEATHSIG by way of util-linux: also a killed test leaves nothing running."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


class Program(ABC):
    """One of SPIRE's programs: `async with` starts it and ends it; its state outlives it."""

    process: Process

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @abstractmethod
    async def start(self) -> None:
        """Start, or start again on the same state, and wait until it serves. Raises ProcessFailed."""

    async def stop(self) -> None:
        """End it in good order."""
        await self.process.stop()

    async def kill(self) -> None:
        """End it as a crash would."""
        await self.process.kill()

    async def restart(self) -> None:
        """Stop and start on the same state."""
        await self.stop()
        await self.start()
