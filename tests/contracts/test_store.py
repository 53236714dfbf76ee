"""The embedded store keeps the Store port's contract."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contracts import store_suite_ended, store_suite_rules, store_suites
from tests.contracts.store_suite import Beside, Entry, House
from tests.fakes import build
from tests.fakes.entropy import SeededEntropy

from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store


class Embedded:
    """One database file, opened again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entropy = SeededEntropy(3)
        self.store = self._open()

    def _open(self) -> SqliteStore:
        store = open_store(self.path, log=SqliteLog(), entropy=self.entropy)
        store.use(build.limits(), lambda: 0)
        return store

    async def restart(self) -> SqliteStore:
        await self.store.close()
        self.store = self._open()
        return self.store

    def entries(self) -> list[Entry]:
        conn = sqlite3.connect(self.path)
        try:
            return [json.loads(row[0]) for row in conn.execute("SELECT body FROM entries ORDER BY seq")]
        finally:
            conn.close()

    def beside(self, name: str) -> Beside:
        conn = sqlite3.connect(self.path)
        try:
            salt = conn.execute("SELECT salt FROM salts WHERE txn = ?", (name,)).fetchone() or (None,)
            docs = conn.execute("SELECT doc FROM decisions WHERE txn = ?", (name,)).fetchall()
        finally:
            conn.close()
        return Beside(salt[0], tuple(row[0] for row in docs))


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[House]:
    embedded = Embedded(folder / "store.db")
    try:
        yield House(
            store=embedded.store, entries=embedded.entries, restart=embedded.restart, beside=embedded.beside
        )
    finally:
        await embedded.store.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as house:
        yield house


globals().update(store_suites.tests())


class TestEnded(store_suite_ended.EndedContract):
    fresh = staticmethod(opened)
    test_nothing_below_an_end_does_anything_and_everything_else_does = store_suite_ended.cascades()


class TestCopy(store_suite_rules.CopyContract):
    pass
