"""One broker with its own SQLite file: what the fleet is compared with, and what proves the harness."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.faults.brokers import BrokerUnderTest
from tests.faults.observed import Entry, FinalState
from tests.faults.plan import Bounds, Injection, Kinds
from tests.faults.world import CREDENTIAL_S, World

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


class Embedded:
    """Starts, hurts, heals and reads one broker."""

    is_epoch_fresh, held_s = True, 0.0

    def __init__(self, world: World, shim: Path) -> None:
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

    async def live(self) -> int:
        """How many credentials have not ended yet."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as conn:
            return sum(state in LIVE for (state,) in conn.execute("SELECT state FROM grants"))

    @property
    def settle_s(self) -> float:
        """After so long every credential must have ended."""
        return CREDENTIAL_S + 30.0

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
