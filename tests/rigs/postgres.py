"""A real PostgreSQL server of a test's own: on loopback, on a free port, in a folder that goes with it.

    async with postgres_server(wal_level="logical") as server:
        conn = await asyncpg.connect(server.dsn)

`initdb` runs once per process; each server gets a copy. PostgreSQL does not run as root: there it runs as
`nobody`, so its folder is in the temporary folder of the machine and not below pytest's, which is closed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

_OWNER = "nobody"
_SMALL = {
    "shared_buffers": "16MB",
    "max_connections": "50",
    "max_wal_size": "64MB",
    "autovacuum_naptime": "10s",
    "log_line_prefix": "%m [%p] ",
}
_START_S = 240.0


@functools.cache
def programs() -> Path:
    """The folder of initdb and postgres. Fails with what to install where they are missing."""
    found = shutil.which("initdb") or shutil.which("postgres")
    if found is None:
        known = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda at: int(at.parts[4]))
        if not known:
            raise RuntimeError("PostgreSQL is missing: apt-get install postgresql")
        found = str(known[-1])
    return Path(found).resolve().parent


def as_owner() -> dict[str, object]:
    """For subprocess: whom the server runs as."""
    return {"user": _OWNER, "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def own(path: Path) -> Path:
    """Give a file or folder to the server's user; the path."""
    if os.geteuid() == 0:
        shutil.chown(path, _OWNER, "nogroup")
    return path


@functools.cache
def _template() -> Path:
    """A fresh cluster, made once per process."""
    folder = own(Path(tempfile.mkdtemp(prefix="stepwrit-pg-")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [
        str(programs() / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8",
        "--locale=C", "--no-sync", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **as_owner())  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return folder / "data"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One server. `process` is the postmaster; `data` its folder, `log` what it wrote."""

    def __init__(self, folder: Path, data: Path, port: int, settings: dict[str, str]) -> None:
        self.folder, self.data, self.port = folder, data, port
        self.log = folder / f"log-{port}"
        self._settings = settings
        self.process: asyncio.subprocess.Process = None  # type: ignore[assignment]

    @property
    def dsn(self) -> str:
        """Of the superuser, to the database `postgres`."""
        return self.dsn_of("postgres")

    def dsn_of(self, user: str, database: str = "postgres") -> str:
        """Of another role or database; everybody is trusted until pg_hba.conf says otherwise."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    @property
    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    async def start(self) -> None:
        """Start it and wait until it answers. After `kill` too: it recovers from its WAL."""
        given = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [
            str(programs() / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1",
            "-k", str(self.folder), *given,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **as_owner(),  # type: ignore[arg-type]
            )
        await self._answers()

    async def _answers(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_S
        ask = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "5"]
        while True:
            asking = await asyncio.create_subprocess_exec(*ask)
            if await asking.wait() == 0:
                return
            if self.process.returncode is not None or loop.time() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.tail}")
            await asyncio.sleep(0.05)

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: a fast shutdown; SIGQUIT: at once, as a crash; SIGTERM: after the last client is gone."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        await self.process.wait()

    async def kill(self) -> None:
        """kill -9 of every process of it, as a machine that loses its power but keeps its disk's cache."""
        everyone = [self.process.pid, *self.backends()]
        for pid in everyone:
            _signal(pid, signal.SIGKILL)
        await self.process.wait()
        while any(_lives(pid) for pid in everyone):  # they hold the shared memory that a start looks for
            await asyncio.sleep(0.01)

    def backends(self) -> list[int]:
        """The processes below the postmaster."""
        return [pid for pid in _pids() if _parent(pid) == self.process.pid]

    def cpu_s(self) -> float:
        """User and system time of all its processes, those that ended included, in seconds."""
        own_ticks = [_ticks(pid) for pid in (self.process.pid, *self.backends())]
        return sum(own_ticks) / os.sysconf("SC_CLK_TCK")


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(pid, which)


def _pids() -> list[int]:
    return [int(at.name) for at in Path("/proc").iterdir() if at.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """What comes after the command's name; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    found = _stat(pid)
    return int(found[1]) if found else 0


def _lives(pid: int) -> bool:
    found = _stat(pid)
    return bool(found) and found[0] != "Z"


def _ticks(pid: int) -> int:
    found = _stat(pid)
    return sum(int(each) for each in found[11:15]) if found else 0


@contextlib.asynccontextmanager
async def postgres_server(
    folder: Path | None = None, /, *, data: Path | None = None, port: int | None = None, **settings: object
) -> AsyncIterator[PostgresServer]:
    """A server that answers, with these settings of postgresql.conf; gone at the end, with its folder.

    folder: where to be instead of a temporary folder (the server's user must reach it; as root, pytest's
    `tmp_path` is not reachable and a temporary folder is used). data: a cluster's folder that exists already,
    for a replica or a restored backup; it stays.
    """
    own_folder = own(Path(tempfile.mkdtemp(prefix="stepwrit-pg-", dir=_reachable(folder))))
    at = data or own_folder / "data"
    server = PostgresServer(
        own_folder, at, port or free_port(), {**_SMALL, **{name: _said(it) for name, it in settings.items()}}
    )
    try:
        if data is None:
            copy = ["cp", "-a", "--reflink=auto", str(_template()), str(at)]
            await (await asyncio.create_subprocess_exec(*copy)).wait()
        await server.start()
        yield server
    finally:
        if server.process is not None and server.process.returncode is None:
            await _end(server)
        shutil.rmtree(own_folder, ignore_errors=True)


async def _end(server: PostgresServer) -> None:
    for pid in server.backends():  # a test may have left one stopped
        _signal(pid, signal.SIGCONT)
    server.process.send_signal(signal.SIGCONT)
    try:
        await asyncio.wait_for(server.stop(signal.SIGQUIT), 10)
    except TimeoutError:
        await server.kill()


def _reachable(folder: Path | None) -> str | None:
    """None where the server's user could not get to it."""
    if folder is None:
        return None
    closed = os.geteuid() == 0 and any(
        not above.stat().st_mode & 0o001 for above in (folder, *folder.parents)
    )
    return None if closed else str(folder)


def _said(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
