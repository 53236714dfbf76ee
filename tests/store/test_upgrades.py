"""A file of the release before is brought up as it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.fakes import build
from tests.fakes.build import Maker
from tests.fakes.clock import START
from tests.fakes.entropy import SeededEntropy

from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store


def opened(path: Path, seed: int) -> SqliteStore:
    store = open_store(path, log=SqliteLog(), entropy=SeededEntropy(seed))
    store.use(build.limits(), lambda: 0)
    return store


async def test_from_3_what_is_deferred_keeps_its_arguments(tmp_path: Path) -> None:
    path, make = tmp_path / "store.db", Maker(now=START)
    before = opened(path, 1)
    root = await before.open(make.open(make.root_step()))
    await before.close()
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(
            "DROP TABLE sealed_args; ALTER TABLE steps DROP COLUMN awaits; PRAGMA user_version = 3;"
        )
    after = opened(path, 2)
    record = await after.open(make.deferred(root))
    assert await after.step(root.step.id) is not None
    assert await after.sealed_args(record.step.id) == b"sealed"
    await after.close()
