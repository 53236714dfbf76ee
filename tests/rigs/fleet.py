"""The engines of a fleet behind relays: Redis primary, replica and Sentinels, and PostgreSQL.

    async with engines(folder) as rig:
        rig.redis_url, rig.dsn

Everybody, Redis and Sentinel too, reaches a server through its own relay, which knows who asks by the process
that holds the other end: any two can be parted (`rig.relays["redis-a"].misbehave(Behaviour("cut"), "b1")`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.faults.relay import Relay
from tests.rigs.postgres import PostgresServer, postgres_server
from tests.rigs.redis import RedisServer, in_sync, redis_sentinels, redis_server, until

from stepwrit_broker.dev.ports import steady_port

MASTER = "stepwrit"


def owner(port: int, pids: Mapping[str, int]) -> str:
    """Which of these processes has the connection from this local port; empty when none has."""
    inode = next(_inodes(port), None)
    if inode is None:
        return ""
    wanted = f"socket:[{inode}]"
    return next((name for name, pid in pids.items() if pid and wanted in _links(pid)), "")


def _inodes(port: int) -> Iterator[str]:
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if int(words[1].partition(":")[2], 16) == port and words[3] == "01":
            yield words[9]


def _links(pid: int) -> set[str]:
    found = set[str]()
    with suppress(OSError):
        for each in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(each.path))
    return found


@contextmanager
def environ(more: Mapping[str, str]) -> Iterator[None]:
    """What a server that is started now inherits besides."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class Engines:
    """Servers and relays by name: `redis-a`, `redis-b`, `sentinel-1` to `-3`, `postgres`.

    others: further processes that relays are to know by name.
    """

    redis: dict[str, RedisServer]
    postgres: PostgresServer
    relays: dict[str, Relay]
    sentinels: list[RedisServer] = field(default_factory=list)
    others: dict[str, Callable[[], int]] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        """By the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}"

    @property
    def dsn(self) -> str:
        """Of PostgreSQL's superuser, through its relay."""
        return self.dsn_of("postgres")

    def dsn_of(self, user: str) -> str:
        """Of another role, through the relay of PostgreSQL."""
        return f"postgresql://{user}@127.0.0.1:{self.relays['postgres'].port}/postgres"

    def pids(self) -> dict[str, int]:
        """Every process that may stand at the other end of a relay."""
        known = {name: server.process.pid for name, server in self.redis.items()}
        known |= {f"sentinel-{n}": each.process.pid for n, each in enumerate(self.sentinels, 1)}
        return known | {name: pid() for name, pid in self.others.items()}

    async def primary(self) -> str:
        """Which Redis the Sentinels name; empty when they name none of ours."""
        for sentinel in self.sentinels:
            with suppress(Exception):
                async with sentinel.client(socket_timeout=2.0) as client:
                    said = await client.sentinel_get_master_addr_by_name(MASTER)
                port = int(cast(Any, said)[1])
                return next((n for n in self.redis if self.relays[n].port == port), "")
        return ""

    async def failed_over(self, to: str) -> None:
        """Wait until every Sentinel that answers names this one, and it is a primary."""

        async def done() -> bool:
            with suppress(Exception):
                async with self.redis[to].client(socket_timeout=2.0) as client:
                    return (await client.info("replication"))[
                        "role"
                    ] == "master" and await self.primary() == to
            return False

        await until(done, f"{to} is the primary")


@asynccontextmanager
async def engines(
    folder: Path,
    *,
    preload: Mapping[str, Mapping[str, str]] | None = None,
    postgres: Mapping[str, object] | None = None,
    redis: Mapping[str, object] | None = None,
    down_ms: int = 3000,
) -> AsyncGenerator[Engines]:
    """All of them, in step. preload: environment by server, for shims. The rest: further settings.

    down_ms: below 2500 Sentinel never again promotes anybody once both Redis follow each other: it calls a
    primary down that has called itself a replica for 20 s, and takes no replica whose link was down for more
    than ten times down_ms before that.
    """
    given = preload or {}
    async with AsyncExitStack() as stack:
        with environ(given.get("postgres", {})):
            truth = await stack.enter_async_context(postgres_server(**(postgres or {})))
        rig = Engines(redis={}, postgres=truth, relays={})
        await _relay(stack, rig, "postgres", truth.port)
        for name in ("redis-a", "redis-b"):
            await _node(stack, rig, folder, name, given.get(name, {}), redis or {})
        seen = cast(Any, SimpleNamespace(port=rig.relays["redis-a"].port))
        rig.sentinels = await stack.enter_async_context(
            redis_sentinels(folder, seen, name=MASTER, down_ms=down_ms)
        )
        stack.callback(_wake, rig)
        yield rig


async def _relay(stack: AsyncExitStack, rig: Engines, name: str, port: int) -> Relay:
    relay = Relay(name, to=("127.0.0.1", port), who=lambda port: owner(port, rig.pids()))
    await relay.start()
    stack.push_async_callback(relay.stop)
    rig.relays[name] = relay
    return relay


async def _node(
    stack: AsyncExitStack,
    rig: Engines,
    folder: Path,
    name: str,
    more: Mapping[str, str],
    settings: Mapping[str, object],
) -> None:
    """A Redis that names its relay as its own address; the second one replicates the first."""
    port = steady_port()
    relay = await _relay(stack, rig, name, port)
    follows = {"replicaof": f"127.0.0.1 {rig.relays['redis-a'].port}"} if rig.redis else {}
    with environ(more):
        server = await stack.enter_async_context(
            redis_server(
                folder, port=port, replica_announce_ip="127.0.0.1", replica_announce_port=relay.port,
                repl_timeout=5, **{**follows, **settings},
            )
        )  # fmt: skip
    rig.redis[name] = server
    if follows:
        await until(lambda: in_sync(server), f"{name} follows")


def _wake(rig: Engines) -> None:
    """A test may have left one stopped."""
    for pid in rig.pids().values():
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
