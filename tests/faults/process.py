"""Processes under test: started, killed, stopped and continued, starved of disk, shown another clock.

Needs Linux. The shim is built with `cc`; the clock is libfaketime's; the disk is full by RLIMIT_FSIZE.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parents[1]


class MissingError(RuntimeError):
    """A program or library that the harness needs is not there; the message says how to get it."""


def faketime() -> str:
    """libfaketime's path. Raises MissingError."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        raise MissingError("libfaketimeMT.so.1 is missing: apt-get install faketime")
    return str(found)


def build_shim(folder: Path) -> Path:
    """The compiled shim. Raises MissingError."""
    made = folder / "shim.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(HERE / "shim.c"), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError as gone:
        raise MissingError("cc is missing: apt-get install gcc libc6-dev") from gone
    return made


class Disk:
    """How the syncs of a process go, from outside it, at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))
        path.chmod(0o644)

    def set(self, wait_s: float = 0.0, error: int = 0) -> None:
        """Each sync takes so long from now on, and fails with this errno (0: it does not)."""
        with self.path.open("r+b") as file:
            file.write(struct.pack("=II", int(wait_s * 1e6), error))


class FakeClock:
    """What time a process believes it is, from outside it; it notices within a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0.0)
        path.chmod(0o644)

    def set(self, ahead_s: float) -> None:
        """So many seconds before (-) or after the machine's clock."""
        beside = self.path.with_suffix(".new")
        beside.write_text(f"{ahead_s:+.3f}\n")
        beside.replace(self.path)

    def environ(self) -> dict[str, str]:
        """For the process; its monotonic clock stays what it is."""
        return {
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class Process:
    """One process that is killed and started again under the same name."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        self.environ = {**os.environ, **(environ or {})}
        self.starts, self.started_at = 0, 0.0  # how often, and when last by the monotonic clock
        self._running: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._running.pid if self._running is not None and self._running.returncode is None else 0

    async def start(self) -> None:
        """Its output goes through a pipe, so that a full disk of its own does not silence it."""
        self.starts, self.started_at = self.starts + 1, time.monotonic()
        self._running = await asyncio.create_subprocess_exec(
            *self.command,
            env=self.environ,
            cwd=REPO,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self._running))

    async def _read(self, running: asyncio.subprocess.Process) -> None:
        assert running.stdout is not None
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts} at {time.time():.3f}\n".encode())
            while data := await running.stdout.read(65_536):
                log.write(data)
                log.flush()

    def send(self, number: int) -> None:
        """A signal; a process that is gone needs none."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """`kill -9`, and wait for its end."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def end(self, within_s: float = 20.0) -> None:
        """An orderly end; insists after a while."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), within_s)
        except TimeoutError:
            await self.kill()

    async def ended(self) -> None:
        """Wait until it does not run."""
        if self._running is not None:
            await self._running.wait()
        if self._reading is not None:
            await self._reading

    def limit_files(self, most: int | None) -> None:
        """No file of it grows beyond so many bytes; None lifts that."""
        if self.pid:
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            with suppress(ProcessLookupError):
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard if most is None else most, hard))

    def last_words(self, size: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""
