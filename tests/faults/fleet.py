"""Brokers of a fleet with all their engines, and everything that can be done to any of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from tests.faults.brokers import Served
from tests.faults.embedded import BROKER_KINDS
from tests.faults.engine_faults import ENGINE_KINDS, EngineFaults, Preload
from tests.faults.observed import Entry, FinalState, SeenCheckpoint
from tests.faults.plan import Bounds, Injection, Kinds
from tests.faults.process import Process
from tests.faults.thin_callers import Links
from tests.faults.watching import Look, checkpoint_of
from tests.faults.world import CREDENTIAL_S, DOMAIN, ROLES
from tests.rigs.fleet import Engines, engines

from stepwrit_broker.core.grant import LIVE
from stepwrit_broker.dev.ports import steady_port
from stepwrit_broker.ledger import keys as ledger_keys
from stepwrit_broker.store.fleet.gather import Gathering
from stepwrit_broker.store.fleet.tables import Copy

BROKERS = 3
NETWORK = ("cut", "half_open", "delay", "drop_replies")
CLIENTS = ("kill_broker", "pause_broker", "clock_jump", *NETWORK)


class ThinBroker(Served):
    """`tests.faults.thin`: the store alone."""

    def __init__(self, folder: Path, name: str, shim: Path, given: dict[str, Any]) -> None:
        port = steady_port()
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**given, "name": name, "port": port, "folder": str(folder)}))
        super().__init__(folder, name, [sys.executable, "-m", "tests.faults.thin", str(path)], port, shim)

    async def is_ready(self) -> bool:
        """Whether it listens."""
        try:
            _, writer = await asyncio.open_connection(*self.relay.to)
        except OSError:
            return False
        writer.close()
        return True


class ThinFleet:
    """Three thin brokers on Redis with a replica and Sentinels, and PostgreSQL."""

    is_epoch_fresh = False  # core/slices.py: what one broker would let pass, over all epochs

    def __init__(self, folder: Path, shim: Path, rig: Engines, preload: Preload) -> None:
        self.folder, self.rig = folder, rig
        self.engines = EngineFaults(rig, preload)
        key = folder / "ledger.key"
        ledger_keys.create(key, origin=f"{DOMAIN}/log", seed=os.urandom(32))
        given = {"redis": rig.redis_url, "dsn": rig.dsn, "key": str(key), "origin": f"{DOMAIN}/log"}
        self.brokers = {f"b{n}": ThinBroker(folder, f"b{n}", shim, given) for n in range(1, BROKERS + 1)}
        for name, broker in self.brokers.items():
            rig.others[name] = _pid_of(broker.process)
        names = tuple(self.brokers)
        own = {kind: (BROKER_KINDS[kind], names) for kind in CLIENTS}
        own["clock_jump"] = (Bounds(seconds=(1.5, 3.0), amounts=(-3.0, -1.0, 1.0, 3.0)), names)
        self.kinds: Kinds = {**own, **ENGINE_KINDS}

    async def start(self) -> None:
        """Run and be ready: the first makes the tables."""
        for broker in self.brokers.values():
            await broker.start()

    async def stop(self) -> None:
        """An orderly end of the brokers; the engines go on."""
        for broker in self.brokers.values():
            await broker.stop()

    @property
    def settle_s(self) -> float:
        """After so long every credential must have ended."""
        return CREDENTIAL_S + 40.0

    # --- faults

    async def inject(self, fault: Injection) -> str:
        """Begin a fault; by what means."""
        if fault.kind in CLIENTS:
            return await self.brokers[fault.target].inject(fault)
        return await self.engines.inject(fault)

    async def heal(self, fault: Injection) -> None:
        """End it."""
        if fault.kind in CLIENTS:
            await self.brokers[fault.target].heal(fault)
        else:
            await self.engines.heal(fault)

    def callers(self) -> tuple[str, dict[str, Any]]:
        """The module that calls, and what it has to know."""
        ports = {name: broker.relay.port for name, broker in self.brokers.items()}
        return "tests.faults.thin_callers", {"brokers": ports, "roles": ROLES}

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[Look]:
        """Looks at the checkpoints that all brokers show."""
        links = Links({name: broker.relay.port for name, broker in self.brokers.items()})

        async def look(name: str) -> SeenCheckpoint | None:
            said = json.loads(await links.ask(name, b'{"verb": "checkpoint"}'))
            return checkpoint_of(name, said["ok"]["note"]) if "ok" in said else None

        yield look

    # --- what is there at the end

    async def live(self) -> int:
        """How many credentials have not ended."""
        try:
            return sum(state in LIVE for state in (await self._rows("grants")).values())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return 1

    async def _rows(self, table: str) -> dict[str, str]:
        columns = Copy(Gathering.schema).tables[table].columns
        conn = await asyncpg.connect(self.rig.postgres.dsn)
        try:
            found = await conn.fetch("SELECT value FROM stepwrit.rows WHERE field LIKE $1", f"{table}:%")
        finally:
            await conn.close()
        made = [msgspec.msgpack.decode(row["value"]) for row in found]
        return {row[columns.index("id")]: row[columns.index("state")] for row in made}

    async def read(self) -> tuple[list[Entry], FinalState]:
        """What PostgreSQL has, read by SQL alone."""
        conn = await asyncpg.connect(self.rig.postgres.dsn)
        try:
            rows = await conn.fetch(
                "SELECT e.seq, b.body, e.leaf FROM stepwrit.ledger_entries e"
                " JOIN stepwrit.ledger_bodies b USING (month, seq) ORDER BY e.seq"
            )
            marks = await conn.fetch("SELECT target, verb FROM stepwrit.marks")
        finally:
            await conn.close()
        entries = [Entry(seq=row["seq"], body=row["body"].decode(), leaf=row["leaf"].hex()) for row in rows]
        grants, steps = await self._rows("grants"), await self._rows("steps")
        return entries, FinalState(grants=grants, steps=steps, marks={m["target"]: m["verb"] for m in marks})


def _pid_of(process: Process) -> Any:
    return lambda: process.pid


@asynccontextmanager
async def thin_fleet(folder: Path, shim: Path) -> AsyncGenerator[ThinFleet]:
    """With its engines."""
    preload = Preload(shim)
    try:
        async with engines(folder, preload={"postgres": preload.environ}) as rig:
            fleet = ThinFleet(folder, shim, rig, preload)
            supervising = asyncio.create_task(fleet.engines.supervise())
            try:
                yield fleet
            finally:
                supervising.cancel()
                await asyncio.gather(supervising, return_exceptions=True)
    finally:
        preload.remove()
