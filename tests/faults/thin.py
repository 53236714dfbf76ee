"""`python -m tests.faults.thin SETTINGS.json`: a broker that is nothing but the fleet's store.

FleetStore with both engines, the sequencer, the sweep and the checkpoints, behind one JSON object a line.
What attests, decides and mints is left out: here is what may be lost or done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
from tests.fakes import build
from tests.faults.world import CREDENTIAL_S, LIMITS

from stepwrit.shape import write
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core import ids
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.limits import Charge
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.edge.problems import refusal_of
from stepwrit_broker.ledger import keys as ledger_keys
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ports import Operation, ProofUse
from stepwrit_broker.registry.limits_file import load_limits
from stepwrit_broker.store.fleet.postgres.schema import SCHEMA
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import open_truth
from stepwrit_broker.store.fleet.rates import Rates
from stepwrit_broker.store.fleet.redis.engine import RedisSwift
from stepwrit_broker.store.fleet.seams import EpochOver
from stepwrit_broker.store.fleet.store import FleetStore

SHARDS = 4
REQUEST = "r" * 43  # as `build` has it
SWEEP_S, SIGN_S = 1.0, 0.5
TROUBLE = (Problem, EpochOver, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
SERVER, AGENT = build.SERVER, build.AGENT


@dataclass
class Making(build.Maker):
    """Commands with ids that no other process makes, in this shard."""

    shard: str = "00"

    def __post_init__(self) -> None:
        self.entropy = SystemEntropy()  # type: ignore[assignment]

    def id(self, kind: ids.Kind) -> str:
        return ids.make_id(kind, self.shard, self.entropy.bytes(ids.RANDOM_BYTES))


@dataclass
class Thin:
    """The verbs."""

    store: FleetStore
    checkpointer: PgCheckpointer
    dsn: str
    chance: random.Random = field(default_factory=random.Random)

    def make(self, name: str = "") -> Making:
        shard = name[5:7] if name else f"{self.chance.randrange(SHARDS):02x}"
        return Making(now=time.time(), epoch=self.store.epoch, shard=shard)

    def op(self, asked: dict[str, Any]) -> Operation:
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return Operation(
            caller=asked["caller"], key="", verb=asked["verb"], id=asked["op"], digest=digest
        )  # fmt: skip

    async def _step(self, name: str) -> StepRecord:
        found = await self.store.step(name)
        if found is None:
            raise Refused("not_found", "no such step")
        return found

    async def intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        make = self.make()
        step = make.root_step()
        proof = ProofUse(kind="id_token", key=asked["token"], until=step.expires_at)
        return await self._open(make, step, asked, proofs=(proof,))

    async def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        parent = await self._step(asked["parent"])
        make, tool = self.make(asked["parent"]), f"mail/{asked['tool']}"
        step = make.child_step(parent, action=build.action(tool=tool))
        hop = replace(step.chain[-1], tool=tool)
        return await self._open(make, replace(step, chain=(*step.chain[:-1], hop)), asked)

    async def _open(self, make: Making, step: Step, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        tool = {} if step.action is None else {"tool": step.action.tool}
        values = {"workload": step.initiator, "origin": step.origin, "tenant": step.tenant, **tool}
        what = Charge(on="steps" if step.parent else "intents", values=values)  # type: ignore[arg-type]
        command = make.open(step, op=self.op(asked), charge=what, **more)
        record = await self.store.open(command)
        return {"step": record.step.id, "txn": record.step.txn, "ref": record.step.ref}

    async def accept(self, asked: dict[str, Any]) -> dict[str, Any]:
        make = self.make(asked["step"])
        record = await self._step(asked["step"])
        done, _ = await self.store.accept(make.accept(record, op=self.op(asked), round=1))
        return {"step": done.step.id, "txn": done.step.txn, "ref": done.step.ref}

    async def credential(self, asked: dict[str, Any]) -> dict[str, Any]:
        make = self.make(asked["step"])
        record = await self._step(asked["step"])
        assert record.step.action is not None
        grant = make.grant(record, expires_at=make.now + CREDENTIAL_S)
        values = {
            "workload": SERVER, "tool": record.step.action.tool, "resource": grant.audience,
            "origin": record.step.origin, "tenant": record.step.tenant,
        }  # fmt: skip
        what = Charge(on="credentials", values=values)  # type: ignore[arg-type]
        done = await self.store.reserve(make.reserve(grant, op=self.op(asked), charge=what))
        return {"step": done.grant.step, "txn": done.grant.txn, "grant": done.grant.id, "ref": done.grant.ref}

    async def redeem(self, asked: dict[str, Any]) -> dict[str, Any]:
        make = self.make(asked["grant"])
        shown: Any = SimpleNamespace(
            id=asked["grant"], audience=build.AUDIENCE, jkt=build.KEY, request=REQUEST
        )
        command = make.redeem(shown, op=self.op(asked), redeemer=SpiffeId(asked["caller"]))
        grant, step = await self.store.redeem(command)
        return {"step": step.step.id, "txn": step.step.txn, "grant": grant.grant.id, "ref": grant.grant.ref}

    async def close(self, asked: dict[str, Any]) -> dict[str, Any]:
        make = self.make(asked["step"])
        record = await self._step(asked["step"])
        moved = await self.store.move(make.move(record, "close", op=self.op(asked), caller=SERVER))
        return {"step": asked["step"], "ref": moved.record.step.ref}

    async def mark(self, asked: dict[str, Any]) -> dict[str, Any]:
        make, verb = self.make(), asked["verb"]
        command = make.mark(
            asked["target"],
            "freeze" if verb == "unfreeze" else verb,
            lift=verb == "unfreeze",
            op=self.op(asked),
        )
        done = await self.store.mark(command)
        return {"target": done.target, "ref": done.ref}

    async def checkpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        del asked
        conn = await connected(self.dsn)
        try:
            signed = await self.checkpointer.sign(
                conn, epoch=self.store.epoch, high_water=self.store.high_water, at=time.time()
            )
        finally:
            await conn.close(timeout=2)
        return {"note": signed.note}

    async def status(self, asked: dict[str, Any]) -> dict[str, Any]:
        del asked
        return {
            "leads": self.store.sequencer.leads,
            "epoch": self.store.epoch,
            "changes": self.store.epochs.changes,
        }

    async def answer(self, line: bytes) -> dict[str, Any]:
        """One request."""
        asked = json.loads(line)
        verb: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = (
            self.mark if asked["verb"] in ("revoke", "freeze", "unfreeze") else getattr(self, asked["verb"])
        )
        try:
            return {"ok": await verb(asked)}
        except Problem as problem:
            return {"refusal": write(refusal_of(problem))}
        except EpochOver:
            return {"refusal": {"code": "unavailable", "rule": "epoch"}}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()


async def connected(dsn: str) -> Any:
    """A connection of its own, that sees the fleet's tables."""
    return await asyncpg.connect(dsn, timeout=5, server_settings={"search_path": SCHEMA})


class Background:
    """What a broker does beside answering."""

    def __init__(self, thin: Thin) -> None:
        self._thin, self._store = thin, thin.store

    async def run(self) -> None:
        """Until cancelled, or a worker of the store's fails."""
        workers = [run() for run in self._store.runs()]
        await asyncio.gather(*workers, self._again(self._sweep, SWEEP_S), self._again(self._sign, SIGN_S))

    async def _again(self, deed: Callable[[], Awaitable[object]], every_s: float) -> None:
        """It goes on after any trouble."""
        while True:
            try:
                await deed()
            except TROUBLE as trouble:
                print(f"{deed.__name__}: {type(trouble).__name__} {trouble}", flush=True)
            await asyncio.sleep(every_s)

    async def _sweep(self) -> None:
        await self._store.reap(time.time())

    async def _sign(self) -> None:
        await self._thin.checkpoint({})


async def _admitted(checkpointer: PgCheckpointer, dsn: str, origin: str) -> None:
    """The log has its name, and has all that this broker has seen. Raises Unavailable."""
    conn = await connected(dsn)
    try:
        async with conn.transaction():
            await PgLog().name_log(conn, origin)
        await checkpointer.admit(conn)
    finally:
        await conn.close(timeout=2)


async def run(given: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    swift = RedisSwift.of(given["redis"], fleet="faults", shards=SHARDS)
    truth = await open_truth(Session(dsn=given["dsn"]), PgLog(), SystemClock(), shards=SHARDS)
    store = FleetStore(swift, truth, Rates(swift), SystemEntropy(), me=given["name"], now=time.time)
    store.use(load_limits(LIMITS, name="limits.yaml")[1], lambda: 0)
    anchor = AnchorFile(Path(given["folder"]) / f"{given['name']}.anchor")
    checkpointer = PgCheckpointer(ledger_keys.load(Path(given["key"])), anchor)
    await _admitted(checkpointer, given["dsn"], given["origin"])
    thin = Thin(store=store, checkpointer=checkpointer, dsn=given["dsn"])
    await store.start()
    server = await asyncio.start_server(thin.serve, "127.0.0.1", given["port"])
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    background = asyncio.create_task(Background(thin).run())
    print("ready", flush=True)
    await asyncio.wait({background, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background
    await store.close()


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
