"""When the file, the disk or a neighbour misbehaves: doubt refuses, and the brake still works."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.store_suite import code, refusal
from tests.fakes.build import SERVER
from tests.fakes.entropy import SeededEntropy
from tests.store.opened import Opened

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ports import Evidence, Happening
from stepwrit_broker.store import schema
from stepwrit_broker.store.start import open_store
from stepwrit_broker.store.writer import QUEUE_MAX, SHED_RECORDS_AT


def happening(opened: Opened) -> Happening:
    return Happening(
        kind="refused", ref=opened.make.ref(), tenant=None, txn=None, evidence=Evidence(), now=opened.make.now
    )


class TestTheFile:
    async def test_a_second_opener_is_told_who_has_it(self, opened: Opened) -> None:
        with pytest.raises(Unavailable) as caught:
            open_store(opened.path, log=SqliteLog(), entropy=SeededEntropy(1))
        assert caught.value.rule == "store lock"
        await opened.house.root()
        await opened.restart()  # closed, it can be opened again

    async def test_a_link_to_the_file_is_the_same_file(self, opened: Opened, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(opened.path)
        with pytest.raises(Unavailable, match="another process"):
            open_store(link, log=SqliteLog(), entropy=SeededEntropy(1))

    def test_a_place_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="lock"):
            open_store(tmp_path / "none" / "store.db", log=SqliteLog(), entropy=SeededEntropy(1))
        (tmp_path / "store.db").mkdir()
        with pytest.raises(Unavailable, match="the store's file"):
            open_store(tmp_path / "store.db", log=SqliteLog(), entropy=SeededEntropy(1))

    async def test_only_its_owner_reads_it(self, opened: Opened) -> None:
        await opened.house.root()
        for name in ("store.db", "store.db-wal", "store.db.lock", "store.db.ballast"):
            assert (opened.path.with_name(name).stat().st_mode & 0o777) == 0o600

    async def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        await open_store(path, log=SqliteLog(), entropy=SeededEntropy(1)).close()
        conn = sqlite3.connect(path)
        conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        conn.close()
        with pytest.raises(Unavailable, match="newer broker"):
            open_store(path, log=SqliteLog(), entropy=SeededEntropy(1))

    def test_the_previous_schema_is_brought_up_and_one_without_a_way_is_refused(self, tmp_path: Path) -> None:
        conn = schema.connect(tmp_path / "store.db")
        schema.prepare(conn, "", version=1, upgrades={})
        conn.execute("INSERT INTO meta (name, value) VALUES ('kept', 'yes')")
        with pytest.raises(Unavailable, match="no way from schema 1 to 2"):
            schema.prepare(conn, "", version=2, upgrades={})
        schema.prepare(conn, "", version=2, upgrades={2: "CREATE TABLE added (x);"})
        assert conn.execute("PRAGMA user_version").fetchone() == (2,)
        assert conn.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone() == ("yes",)
        conn.close()

    def test_a_failed_upgrade_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        conn = schema.connect(tmp_path / "store.db")
        schema.prepare(conn, "", version=1, upgrades={})
        with pytest.raises(Unavailable, match="tables"):
            schema.prepare(conn, "", version=2, upgrades={2: "CREATE TABLE added (x); NONSENSE;"})
        assert conn.execute("PRAGMA user_version").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'added'").fetchone() == (0,)
        conn.close()

    def test_another_applications_database_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        conn = sqlite3.connect(path)
        conn.execute("CREATE TABLE theirs (x)")
        conn.commit()
        conn.close()
        with pytest.raises(Unavailable, match="another application"):
            open_store(path, log=SqliteLog(), entropy=SeededEntropy(1))

    def test_what_is_no_database_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        path.write_bytes(b"not a database, but long enough to be looked at" * 100)
        with pytest.raises(Unavailable, match="the store's file"):
            open_store(path, log=SqliteLog(), entropy=SeededEntropy(1))

    async def test_a_check_finds_a_broken_page(self, opened: Opened, tmp_path: Path) -> None:
        for _ in range(50):
            await opened.house.root()
        copy = tmp_path / "copy.db"
        await opened.store.backup(str(copy))
        assert schema.check(copy) == []
        raw = bytearray(copy.read_bytes())
        raw[4096 * 3 : 4096 * 4] = b"\x5a" * 4096
        copy.write_bytes(raw)
        assert schema.check(copy) != []

    async def test_a_copy_that_cannot_be_written_says_where_and_as_whom(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        await opened.store.backup(str(tmp_path / "copy.db"))
        nowhere = tmp_path / "none" / "copy.db"
        with pytest.raises(
            Unavailable, match=f"none/copy.db: .*; the broker writes it, as uid {os.geteuid()}"
        ):
            await opened.store.backup(str(nowhere))

    async def test_a_copy_opens_as_a_store(self, opened: Opened, tmp_path: Path) -> None:
        root = await opened.house.root()
        copy = tmp_path / "copy.db"
        await opened.store.backup(str(copy))
        store = open_store(copy, log=SqliteLog(), entropy=SeededEntropy(9))
        assert await store.step(root.step.id) == root
        await store.close()

    async def test_a_foreign_writer_is_noticed(self, opened: Opened) -> None:
        await opened.house.root()
        conn = sqlite3.connect(opened.path)
        conn.execute("INSERT INTO marks VALUES ('everything:all', 'freeze', 'r', 'b', 0, 'REF0000000', 0)")
        conn.commit()
        conn.close()
        assert (await refusal(opened.house.root())).rule == "store"
        assert await code(opened.house.root()) == "frozen"  # and what it wrote is taken up


class TestFailedCommits:
    async def test_a_failed_commit_refuses_its_batch_and_changes_nothing(self, opened: Opened) -> None:
        house = opened.house
        record = await house.accepted()
        tats, held = dict(opened.store.tats()), dict(opened.store.outstanding())
        size = opened.store.headroom().entries
        grant = opened.make.grant(record)
        with opened.failing_writes():
            refused = await refusal(opened.store.reserve(opened.make.reserve(grant)))
        assert (refused.code, refused.rule) == ("unavailable", "store")
        assert (dict(opened.store.tats()), dict(opened.store.outstanding())) == (tats, held)
        assert opened.store.headroom().entries == size
        assert await opened.store.grant(grant.id) is None
        await opened.store.reserve(opened.make.reserve(grant))  # the store goes on once it can
        assert opened.store.headroom().entries == size + 1

    async def test_a_failed_redeem_is_repeated_with_its_operation(self, opened: Opened) -> None:
        grant = await opened.house.issued()
        command = opened.make.redeem(grant)
        with opened.failing_writes():
            assert await code(opened.store.redeem(command)) == "unavailable"
        record, _ = await opened.store.redeem(command)
        assert record.state == "redeemed"

    async def test_a_mark_whose_commit_failed_stays_in_force_and_is_made_good(self, opened: Opened) -> None:
        house = opened.house
        await house.accepted()
        command = opened.make.mark(f"workload:{SERVER}")
        with opened.failing_writes():
            refused = await refusal(opened.store.mark(command))
            assert await code(opened.store.reap(opened.make.now)) == "unavailable"
        assert refused.reason == "in force on this broker only; not durable"
        assert opened.store.owed == 1
        assert await code(house.accepted()) == "revoked"
        assert opened.query("SELECT count(*) FROM marks") == [(0,)]
        await opened.store.reap(opened.make.now)
        assert opened.store.owed == 0
        assert opened.query("SELECT target, verb FROM marks") == [(f"workload:{SERVER}", "revoke")]
        assert await opened.store.mark(command) == command.mark

    @pytest.mark.parametrize("is_same", [True, False])
    async def test_a_mark_whose_commit_failed_is_durable_once_another_try_is_acknowledged(
        self, opened: Opened, *, is_same: bool
    ) -> None:
        command = opened.make.mark(f"workload:{SERVER}")
        with opened.failing_writes():
            assert await code(opened.store.mark(command)) == "unavailable"
        again = replace(command, mark=replace(command.mark, at=opened.make.now + 1))
        other = opened.make.mark(f"workload:{SERVER}")
        if not is_same:  # somebody who would yield to it makes it durable too
            other = replace(other, yields=True, mark=replace(other.mark, by="somebody else"))
        assert (await opened.store.mark(again if is_same else other)).verb == "revoke"
        assert opened.query("SELECT target, verb FROM marks") == [(f"workload:{SERVER}", "revoke")]
        assert opened.store.owed == 0

    async def test_a_mark_survives_the_failure_of_the_batch_it_shares(self, opened: Opened) -> None:
        house = opened.house
        record = await house.accepted()
        with opened.failing_writes():
            stop = opened.store.mark(opened.make.mark(f"step:{record.step.id}"))
            await asyncio.gather(stop, house.root(), return_exceptions=True)
        assert await code(house.issued(record)) == "revoked"

    async def test_a_freeze_is_not_lifted_by_a_failed_commit(self, opened: Opened) -> None:
        await opened.store.mark(opened.make.mark(f"workload:{SERVER}", "freeze"))
        with opened.failing_writes():
            lift = opened.store.mark(opened.make.mark(f"workload:{SERVER}", "freeze", lift=True))
            assert await code(lift) == "unavailable"
        assert await code(opened.house.accepted()) == "frozen"

    async def test_a_version_is_not_in_force_by_a_failed_commit(self, opened: Opened) -> None:
        with opened.failing_writes():
            assert await code(opened.store.apply(opened.make.version())) == "unavailable"
        await opened.house.root()  # decided on version 0, which still is the one in force

    async def test_a_fault_in_one_operation_is_its_own(self, opened: Opened) -> None:
        def broken(_: object) -> None:
            raise ZeroDivisionError

        good = opened.house.root()
        bad = opened.store.within(broken)
        record, error = await asyncio.gather(good, bad, return_exceptions=True)
        assert isinstance(error, ZeroDivisionError)
        assert not isinstance(record, BaseException)
        assert await opened.store.step(record.step.id) == record

    async def test_work_that_leaves_a_transaction_open_is_rolled_back(self, opened: Opened) -> None:
        def careless(conn: sqlite3.Connection) -> None:
            conn.execute("BEGIN")
            conn.execute("INSERT INTO meta (name, value) VALUES ('left', 1)")

        await opened.store.between(careless)
        await opened.house.root()
        assert opened.query("SELECT count(*) FROM meta WHERE name = 'left'") == [(0,)]

    async def test_a_record_of_a_taken_name_is_refused_alone(self, opened: Opened) -> None:
        root = await opened.house.root()
        again = opened.make.open(root.step)
        assert await code(opened.store.open(again)) == "wrong_state"
        await opened.house.root()


class TestRoom:
    async def test_with_little_room_only_marks_and_ends_are_taken(self, opened: Opened) -> None:
        house = opened.house
        record = await house.accepted()
        grant = await house.issued(record)
        opened.free = 1000
        house.pass_time(2)
        assert (await refusal(house.root())).rule == "disk"
        assert (await refusal(house.issued(record))).rule == "disk"
        await opened.store.redeem(opened.make.redeem(grant))
        await opened.store.move(opened.make.move(record, "close"))
        await opened.store.mark(opened.make.mark("everything:all", "freeze"))
        opened.free = 10**12
        house.pass_time(2)
        await opened.store.mark(opened.make.mark("everything:all", "freeze", lift=True))
        await house.root()

    async def test_a_mark_throws_the_ballast_off_when_nothing_else_helps(self, opened: Opened) -> None:
        ballast = opened.path.with_name("store.db.ballast")
        assert ballast.stat().st_size == 1 << 20
        with opened.failing_writes():
            assert await code(opened.house.root()) == "unavailable"
            assert ballast.exists()
            assert await code(opened.store.mark(opened.make.mark("everything:all"))) == "unavailable"
        assert not ballast.exists()
        await opened.store.reap(opened.make.now)
        assert ballast.exists()

    async def test_headroom_counts_bytes_and_entries(self, opened: Opened) -> None:
        before = opened.store.headroom()
        await opened.house.root()
        after = opened.store.headroom()
        assert (after.entries, after.free) == (before.entries + 1, 10**12)
        assert after.ledger > before.ledger
        assert after.used > 0

    async def test_records_are_shed_before_anything_else(self, opened: Opened) -> None:
        await opened.store.record(happening(opened))
        waiting = [asyncio.ensure_future(opened.house.root()) for _ in range(SHED_RECORDS_AT)]
        await asyncio.sleep(0)
        assert await code(opened.store.record(happening(opened))) == "unavailable"
        await asyncio.gather(*waiting)
        await opened.store.record(happening(opened))

    async def test_a_full_queue_refuses_all_but_marks(self, opened: Opened) -> None:
        command = opened.make.open(opened.make.root_step())
        waiting = [asyncio.ensure_future(opened.store.open(command)) for _ in range(QUEUE_MAX)]
        await asyncio.sleep(0)
        assert await code(opened.house.root()) == "unavailable"
        mark = opened.store.mark(opened.make.mark("tool:mail/send"))
        for future in waiting:
            future.cancel()
        await mark
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_cancelled_caller_costs_no_write(self, opened: Opened) -> None:
        waiting = asyncio.ensure_future(opened.house.root())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await opened.house.root()
        assert opened.query("SELECT count(*) FROM txns") == [(1,)]


class TestAnchor:
    async def test_marks_and_versions_wait_for_the_anchor_and_nothing_else_does(self, opened: Opened) -> None:
        sizes: list[int] = []

        async def anchor() -> None:
            sizes.append(opened.store.headroom().entries)

        opened.store.set_anchor(anchor)
        await opened.house.accepted()
        assert sizes == []
        await opened.store.mark(opened.make.mark("tool:mail/send", "freeze"))
        await opened.store.apply(opened.make.version())
        await opened.store.mark(opened.make.mark("tool:mail/send", "freeze", lift=True))
        assert sizes == [4, 5, 6]  # the entry is committed when the anchor is asked

    async def test_a_mark_is_not_acknowledged_without_its_anchor(self, opened: Opened) -> None:
        async def broken() -> None:
            raise Unavailable("unavailable", "the anchor's disk", rule="anchor")

        opened.store.set_anchor(broken)
        command = opened.make.mark("everything:all")
        assert (await refusal(opened.store.mark(command))).rule == "anchor"
        assert await code(opened.house.root()) == "revoked"

    async def test_after_close_nothing_is_taken(self, opened: Opened) -> None:
        await opened.house.root()
        await opened.store.close()
        assert await code(opened.house.root()) == "unavailable"
        opened.start()
