"""What can be done to a fleet's engines: begun, and ended again."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.brokers import SMALL
from tests.faults.plan import Bounds, Injection
from tests.faults.process import Disk
from tests.faults.relay import Behaviour
from tests.rigs.fleet import Engines, environ
from tests.rigs.postgres import as_owner
from tests.rigs.redis import RedisServer

ENGINE_KINDS: dict[str, tuple[Bounds, tuple[str, ...]]] = {
    "kill_redis": (Bounds(seconds=(0.3, 4.0)), ("redis-a", "redis-b")),
    "pause_redis": (Bounds(seconds=(0.5, 4.0)), ("redis-a", "redis-b")),
    "fail_over": (Bounds(seconds=(0.1, 0.1)), ("sentinel-1", "sentinel-2", "sentinel-3")),
    "kill_sentinel": (Bounds(seconds=(0.5, 3.0)), ("sentinel-1", "sentinel-2", "sentinel-3")),
    "kill_postgres": (Bounds(seconds=(0.2, 1.0)), ("postgres",)),
    "pause_postgres": (Bounds(seconds=(0.5, 3.0)), ("postgres",)),
    "part_redis": (Bounds(seconds=(1.0, 4.0)), ("redis-a", "redis-b")),
    "part_postgres": (Bounds(seconds=(0.5, 3.0)), ("b1", "b2", "b3")),
    "lost_replies_of_postgres": (Bounds(seconds=(0.3, 1.5)), ("b1", "b2", "b3")),
    "lost_replies_of_redis": (Bounds(seconds=(0.3, 1.5)), ("redis-a", "redis-b")),
    "full_disk_of_redis": (Bounds(seconds=(0.5, 1.5)), ("redis-a", "redis-b")),
    "full_disk_of_postgres": (Bounds(seconds=(0.5, 1.5)), ("postgres",)),
    "slow_fsync_of_postgres": (Bounds(seconds=(1.0, 3.0), amounts=(0.02, 0.2)), ("postgres",)),
    "failed_fsync_of_postgres": (Bounds(seconds=(0.3, 0.6)), ("postgres",)),
}


class Preload:
    """A shim and its file where PostgreSQL's user reads them too."""

    def __init__(self, shim: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sw-pre-"))
        self.folder.chmod(0o755)
        self._shim = shutil.copy(shim, self.folder / "shim.so")
        self.disk = Disk(self.folder / "fsync")

    @property
    def environ(self) -> dict[str, str]:
        """For the server's start."""
        return {"LD_PRELOAD": str(self._shim), "FAULTS_FSYNC": str(self.disk.path)}

    def remove(self) -> None:
        """Away with it."""
        shutil.rmtree(self.folder, ignore_errors=True)


class EngineFaults:
    """Every fault of the engines, by its kind."""

    def __init__(self, rig: Engines, preload: Preload) -> None:
        self.rig, self._preload, self._disk = rig, preload, preload.disk
        self._held: Counter[str] = Counter()  # what is to stay down for now

    async def inject(self, fault: Injection) -> str:
        """Begin a fault; by what means."""
        return await _DEEDS[fault.kind][0](self, fault)

    async def heal(self, fault: Injection) -> None:
        """End it."""
        await _DEEDS[fault.kind][1](self, fault)

    def _server(self, name: str) -> RedisServer:
        if name in self.rig.redis:
            return self.rig.redis[name]
        return self.rig.sentinels[int(name[-1]) - 1]

    @property
    def _postgres(self) -> list[int]:
        return [self.rig.postgres.process.pid, *self.rig.postgres.backends()]

    async def supervise(self) -> None:
        """Start again whatever has ended and is not held down, as its supervisor would; until cancelled."""
        names = (*self.rig.redis, *(f"sentinel-{n}" for n in range(1, len(self.rig.sentinels) + 1)))
        while True:
            with suppress(RuntimeError, AssertionError):  # it did not start: once more
                if self.rig.postgres.process.returncode is not None and not self._held["postgres"]:
                    with environ(self._preload.environ):
                        await self.rig.postgres.start()
                for name in names:
                    if self._server(name).process.poll() is not None and not self._held[name]:
                        await self._server(name).start()
            await asyncio.sleep(0.2)

    async def kill_redis(self, fault: Injection) -> str:
        self._held[fault.target] += 1
        self._server(fault.target).kill()
        return "kill -9"

    async def start_redis(self, fault: Injection) -> None:
        self._held[fault.target] -= 1

    async def pause_redis(self, fault: Injection) -> str:
        self._server(fault.target).pause()
        return "SIGSTOP, SIGCONT"

    async def resume_redis(self, fault: Injection) -> None:
        self._server(fault.target).resume()

    async def fail_over(self, fault: Injection) -> str:
        with suppress(Exception):  # no good replica, or one is under way: then nothing comes of it
            async with self._server(fault.target).client(socket_timeout=2.0) as client:
                await client.execute_command("SENTINEL", "FAILOVER", "stepwrit")
        return "SENTINEL FAILOVER"

    async def kill_postgres(self, fault: Injection) -> str:
        self._held["postgres"] += 1
        await self.rig.postgres.kill()
        return "kill -9 of all its processes"

    async def start_postgres(self, fault: Injection) -> None:
        self._held["postgres"] -= 1

    async def pause_postgres(self, fault: Injection) -> str:
        self._all_of_postgres(signal.SIGSTOP)
        return "SIGSTOP, SIGCONT of all its processes"

    async def resume_postgres(self, fault: Injection) -> None:
        self._all_of_postgres(signal.SIGCONT)

    def _all_of_postgres(self, number: int) -> None:
        server = self.rig.postgres
        if server.process.returncode is None:
            for pid in self._postgres:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def part_redis(self, fault: Injection) -> str:
        """From the other Redis and the Sentinels, not from the brokers: two primaries."""
        relay = self.rig.relays[fault.target]
        for source in (*self.rig.redis, *(f"sentinel-{n}" for n in (1, 2, 3))):
            relay.misbehave(Behaviour("cut"), source)
        return "relay, by who asks: Sentinels and the other Redis are cut off, brokers are not"

    async def join_redis(self, fault: Injection) -> None:
        for source in (*self.rig.redis, *(f"sentinel-{n}" for n in (1, 2, 3))):
            self.rig.relays[fault.target].heal(source)

    async def part_postgres(self, fault: Injection) -> str:
        self.rig.relays["postgres"].misbehave(Behaviour("cut"), fault.target)
        return "relay between this broker and PostgreSQL"

    async def join_postgres(self, fault: Injection) -> None:
        self.rig.relays["postgres"].heal(fault.target)

    async def drop_postgres(self, fault: Injection) -> str:
        self.rig.relays["postgres"].misbehave(Behaviour("drop_replies"), fault.target)
        return "relay between this broker and PostgreSQL: commits land unseen"

    async def drop_redis(self, fault: Injection) -> str:
        self.rig.relays[fault.target].misbehave(Behaviour("drop_replies"))
        return "relay: scripts land unseen"

    async def join_all(self, fault: Injection) -> None:
        self.rig.relays[fault.target].heal()

    async def fill_redis(self, fault: Injection) -> str:
        _limit([self._server(fault.target).process.pid], SMALL)
        return "RLIMIT_FSIZE (Redis ends by SIGXFSZ, and is started again)"

    async def free_redis(self, fault: Injection) -> None:
        _limit([self._server(fault.target).process.pid], None)

    async def fill_postgres(self, fault: Injection) -> str:
        _limit(self._postgres, SMALL, **as_owner())
        return "RLIMIT_FSIZE"

    async def free_postgres(self, fault: Injection) -> None:
        _limit(self._postgres, None, **as_owner())

    async def slow_postgres(self, fault: Injection) -> str:
        self._disk.set(wait_s=fault.amount)
        return "preloaded shim"

    async def fail_postgres(self, fault: Injection) -> str:
        self._disk.set(error=errno.EIO)
        return "preloaded shim (EIO; PostgreSQL panics, and recovers from its WAL)"

    async def heal_postgres(self, fault: Injection) -> None:
        self._disk.set()


def _limit(pids: Sequence[int], most: int | None, **as_whom: Any) -> None:
    """No file of these grows beyond so many bytes; by their own user, root may not without a capability."""
    words = "unlimited" if most is None else str(most)
    for pid in pids:
        command = ["prlimit", f"--pid={pid}", f"--fsize={words}:"]
        subprocess.run(command, check=False, capture_output=True, **as_whom)  # it may be gone


_Begin = Callable[[EngineFaults, Injection], Awaitable[str]]
_End = Callable[[EngineFaults, Injection], Awaitable[None]]
_DEEDS: dict[str, tuple[_Begin, _End]] = {
    "kill_redis": (EngineFaults.kill_redis, EngineFaults.start_redis),
    "kill_sentinel": (EngineFaults.kill_redis, EngineFaults.start_redis),
    "pause_redis": (EngineFaults.pause_redis, EngineFaults.resume_redis),
    "fail_over": (EngineFaults.fail_over, EngineFaults.resume_redis),
    "kill_postgres": (EngineFaults.kill_postgres, EngineFaults.start_postgres),
    "pause_postgres": (EngineFaults.pause_postgres, EngineFaults.resume_postgres),
    "part_redis": (EngineFaults.part_redis, EngineFaults.join_redis),
    "part_postgres": (EngineFaults.part_postgres, EngineFaults.join_postgres),
    "lost_replies_of_postgres": (EngineFaults.drop_postgres, EngineFaults.join_postgres),
    "lost_replies_of_redis": (EngineFaults.drop_redis, EngineFaults.join_all),
    "full_disk_of_redis": (EngineFaults.fill_redis, EngineFaults.free_redis),
    "full_disk_of_postgres": (EngineFaults.fill_postgres, EngineFaults.free_postgres),
    "slow_fsync_of_postgres": (EngineFaults.slow_postgres, EngineFaults.heal_postgres),
    "failed_fsync_of_postgres": (EngineFaults.fail_postgres, EngineFaults.heal_postgres),
}
