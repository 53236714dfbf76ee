"""One broker with its own SQLite file: what the fleet is compared with, and what proves the harness."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from tests.faults.brokers import BrokerUnderTest, Served
from tests.faults.observed import Entry, FinalState, SeenCheckpoint
from tests.faults.plan import Bounds, Injection, Kinds
from tests.faults.watching import Look, checkpoint_of
from tests.faults.wire import Ways
from tests.faults.world import CREDENTIAL_S, OPERATOR, ROLES, World

from stepwrit_broker.core.grant import LIVE

BROKER_KINDS: dict[str, Bounds] = {
    "kill_broker": Bounds(seconds=(0.2, 1.0), weight=2),
    "pause_broker": Bounds(seconds=(0.5, 4.0)),
    "cut": Bounds(seconds=(0.3, 2.0)),
    "half_open": Bounds(seconds=(0.5, 3.0)),
    "delay": Bounds(seconds=(1.0, 3.0), amounts=(0.05, 0.2, 0.5)),
    "drop_replies": Bounds(seconds=(0.3, 2.0), weight=2),
    "full_disk": Bounds(seconds=(0.5, 2.0)),
    "slow_fsync": Bounds(seconds=(1.0, 3.0), amounts=(0.02, 0.2, 1.0)),
    "failed_fsync": Bounds(seconds=(0.3, 1.0)),
    "clock_jump": Bounds(seconds=(1.5, 3.0), amounts=(-20.0, -2.0, 2.0, 8.0)),
}


def callers_of(world: World, brokers: Mapping[str, Served]) -> tuple[str, dict[str, Any]]:
    """The module that calls whole brokers, and what it has to know."""
    urls = {name: broker.url for name, broker in brokers.items()}
    sockets = {path: world.socket(path) for path in ROLES}
    return "tests.faults.callers", {"brokers": urls, "sockets": sockets, "oidc": world.issuer.url}


@asynccontextmanager
async def watching(world: World, brokers: Mapping[str, Served]) -> AsyncGenerator[Look]:
    """Looks at the checkpoints that whole brokers show."""
    urls = {name: broker.url for name, broker in brokers.items()}
    ways = Ways(OPERATOR, world.socket(OPERATOR), urls)
    await ways.start()

    async def look(name: str) -> SeenCheckpoint | None:
        status, note = await ways.ask(name, b"GET /tlog/checkpoint HTTP/1.1\r\nhost: broker\r\n\r\n")
        return checkpoint_of(name, note.decode()) if status == 200 else None

    try:
        yield look
    finally:
        await ways.stop()


class Embedded:
    """Starts, hurts, heals and reads one broker."""

    is_epoch_fresh = True

    def __init__(self, world: World, shim: Path) -> None:
        self._world = world
        self._file = world.folder / "b1" / "stepwrit.db"
        self.brokers = {"b1": BrokerUnderTest(world, "b1", shim)}
        self.kinds: Kinds = {kind: (bounds, ("b1",)) for kind, bounds in BROKER_KINDS.items()}

    async def start(self) -> None:
        """Run and be ready."""
        for broker in self.brokers.values():
            await broker.start()

    async def inject(self, fault: Injection) -> str:
        """Begin a fault; by what means."""
        return await self.brokers[fault.target].inject(fault)

    async def heal(self, fault: Injection) -> None:
        """End it."""
        await self.brokers[fault.target].heal(fault)

    async def stop(self) -> None:
        """An orderly end of everything."""
        for broker in self.brokers.values():
            await broker.stop()

    def callers(self) -> tuple[str, dict[str, Any]]:
        """The module that calls, and what it has to know."""
        return callers_of(self._world, self.brokers)

    def watching(self) -> AbstractAsyncContextManager[Look]:
        """Looks at the checkpoints that all brokers show."""
        return watching(self._world, self.brokers)

    async def live(self) -> int:
        """How many credentials have not ended yet."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as conn:
            return sum(state in LIVE for (state,) in conn.execute("SELECT state FROM grants"))

    @property
    def settle_s(self) -> float:
        """After so long every credential must have ended."""
        return CREDENTIAL_S + 120.0

    async def outside(self) -> list[SeenCheckpoint]:
        """Nobody keeps anything of it."""
        return []

    async def read(self) -> tuple[list[Entry], FinalState]:
        """What the file has, read by SQL alone; the broker has ended."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as conn:
            rows = conn.execute("SELECT seq, body, leaf FROM entries ORDER BY seq")
            entries = [Entry(seq=seq, body=body.decode(), leaf=leaf.hex()) for seq, body, leaf in rows]
            return entries, FinalState(
                grants=dict(conn.execute("SELECT id, state FROM grants")),
                steps=dict(conn.execute("SELECT id, state FROM steps")),
                marks=dict(conn.execute("SELECT target, verb FROM marks")),
            )


@asynccontextmanager
async def embedded(folder: Path, shim: Path) -> AsyncGenerator[Embedded]:
    """With its identities."""
    world = World(folder)
    await world.start()
    try:
        yield Embedded(world, shim)
    finally:
        await world.stop()
