"""The embedded store: one process, one SQLite file, one writer; everything of a call in one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar, cast

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.influence import Past
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.ports import (
    AcceptCommand,
    AttendCommand,
    Happening,
    KeyPin,
    MarkCommand,
    MoveCommand,
    Moved,
    OpenCommand,
    Reaped,
    RedeemCommand,
    ReserveCommand,
    ResumeCommand,
    VersionCommand,
)
from stepwrit_broker.ports_ended import Tell
from stepwrit_broker.ports_ledger import EraseCommand, Erased
from stepwrit_broker.store import (
    accepting,
    attending,
    deferring,
    erasing,
    granting,
    moving,
    opening,
    pinning,
    reaping,
    ruling,
    sealed_args,
)
from stepwrit_broker.store.backup import copy_to
from stepwrit_broker.store.disk import Headroom
from stepwrit_broker.store.past import committed_past
from stepwrit_broker.store.people import SqliteApprovals
from stepwrit_broker.store.reading import SELECT_GRANT, SELECT_STEP, SELECT_TXN
from stepwrit_broker.store.rows import decode_grant, decode_step, decode_txn, version_of
from stepwrit_broker.store.schema import FileLock, connect_reader
from stepwrit_broker.store.state import VERSION_COLUMNS, State, stronger
from stepwrit_broker.store.writer import SHED_RECORDS_AT, Writer

T = TypeVar("T")
Anchoring = Callable[[], Awaitable[None]]
Guard = Callable[[str], None]
OWED_MAX: Final = 4096
_IS_MARKED: Final = "SELECT 1 FROM marks WHERE target = ?"
_HISTORY: Final = f"SELECT {VERSION_COLUMNS} FROM versions WHERE kind = ? ORDER BY number"  # noqa: S608
_VERSION: Final = f"SELECT {VERSION_COLUMNS} FROM versions WHERE kind = ? AND number = ?"  # noqa: S608


class SqliteStore:
    """The `Store` port on SQLite. Made by `start.open_store`; see the port for every promise."""

    def __init__(self, path: Path, lock: FileLock, state: State, anchor: Anchoring | None) -> None:
        self._path = path
        self._lock = lock
        self._state = state
        self._anchor = anchor
        self._marked: Callable[[], None] = lambda: None
        self._ruled: Callable[[], None] = lambda: None
        self._walking: Final = asyncio.Lock()
        self._writer = Writer(state)
        self._reader = connect_reader(path)
        self._guard: Guard = lambda _: None
        self.approvals: Final = SqliteApprovals(state, self._writer, self._reader)

    @property
    def epoch(self) -> str:
        """Random, new at each start."""
        return self._state.epoch

    @property
    def shards(self) -> int:
        """All of it is one."""
        return 1

    @property
    def high_water(self) -> float:
        """The latest time any operation went by, seconds since the epoch."""
        return self._state.high

    @property
    def owed(self) -> int:
        """Marks in force on this broker only, because their commit failed."""
        return len(self._state.owed)

    @property
    def knows_marks(self) -> bool:
        """They are this process's own."""
        return True

    @property
    def queued(self) -> int:
        """Operations that wait for the writer."""
        return self._writer.queued

    def use(self, limits: Limits, bundles: Callable[[], int]) -> None:
        """Hand over compiled limits, best before their version is applied; `bundles`: their generation."""
        self._state.use(limits, bundles)

    def set_anchor(self, anchor: Anchoring) -> None:
        """Called after the commit of each mark and version, before it is acknowledged."""
        self._anchor = anchor

    def heed(
        self, *, ended: Tell, marked: Callable[[], None], ruled: Callable[[], None] = lambda: None
    ) -> None:
        """ended: is told of steps that end under those who run them. marked: of a revocation to be followed:
        `walk` does. ruled: that marks or versions have changed.
        """
        self._state.tell, self._marked, self._ruled = ended, marked, ruled

    def set_guard(self, guard: Guard) -> None:
        """Called with the verb before `open`, `accept`, `resume`, `reserve` and `redeem`; what it raises
        refuses them.
        """
        self._guard = guard

    async def open(self, command: OpenCommand) -> StepRecord:
        """Open a root or a child."""
        self._guard("open")
        return await self._writer.submit(lambda: opening.open_step(self._state, command))

    async def accept(self, command: AcceptCommand) -> tuple[StepRecord, Grant | None]:
        """Accept a round; a self grant is spent in the same write."""
        self._guard("accept")
        return await self._writer.submit(lambda: accepting.accept(self._state, command))

    async def resume(self, command: ResumeCommand) -> tuple[StepRecord, Grant | None]:
        """Take the next run of a deferred step."""
        self._guard("resume")
        return await self._writer.submit(lambda: deferring.resume(self._state, command))

    async def sealed_args(self, step: str) -> bytes | None:
        """A committed step's sealed arguments, while it lives.

        Once this is None, `step` knows of the end too: the disk hears of it a moment before the memory does.
        """
        row = self._reader.execute(sealed_args.SELECT, (step,)).fetchone()
        if row is None:
            await self._writer.between(lambda: None)  # after what is at the disk now
            return None
        return cast("bytes", row[0])

    async def reserve(self, command: ReserveCommand) -> GrantRecord:
        """Reserve a credential: it is `issued` when this returns."""
        self._guard("reserve")
        return await self._writer.submit(lambda: granting.reserve(self._state, command))

    async def redeem(self, command: RedeemCommand) -> tuple[GrantRecord, StepRecord]:
        """Spend exactly once.

        The rule of a Refused(`replay`) says which: `repeat_same_call`, `lost_reply`, `replay_foreign`.
        """
        self._guard("redeem")
        return await self._writer.submit(lambda: granting.redeem(self._state, command))

    async def move(self, command: MoveCommand) -> Moved:
        """Wait, heartbeat, close."""
        return await self._writer.submit(lambda: moving.move(self._state, command))

    async def attend(self, command: AttendCommand) -> StepRecord:
        """The initiator asks about its step's task; its proof is spent."""
        return await self._writer.submit(lambda: attending.attend(self._state, command))

    async def mark(self, command: MarkCommand) -> Mark:
        """Durable and anchored before it returns.

        When the commit fails the mark stays in force in memory, is tried again at every sweep, and the
        caller gets Unavailable(rule="store") that says so.
        """
        if command.lift:
            stands = await self._vital(lambda: ruling.mark(self._state, command))
            await self._anchored()
            return stands
        return await self._set_mark(command)

    async def apply(self, command: VersionCommand) -> StoredVersion:
        """The next version, in force at once, with its marks; anchored."""
        version = await self._vital(lambda: ruling.apply(self._state, command))
        if command.marks:
            self._marked()
        await self._anchored()
        return version

    async def erase(self, command: EraseCommand) -> Erased:
        """Forget a transaction's salt and documents, on record."""
        return await self._writer.submit(lambda: erasing.erase(self._state, command))

    async def pin(self, pin: KeyPin) -> None:
        """The first key shown with a bearer document stays its only one."""
        await self._writer.submit(lambda: pinning.pin(self._state, pin))

    async def record(self, happening: Happening) -> None:
        """One entry; shed when many operations wait."""
        if self._writer.queued >= SHED_RECORDS_AT:
            raise Unavailable("unavailable", "records are shed: too many operations wait", rule="store")
        await self._writer.submit(lambda: ruling.record(self._state, happening))

    async def step(self, step: str) -> StepRecord | None:
        """A committed step."""
        held = self._state.steps.committed(step)
        if held is not None:
            return held.record
        row = self._reader.execute(SELECT_STEP, (step,)).fetchone()
        if row is None:
            return None
        txn = self._reader.execute(SELECT_TXN, (row[2],)).fetchone()
        if txn is None:
            return None
        return decode_step(row, decode_txn(txn, b"").intent).record

    async def past(self, txn: str) -> Past:
        """The committed steps of a transaction."""
        return committed_past(self._state, self._reader, txn)

    async def knows(self, txn: str) -> bool:
        """Whether the transaction is committed and not purged."""
        return self._reader.execute(SELECT_TXN, (txn,)).fetchone() is not None

    async def grant(self, grant: str) -> GrantRecord | None:
        """A committed grant."""
        held = self._state.grants.committed(grant)
        if held is not None:
            return held.record
        row = self._reader.execute(SELECT_GRANT, (grant,)).fetchone()
        return None if row is None else decode_grant(row).record

    async def version(self, kind: VersionKind, number: int | None = None) -> StoredVersion | None:
        """A version by number, or the last one."""
        if number is None:
            history = await self.history(kind)
            return history[-1] if history else None
        row = self._reader.execute(_VERSION, (kind, number)).fetchone()
        return None if row is None else version_of(row)

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """All versions, oldest first."""
        return [version_of(row) for row in self._reader.execute(_HISTORY, (kind,)).fetchall()]

    def marks(self) -> Mapping[str, Mark]:
        """The standing marks; a live view."""
        return MappingProxyType(self._state.marks)

    def tats(self) -> Mapping[str, float]:
        """The rate counters; a live view."""
        return MappingProxyType(self._state.tats)

    def outstanding(self) -> Mapping[str, int]:
        """The concurrency counters; a live view."""
        return MappingProxyType(self._state.live)

    def headroom(self) -> Headroom:
        """Bytes used, free and in the ledger."""
        disk = self._state.disk
        return Headroom(
            used=disk.used(),
            free=disk.free(),
            ledger=self._state.ledger_bytes,
            entries=self._state.log.size,
        )

    async def reap(self, now: float) -> Reaped:
        """One whole sweep, in small operations; first what is owed."""
        state = self._state
        for command in list(state.owed.values()):
            await self._set_mark(command)
        swept = reaping.nothing()
        for sweep in reaping.SWEEPS:
            more = True
            while more:
                done, more = await self._writer.submit(partial(sweep, state, now))
                swept = reaping.total(swept, done)
        swept = reaping.total(swept, await self.walk(now))
        reaping.prune_counters(state, now)
        state.disk.take_ballast()
        return swept

    async def walk(self, now: float) -> Reaped:
        """Follow new revocations down to all that they end."""
        state, swept = self._state, reaping.nothing()
        async with self._walking:
            place = await self._writer.submit(lambda: reaping.Walk.needed(state))
            while place is not None:
                chunk, place = await self._writer.submit(partial(place.chunk, state, now))
                swept = reaping.total(swept, chunk)
        return swept

    async def backup(self, path: str) -> None:
        """A consistent copy while serving, whole or not there. Raises Conflict when the name is taken."""
        await asyncio.get_running_loop().run_in_executor(None, copy_to, self._path, Path(path))

    async def between(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run blocking work of the wiring's on the writing connection, between transactions, off the loop.

        For what needs transactions of its own there, such as signing a checkpoint. It must leave none open.
        """
        return await self._writer.between(lambda: work(self._state.conn))

    async def within(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run work of the wiring's as one atomic operation, inside the group commit."""
        return await self._writer.submit(lambda: work(self._state.conn))

    async def close(self) -> None:
        """Finish what is queued and let go of the file."""
        await self._writer.close()
        self._reader.close()
        self._state.conn.close()
        self._lock.release()

    async def _set_mark(self, command: MarkCommand) -> Mark:
        """`owed` holds the command until it is durable, so that no failure in between forgets the mark."""
        state, target = self._state, command.mark.target
        if len(state.owed) >= OWED_MAX and target not in state.owed:
            raise Unavailable("unavailable", "too many marks wait to become durable", rule="store")
        state.owed[target] = command
        try:
            stands = await self._vital(lambda: ruling.mark(state, command))
        except Unavailable as doubt:
            if doubt.rule != "store":
                self._forget(command)
                raise
            state.marks[target] = stronger(state.marks.get(target), command.mark)
            self._ruled()
            raise Unavailable(
                "unavailable",
                "in force on this broker only; not durable",
                rule="store",
                retry_after=1.0,
                who_can_change_it="the operator",
            ) from doubt
        except Problem:
            self._forget(command)
            raise
        self._paid(command)
        if stands.verb == "revoke":
            self._marked()
        await self._anchored()
        return stands

    def _paid(self, command: MarkCommand) -> None:
        if self._state.owed.get(command.mark.target) is command:
            del self._state.owed[command.mark.target]

    def _forget(self, command: MarkCommand) -> None:
        """A refused mark leaves nothing, not even where a failing batch had put it in force early."""
        target, state = command.mark.target, self._state
        self._paid(command)
        is_durable = self._reader.execute(_IS_MARKED, (target,)).fetchone() is not None
        if not is_durable and state.marks.get(target) is command.mark:
            del state.marks[target]

    async def _vital(self, run: Callable[[], T]) -> T:
        done = await self._writer.submit(run, vital=True)
        self._ruled()
        return done

    async def _anchored(self) -> None:
        if self._anchor is not None:
            await self._anchor()
