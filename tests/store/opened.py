"""A store on a real file and the ways to hurt it: real write errors, a full disk, a slow anchor."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.contracts.store_suite import House
from tests.fakes import build
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy

from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.disk import Disk
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store


class Opened:
    """The store, a maker of commands, and a house for the common steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.free = 10**12
        self.entropy = SeededEntropy(5)
        self.start()
        self.make = build.Maker(now=START, epoch=self.store.epoch)
        self.house = House(store=self.store, entries=list, restart=self.restart, make=self.make)

    def start(self) -> SqliteStore:
        disk = Disk(self.path, ballast=1 << 20, free=lambda: self.free)
        self.store = open_store(self.path, log=SqliteLog(), entropy=self.entropy, disk=disk)
        self.store.use(build.limits(), lambda: 0)
        return self.store

    async def restart(self) -> SqliteStore:
        await self.store.close()
        return self.start()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        conn = sqlite3.connect(self.path)
        try:
            return conn.execute(sql).fetchall()
        finally:
            conn.close()

    @contextlib.contextmanager
    def failing_writes(self) -> Iterator[None]:
        """Every write that would lengthen a file fails (EFBIG), as on a full or broken disk."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
