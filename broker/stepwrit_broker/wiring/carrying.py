"""From a broker that stood alone into the fleet that takes its place: what must outlive the move.

Marks stop what they stopped, approvers keep their keys, persons keep their opaque names, and the new log says
where the old one ended. Transactions, approvals and unused credentials end with the old broker.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core import ids
from stepwrit_broker.core.authenticator import Authenticator, Verb
from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.flows.house import requester_of
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.sqlite_source import SqliteSource, open_reader
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Evidence, MarkCommand, Operation
from stepwrit_broker.ports_approval import DecideCommand, ProposeCommand
from stepwrit_broker.store import authenticators
from stepwrit_broker.store.fleet.postgres import shared
from stepwrit_broker.store.fleet.postgres.session import connect, trouble
from stepwrit_broker.store.fleet.postgres.truth import open_truth
from stepwrit_broker.store.schema import FileLock
from stepwrit_broker.store.start import PEPPER
from stepwrit_broker.wiring.fleet import HOUSE, FleetBacking
from stepwrit_broker.wiring.fleet_engines import session_of
from stepwrit_broker.wiring.settings import BrokerSettings

ENTRY: Final = "fleet.carried"
REASON: Final = "carried from the broker that stood alone"
_ENDED: Final = frozenset({"step", "txn", "grant"})
_MARKS: Final = "SELECT target, verb, reason, by, at, ref FROM marks ORDER BY at, target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What is read of the old broker's database. secret: names its persons; never shown. left: marks on what
    ends with it.
    """

    origin: str
    size: int
    root: bytes
    secret: bytes
    marks: tuple[Mark, ...]
    left: int
    authenticators: tuple[Authenticator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What is in the fleet now, and what stayed behind."""

    origin: str
    size: int
    marks: int
    authenticators: int
    left: int

    def facts(self, root: bytes) -> dict[str, object]:
        """For the ledger's entry: the old log's head is a part of the new log."""
        return {
            "origin": self.origin,
            "size": self.size,
            "root": root.hex(),
            "marks": self.marks,
            "authenticators": self.authenticators,
        }


async def carry(settings: BrokerSettings, path: Path) -> Carried:
    """Carry it over, before the first broker of the fleet serves. Nothing is taken from the old database.

    Repeated, it does what is left to do. Raises Unavailable while a broker has that database, or an engine
    does not answer; Conflict for a fleet that has served already, or carries on from another broker;
    Malformed for a file that is no broker's.
    """
    with _stopped(path):
        alone = read(path)
        await _take_secret(settings, alone.secret)
        async with _open(settings) as backing:
            for mark in alone.marks:
                await backing.store.mark(_command(mark))
            for each in alone.authenticators:
                await _authenticator(backing, each)
            made = Carried(
                origin=alone.origin,
                size=alone.size,
                marks=len(alone.marks),
                authenticators=len(alone.authenticators),
                left=alone.left,
            )
            await backing.say(ENTRY, made.facts(alone.root))
            return made


def read(path: Path) -> Alone:
    """Read an embedded broker's database. Raises Malformed, Unavailable."""
    if not path.is_file():
        raise Malformed("invalid_request", f"there is no database at {path}")
    with closing(open_reader(path)) as conn:
        try:
            return _read(conn, path)
        except (sqlite3.DatabaseError, TypeError, ValueError) as bad:
            raise Malformed("invalid_request", f"{path} is no database of this version's broker") from bad


def _read(conn: sqlite3.Connection, path: Path) -> Alone:
    marks = [Mark(**dict(zip(Mark.__slots__, row, strict=True))) for row in conn.execute(_MARKS)]
    kept = tuple(each for each in marks if each.target.partition(":")[0] not in _ENDED)
    pepper: str = conn.execute(PEPPER).fetchone()[0]
    with closing(SqliteSource(open_reader(path))) as source:
        size = source.size()
        return Alone(
            origin=source.meta("origin") or "",
            size=size,
            root=LogReader(source).root_at(size),
            secret=bytes.fromhex(pepper),
            marks=kept,
            left=len(marks) - len(kept),
            authenticators=tuple(authenticators.decode(row) for row in conn.execute(authenticators.ALL)),
        )


@contextmanager
def _stopped(path: Path) -> Generator[None]:
    """No broker has it, and none can take it meanwhile."""
    lock = FileLock(path.resolve())
    try:
        yield
    finally:
        lock.release()


async def _take_secret(settings: BrokerSettings, secret: bytes) -> None:
    """So that persons have the same opaque names, and what is marked by them stays marked."""
    if settings.fleet is None:
        raise Malformed("invalid_request", "this broker.toml has no [fleet]")
    session = session_of(settings.fleet)
    truth = await open_truth(session, PgLog(), SystemClock(), shards=settings.fleet.shards)
    await truth.close()
    conn = await connect(session)
    try:
        with trouble():
            if await shared.held(conn, HOUSE) is None and await conn.fetchval(
                "SELECT EXISTS (SELECT FROM versions)"
            ):
                raise Conflict(
                    "wrong_state", "this fleet has served already: carry before its first broker starts"
                )
            if await shared.keep(conn, HOUSE, secret) != secret:
                raise Conflict("wrong_state", "this fleet carries on from another broker")
    finally:
        await conn.close()


@asynccontextmanager
async def _open(settings: BrokerSettings) -> AsyncGenerator[FleetBacking]:
    """The store and the log, with their workers, and no listener."""
    async with AsyncExitStack() as stack:
        backing = FleetBacking(
            settings, clock=SystemClock(), entropy=SystemEntropy(), metrics=Metrics(), stack=stack
        )
        await backing.open()
        workers = [asyncio.ensure_future(run()) for run in backing.store.runs()]
        try:
            yield backing
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def _command(mark: Mark) -> MarkCommand:
    operation = Operation(caller="carry", key="", verb=mark.verb, id=mark.target, digest=mark.ref)
    evidence = Evidence(facts={"carried": True})
    return MarkCommand(op=operation, mark=mark, lift=False, evidence=evidence, now=SystemClock().now())


async def _authenticator(backing: FleetBacking, known: Authenticator) -> None:
    """Its key, its counter and its state."""
    people, now = backing.store.approvals, SystemClock().now()
    ref = ids.make_ref(SystemEntropy().bytes(ids.REF_BYTES))
    who = requester_of(backing.secret, known.owner.issuer, known.owner.subject).opaque
    there = await people.authenticator(known.id)
    if there is None:
        evidence = Evidence(facts={"carried": True})
        there = await people.propose(
            ProposeCommand(authenticator=known, who=who, proofs=(), evidence=evidence, ref=ref, now=now)
        )
    for verb in _verbs(there, known):
        await people.decide(
            DecideCommand(
                authenticator=known.id,
                verb=verb,
                by=known.decided_by,
                reason=REASON,
                who=who,
                ref=ref,
                now=now,
            )
        )


def _verbs(there: Authenticator, known: Authenticator) -> Sequence[Verb]:
    """From one state to the other."""
    if there.state == known.state:
        return ()
    return ("retire",) if known.state == "retired" else ("approve",)
