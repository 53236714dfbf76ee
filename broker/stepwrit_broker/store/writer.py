"""Group commit: operations queue up, a batch is one transaction, nobody hears of it before COMMIT.

Operations run on the event loop's thread, each inside its savepoint; only COMMIT, which waits for the disk,
runs in a thread of its own while the next batch gathers. One connection, so one batch at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.store.state import State

T = TypeVar("T")
BATCH_MAX: Final = 64
QUEUE_MAX: Final = 8192
SHED_RECORDS_AT: Final = 512
_OWN_FAULT: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)


def store_failed() -> Unavailable:
    """The error for a write of which nobody knows whether it landed."""
    return Unavailable(
        "unavailable", "the store could not write; repeat the same operation", rule="store", retry_after=1.0
    )


@dataclass(slots=True, eq=False)
class _Item(Generic[T]):
    """One queued operation. vital: when its batch fails it is tried once more, alone."""

    run: Callable[[], T]
    future: asyncio.Future[T]
    vital: bool
    again: bool = False
    result: T | None = None
    error: Exception | None = None


class Writer:
    """The queue, the batches and the one committing thread."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._conn = state.conn
        self._first: deque[_Item[object]] = deque()
        self._queue: deque[_Item[object]] = deque()
        self._between: deque[_Item[object]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stepwrit-commit")
        self._busy = False
        self._doubt = False
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._data_version: int | None = None

    @property
    def queued(self) -> int:
        """How many operations wait."""
        return len(self._queue)

    def submit(self, run: Callable[[], T], *, vital: bool = False) -> asyncio.Future[T]:
        """Queue an operation; its future resolves once it is durable. Vital ones go first.

        Raises Unavailable when the store is closed, or the queue is full (never for vital ones).
        """
        if self._closed:
            raise Unavailable("unavailable", "the store is closed", rule="store")
        if len(self._queue) >= QUEUE_MAX and not vital:
            raise Unavailable("unavailable", "too many operations wait", rule="store", retry_after=1.0)
        item = _Item(run, asyncio.get_running_loop().create_future(), vital)
        queued = cast("_Item[object]", item)
        (self._first if vital else self._queue).append(queued)
        self._wake()
        return item.future

    def between(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run blocking work that needs the connection outside any transaction, in the committing thread."""
        if self._closed:
            raise Unavailable("unavailable", "the store is closed", rule="store")
        item = _Item(work, asyncio.get_running_loop().create_future(), vital=False)
        self._between.append(cast("_Item[object]", item))
        self._wake()
        return item.future

    async def close(self) -> None:
        """Finish what is queued, take nothing more."""
        self._closed = True
        while self._busy:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._thread.shutdown()

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """One batch, or one piece of work between batches."""
        loop = asyncio.get_running_loop()
        if self._between:
            work = self._between.popleft()
            loop.run_in_executor(self._thread, work.run).add_done_callback(lambda f: self._worked(work, f))
            return
        batch = self._take()
        if not batch:
            self._busy = False
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            return
        try:
            self._run(batch)
        except (sqlite3.Error, Unavailable) as error:
            self._fail(batch, error)
            loop.call_soon(self._turn)
            return
        commit = loop.run_in_executor(self._thread, self._conn.execute, "COMMIT")
        commit.add_done_callback(lambda f: self._landed(batch, f))

    def _take(self) -> list[_Item[object]]:
        batch: list[_Item[object]] = []
        if self._first and self._first[0].again:  # alone: the others may be what did not fit
            return [self._first.popleft()]
        while (self._first or self._queue) and len(batch) < BATCH_MAX:
            item = (self._first or self._queue).popleft()
            if not item.future.cancelled():
                batch.append(item)
        return batch

    def _run(self, batch: list[_Item[object]]) -> None:
        """The verbs check first and write last, so a refused one hardly ever leaves something to take back:

        the batch runs without savepoints, and once more with them when one does.
        """
        if self._doubt:
            self._recover()
        log_at = self._state.log.position()
        if not self._tried(batch, self._bare):
            self._conn.execute("ROLLBACK")
            self._state.log.rewind(log_at)
            self._state.journal.rewind(0)
            self._tried(batch, self._one)
        self._state.save_time()
        self._state.log.seal(self._conn)

    def _tried(self, batch: list[_Item[object]], one: Callable[[_Item[object]], bool]) -> bool:
        self._conn.execute("BEGIN IMMEDIATE")
        self._check_alone()
        return all(one(item) for item in batch)

    def _bare(self, item: _Item[object]) -> bool:
        """One operation without a savepoint; False when it wrote before it failed."""
        log, journal = self._state.log, self._state.journal
        log_at, journal_at, changes = log.position(), journal.position(), self._conn.total_changes
        self._do(item)
        if item.error is None:
            return True
        log.rewind(log_at)
        journal.rewind(journal_at)
        return self._conn.total_changes == changes

    def _do(self, item: _Item[object]) -> None:
        """Run it; its fault is its own, the disk's is everybody's."""
        item.result, item.error = None, None
        try:
            item.result = item.run()
        except _OWN_FAULT:
            item.error = Conflict("wrong_state", "the store has another record of that name")
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is this operation's alone
            item.error = error

    def _check_alone(self) -> None:
        """The lock is advisory: a foreign writer shows in the data version, and then no mirror holds."""
        found: int = self._conn.execute("PRAGMA data_version").fetchone()[0]
        if self._data_version is not None and found != self._data_version:
            self._data_version = None
            raise Unavailable("unavailable", "another process wrote to the store's file", rule="store")
        self._data_version = found

    def _one(self, item: _Item[object]) -> bool:
        """One operation inside its savepoint."""
        conn, log, journal = self._conn, self._state.log, self._state.journal
        conn.execute("SAVEPOINT op")
        log_at, journal_at = log.position(), journal.position()
        self._do(item)
        if item.error is not None:
            conn.execute("ROLLBACK TO op")
            log.rewind(log_at)
            journal.rewind(journal_at)
        conn.execute("RELEASE op")
        return True

    def _landed(self, batch: list[_Item[object]], commit: asyncio.Future[sqlite3.Cursor]) -> None:
        error = commit.exception()
        if isinstance(error, Exception):
            self._fail(batch, error)
        else:
            self._state.log.committed()
            self._state.settle()
            for item in batch:
                _resolve(item)
        self._turn()

    def _worked(self, work: _Item[object], done: asyncio.Future[object]) -> None:
        error = done.exception()
        if isinstance(error, Exception):
            work.error = error
        else:
            work.result = done.result()
        self._doubt = self._doubt or self._conn.in_transaction  # it left one open: roll back, read again
        _resolve(work)
        self._turn()

    def _fail(self, batch: list[_Item[object]], error: Exception) -> None:
        """Nothing of the batch stands. Vital operations get the ballast's room and one more try each."""
        self._doubt = True
        with contextlib.suppress(sqlite3.Error, Unavailable):
            self._recover()  # else it stays in doubt: the next batch tries again before it does anything
        again = [item for item in batch if item.vital and not item.again]
        if isinstance(error, sqlite3.OperationalError) and again:
            self._state.disk.drop_ballast()
        for item in reversed(again):
            item.again = True
            self._first.appendleft(item)
        for item in batch:
            if item not in again:
                item.error = store_failed()
                _resolve(item)

    def _recover(self) -> None:
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")
        self._state.abort()
        self._state.log.aborted(self._conn)
        self._doubt = False


def _resolve(item: _Item[object]) -> None:
    if item.future.done():
        return
    if item.error is not None:
        item.future.set_exception(item.error)
    else:
        item.future.set_result(item.result)
