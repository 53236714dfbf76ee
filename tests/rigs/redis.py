"""Real redis-servers of a test's own: in a folder and on a port of its own, ended by pid.

    async with redis_server(tmp_path, appendfsync="always") as server:
        client = redis.asyncio.Redis.from_url(server.url)

Settings are Redis' own, with `_` for `-`; "" leaves a setting out. Default: append-only file, fsync once a
second, noeviction. The data stay in the folder, so that `await server.start()` after `kill` finds them.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import RedisError

from stepwrit_broker.dev.ports import is_free, steady_port

WAIT_S: Final = 240.0  # until something that must come is given up
DEFAULTS: Final[Mapping[str, str]] = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": "",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


@dataclass
class RedisServer:
    """One redis-server. url: for clients. process: of the last start."""

    folder: Path
    port: int
    settings: dict[str, str]
    words: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def url(self) -> str:
        """Where it listens; TLS where it was given a tls_port."""
        scheme = "rediss" if "tls-port" in self.settings else "redis"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "redis.log"

    async def start(self) -> None:
        """Start it, on the data that lie in the folder; back once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(self._command(), stdout=said, stderr=said, cwd=self.folder)
        await until(self._answers, f"redis-server on {self.port}")

    def _command(self) -> list[str]:
        settings = {**DEFAULTS, "dir": str(self.folder), **self.settings}
        if "tls-port" not in settings:
            settings["port"] = str(self.port)
        options = [word for name, value in settings.items() if value or name == "save" for word in
                   (f"--{name}", *(value.split() or [""]))]  # fmt: skip
        return ["redis-server", *self.words, *options]

    async def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        if "tls-port" in self.settings or "requirepass" in self.settings or self.words:
            return True  # it listens, and its data are loaded only where a test looks
        return await self._is_loaded()

    async def _is_loaded(self) -> bool:
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except redis.exceptions.AuthenticationError:
                return True
            except redis.exceptions.RedisError:
                return False

    def client(self, **options: Any) -> redis.asyncio.Redis:
        """A plain client of redis-py, for what a test does behind the engine's back."""
        return redis.asyncio.Redis.from_url(self.url, decode_responses=False, **options)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to one that does not end (it will not while it first writes its file)."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


def _settings(given: Mapping[str, object]) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in given.items()}


async def until(holds: Any, what: str, wait_s: float = WAIT_S) -> None:
    """Wait until the coroutine function answers true; a server that does not speak yet is no answer."""
    deadline, trouble = asyncio.get_running_loop().time() + wait_s, ""
    while True:
        try:
            if await holds():
                return
        except (RedisError, OSError) as met:
            trouble = f" ({met})"
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {wait_s:g} s{trouble}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def redis_server(folder: Path, **settings: object) -> AsyncGenerator[RedisServer]:
    """One server in its own folder below this one. `tls="yes"`: TLS alone, with
    the certificates that other settings name."""
    given = _settings(settings)
    port = int(given.pop("port", "0")) or steady_port()
    if given.pop("tls", "no") == "yes":
        given |= {"port": "0", "tls-port": str(port)}
    server = RedisServer(folder / f"redis-{port}", port, given)
    try:
        await server.start()
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def redis_replica(
    folder: Path, primary: RedisServer, **settings: object
) -> AsyncGenerator[RedisServer]:
    """A server that replicates this one, once it has all of its data."""
    async with redis_server(folder, replicaof=f"127.0.0.1 {primary.port}", **settings) as server:
        await until(lambda: in_sync(server), f"replica on {server.port}")
        await until(lambda: _is_counted(server, primary), f"the primary of {server.port} counts it")
        yield server


async def in_sync(server: RedisServer) -> bool:
    """Whether this replica has its primary's data and link; not while it answers nobody.

    Sentinel cuts the clients of whom it demotes.
    """
    with suppress(RedisError):
        async with server.client() as client:
            said = await client.info("replication")
        return said.get("master_link_status") == "up" and not said.get("master_sync_in_progress")
    return False


async def _is_counted(replica: RedisServer, primary: RedisServer) -> bool:
    """The primary calls it online some time after the replica itself does: with its first acknowledgement."""
    async with primary.client() as client:
        said = await client.info("replication")
    each = [said[f"slave{at}"] for at in range(said["connected_slaves"])]
    return any(one["port"] == replica.port and one["state"] == "online" for one in each)


SENTINEL: Final = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {primary} {quorum}
sentinel down-after-milliseconds {name} {down_ms}
sentinel failover-timeout {name} 3000
sentinel parallel-syncs {name} 1
"""


@asynccontextmanager
async def redis_sentinels(
    folder: Path, primary: RedisServer, *, name: str = "stepwrit", count: int = 3, down_ms: int = 500
) -> AsyncGenerator[list[RedisServer]]:
    """Sentinels that watch this primary, once each knows all others and the replicas."""
    sentinels: list[RedisServer] = []
    try:
        for _ in range(count):
            sentinels.append(_sentinel(folder, primary, name, count // 2 + 1, down_ms))
            await sentinels[-1].start()
        for sentinel in sentinels:
            await until(lambda s=sentinel: _knows(s, name, count), f"sentinel on {sentinel.port}")
        yield sentinels
    finally:
        for sentinel in sentinels:
            sentinel.stop()


def _sentinel(folder: Path, primary: RedisServer, name: str, quorum: int, down_ms: int) -> RedisServer:
    port = steady_port()
    own = folder / f"sentinel-{port}"
    own.mkdir(parents=True)
    (own / "sentinel.conf").write_text(
        SENTINEL.format(
            port=port, folder=own, name=name, primary=primary.port, quorum=quorum, down_ms=down_ms
        )
    )
    none = dict.fromkeys(DEFAULTS, "") | {"dir": ""}
    return _Sentinel(own, port, none, (str(own / "sentinel.conf"), "--sentinel"))


class _Sentinel(RedisServer):
    def _command(self) -> list[str]:
        return ["redis-server", *self.words]


async def _knows(sentinel: RedisServer, name: str, count: int) -> bool:
    async with sentinel.client() as client:
        said: dict[str, Any] = await client.sentinel_master(name)
    return int(said["num-other-sentinels"]) == count - 1 and int(said["num-slaves"]) > 0


def _cluster_port() -> int:
    while not is_free((port := steady_port()) + 10_000):  # the bus' own port
        pass
    return port


@asynccontextmanager
async def redis_cluster(
    folder: Path, masters: int = 3, **settings: object
) -> AsyncGenerator[list[RedisServer]]:
    """A cluster of masters without replicas, once all say that it is whole."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                redis_server(
                    folder, port=_cluster_port(), cluster_enabled="yes", cluster_node_timeout=2000, **settings
                )
            )
            for _ in range(masters)
        ]
        share = -(-16_384 // masters)
        for at, node in enumerate(nodes):
            await _join(node, nodes[0], at * share, min(16_384, (at + 1) * share) - 1)
        for node in nodes:
            await until(lambda n=node: _whole(n, masters), f"cluster node on {node.port}")
        yield nodes


async def _join(node: RedisServer, first: RedisServer, low: int, high: int) -> None:
    async with node.client() as client:
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
        if node is first:
            return
        number = 1 + (node.port - first.port) % 1000
        await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number)
        await client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)


async def _whole(node: RedisServer, masters: int) -> bool:
    async with node.client() as client:
        said = await client.execute_command("CLUSTER", "INFO")
    text = said.decode() if isinstance(said, bytes) else str(said)
    return "cluster_state:ok" in text and f"cluster_known_nodes:{masters}" in text
