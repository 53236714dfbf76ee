"""Brokers of a fleet with all their engines, and everything that can be done to any of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from tests.faults.brokers import BrokerUnderTest, Served
from tests.faults.embedded import BROKER_KINDS, callers_of, watching
from tests.faults.engine_faults import ENGINE_KINDS, EngineFaults, Preload
from tests.faults.least import migrated
from tests.faults.observed import Entry, FinalState, SeenCheckpoint
from tests.faults.outside import Witness
from tests.faults.plan import Bounds, Injection, Kinds
from tests.faults.process import Process
from tests.faults.thin_callers import Links
from tests.faults.watching import Look, checkpoint_of
from tests.faults.world import CREDENTIAL_S, DOMAIN, ROLES, World
from tests.rigs.fleet import Engines, engines

from stepwrit_broker.core.grant import LIVE
from stepwrit_broker.dev.ports import steady_port
from stepwrit_broker.ledger import keys as ledger_keys
from stepwrit_broker.store.fleet.gather import Gathering
from stepwrit_broker.store.fleet.tables import Copy

NAMES = ("b1", "b2", "b3")
SHARDS = 4
NETWORK = ("cut", "half_open", "delay", "drop_replies")
WITNESS = "kill_witness"
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


class Fleet:
    """Three brokers on Redis with a replica and Sentinels, and PostgreSQL."""

    is_epoch_fresh = False  # core/slices.py: what one broker would let pass, over all epochs
    settle_s = CREDENTIAL_S + 160.0  # after so long every credential must have ended

    def __init__(self, rig: Engines, preload: Preload, brokers: Mapping[str, Served]) -> None:
        self.rig, self.brokers = rig, brokers
        self.engines = EngineFaults(rig, preload)
        for name, broker in brokers.items():
            rig.others[name] = _pid_of(broker.process)
        names = tuple(brokers)
        own = {kind: (BROKER_KINDS[kind], names) for kind in CLIENTS}
        own["clock_jump"] = (Bounds(seconds=(1.5, 3.0), amounts=(-3.0, -1.0, 1.0, 3.0)), names)
        self.kinds: Kinds = {**own, **ENGINE_KINDS}

    async def start(self) -> None:
        """Run and be ready, all at once: the tables are there."""
        await asyncio.gather(*(broker.start() for broker in self.brokers.values()))

    async def stop(self) -> None:
        """An orderly end of the brokers; the engines go on."""
        await asyncio.gather(*(broker.stop() for broker in self.brokers.values()))

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

    # --- what is there at the end

    async def outside(self) -> list[SeenCheckpoint]:
        """What somebody else keeps of the log: nobody does."""
        return []

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


class ThinFleet(Fleet):
    """Of thin brokers."""

    def __init__(self, folder: Path, shim: Path, rig: Engines, dsn: str, preload: Preload) -> None:
        key = folder / "ledger.key"
        ledger_keys.create(key, origin=f"{DOMAIN}/log", seed=os.urandom(32))
        given = {"redis": rig.redis_url, "dsn": dsn, "key": str(key), "origin": f"{DOMAIN}/log"}
        super().__init__(rig, preload, {name: ThinBroker(folder, name, shim, given) for name in NAMES})

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

        try:
            yield look
        finally:
            await links.close()


class WholeFleet(Fleet):
    """Of whole brokers, and a witness. dsn: of the brokers' role. told: what their broker.toml says of it."""

    def __init__(
        self, world: World, shim: Path, rig: Engines, dsn: str, witness: Witness, told: str, preload: Preload
    ) -> None:
        self._world, self._witness = world, witness

        def config(name: str) -> str:
            return (
                f'[fleet]\nredis = "{rig.redis_url}"\npostgres = "{dsn}?sslmode=disable"\n'
                f'broker = "{name}"\nshards = {SHARDS}\n{told}'
            )

        brokers = {name: BrokerUnderTest(world, name, shim, config(name)) for name in NAMES}
        super().__init__(rig, preload, brokers)
        self.kinds = {**self.kinds, WITNESS: (Bounds(seconds=(0.5, 4.0)), ("witness",))}

    async def start(self) -> None:
        """Run and be ready; the witness first."""
        await self._witness.start()
        await super().start()

    async def stop(self) -> None:
        """An orderly end of the brokers, then of the witness."""
        await super().stop()
        await self._witness.stop()

    async def inject(self, fault: Injection) -> str:
        """Begin a fault; by what means."""
        if fault.kind != WITNESS:
            return await super().inject(fault)
        await self._witness.process.kill()
        return "kill -9"

    async def heal(self, fault: Injection) -> None:
        """End it."""
        await (self._witness.start() if fault.kind == WITNESS else super().heal(fault))

    async def outside(self) -> list[SeenCheckpoint]:
        """What the witness cosigned last."""
        return [await self._witness.kept()]

    def callers(self) -> tuple[str, dict[str, Any]]:
        """The module that calls, and what it has to know."""
        return callers_of(self._world, self.brokers)

    def watching(self) -> AbstractAsyncContextManager[Look]:
        """Looks at the checkpoints that all brokers show."""
        return watching(self._world, self.brokers)


@asynccontextmanager
async def thin_fleet(folder: Path, shim: Path, *, is_supervised: bool = True) -> AsyncGenerator[ThinFleet]:
    """With its engines, which are started again when they end where that is wanted."""
    preload = Preload(shim)
    try:
        async with engines(folder, preload={"postgres": preload.environ}) as rig:
            fleet = ThinFleet(folder, shim, rig, await migrated(rig, SHARDS), preload)
            tasks = [asyncio.create_task(fleet.engines.supervise())] if is_supervised else []
            try:
                yield fleet
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        preload.remove()


@asynccontextmanager
async def whole_fleet(folder: Path, shim: Path) -> AsyncGenerator[WholeFleet]:
    """With its engines, identities and witness."""
    preload, world, witness = Preload(shim), World(folder), Witness(folder)
    await world.start()
    try:
        async with engines(folder, preload={"postgres": preload.environ}) as rig:
            ledger_keys.create(folder / "ledger.key", origin=f"{DOMAIN}/log", seed=os.urandom(32))
            told = await witness.make(folder / "ledger.key")
            dsn = await migrated(rig, SHARDS)
            fleet = WholeFleet(world, shim, rig, dsn, witness, told, preload)
            supervising = asyncio.create_task(fleet.engines.supervise())
            try:
                yield fleet
            finally:
                supervising.cancel()
                await asyncio.gather(supervising, return_exceptions=True)
    finally:
        await world.stop()
        preload.remove()
