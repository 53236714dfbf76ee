"""What breaks under the true engine: a broker stopped, a server killed or frozen, a copy put back.

Each negative case stands after the same thing succeeding.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.contracts.truth_suite import SHARDS, Change, mark, new, said, work
from tests.fakes.fleet_log import SmallLog
from tests.fleet.conftest import connected
from tests.rigs.postgres import postgres_server

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.postgres.truth import PostgresTruth, open_truth
from stepwrit_broker.store.fleet.seams import EpochOver, Numbered, RuleChange

pytestmark = pytest.mark.live


@asynccontextmanager
async def opened(dsn: str, **settings: float) -> AsyncIterator[PostgresTruth]:
    truth = await open_truth(Session(dsn=dsn, **settings), SmallLog(), SystemClock(), shards=SHARDS)
    try:
        yield truth
    finally:
        await truth.close()


async def bodies(dsn: str) -> list[bytes]:
    async with connected(dsn) as conn:
        return [row[0] for row in await conn.fetch("SELECT body FROM stepwrit.entries ORDER BY seq")]


class Paused:
    """tests/fleet/paused_committer.py as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def signal(self, which: signal.Signals) -> None:
        self.process.send_signal(which)


@asynccontextmanager
async def paused(dsn: str) -> AsyncIterator[Paused]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fleet.paused_committer", dsn, str(SHARDS),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        yield Paused(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_committer_that_is_not_stopped_commits(database):
    async with opened(database("postgres")) as truth, paused(database("postgres")) as other:
        assert await other.line() == "ready"
        other.go()
        assert [await other.line(), await other.line()] == ["holding", "committed"]
        assert await bodies(database("postgres")) == [b"paused"]
        assert await truth.transaction("txn_paused") is not None


async def test_a_committer_stopped_in_its_transaction_blocks_nobody_and_writes_nothing(database):
    dsn = database("postgres")
    async with opened(dsn) as truth, paused(dsn) as other:
        assert await other.line() == "ready"
        other.go()
        assert await other.line() == "holding"
        other.signal(signal.SIGSTOP)
        epoch = (await truth.standing()).epoch
        mine = work(new("txn_mine"), entries=(said("mine"),))
        await truth.commit(epoch, [(Numbered(1, 1, encode(mine)), mine)])  # the very number that it holds
        await truth.rule(RuleChange(put=(mark("tool:x"),)))
        other.signal(signal.SIGCONT)
        assert await other.line() == "Unavailable"
        other.go()  # it believes that it leads
        assert await other.line() == "Contradiction"
        await truth.next_epoch(epoch, "a" * 32)
        other.go()
        assert await other.line() == "EpochOver"
        assert await bodies(dsn) == [b"mine"]
        assert await truth.transaction("txn_paused") is None


async def test_the_epoch_moves_on_past_a_committer_that_is_stopped(database):
    dsn = database("postgres")
    async with opened(dsn) as truth, paused(dsn) as other:
        assert await other.line() == "ready"
        other.go()
        assert await other.line() == "holding"
        other.signal(signal.SIGSTOP)
        epoch = (await truth.standing()).epoch
        assert (await truth.next_epoch(epoch, "b" * 32)).epoch == "b" * 32
        other.signal(signal.SIGCONT)
        assert await other.line() == "Unavailable"
        other.go()
        assert await other.line() == "EpochOver"
        assert await bodies(dsn) == []


async def test_an_epoch_waits_for_a_commit_under_way_and_keeps_it(database):
    dsn = database("postgres")
    async with opened(dsn) as truth, paused(dsn) as other:
        assert await other.line() == "ready"
        epoch = (await truth.standing()).epoch
        other.go()
        assert await other.line() == "holding"
        await truth.next_epoch(epoch, "c" * 32)
        assert await other.line() == "committed"
        assert await bodies(dsn) == [b"paused"]
        with pytest.raises(EpochOver):
            await truth.positions(epoch)


async def test_what_was_acknowledged_outlives_kill_9_in_the_middle_of_commits():
    chance = random.Random(7)
    async with postgres_server() as server, opened(server.dsn, statement_s=5.0) as truth:
        epoch = (await truth.standing()).epoch
        acknowledged = 0

        async def carry() -> None:
            nonlocal acknowledged
            while True:
                first = (await truth.positions(epoch))[1] + 1
                batch = []
                for seq in range(first, first + chance.randint(1, 9)):
                    one = work(new(f"txn_{seq}"), entries=(said(str(seq)),), uses=(f"grt_{seq}",))
                    batch.append((Numbered(1, seq, encode(one)), one))
                await truth.commit(epoch, batch)
                acknowledged = batch[-1][0].seq

        for _ in range(6):
            before = acknowledged
            carrying = asyncio.create_task(carry())
            while acknowledged < before + 30 and not carrying.done():
                await asyncio.sleep(0)
            await asyncio.sleep(chance.random() * 0.02)
            assert not carrying.done(), carrying
            await server.kill()
            with pytest.raises(Unavailable):
                await carrying
            await server.start()
            at = (await truth.positions(epoch))[1]
            assert at >= acknowledged > before
            assert await bodies(server.dsn) == [str(seq).encode() for seq in range(1, at + 1)]
            async with connected(server.dsn) as conn:
                assert await conn.fetchval("SELECT count(*) FROM stepwrit.uses") == at


async def test_a_server_that_does_not_answer_is_doubt_and_then_serves_again():
    async with postgres_server() as server, opened(server.dsn, statement_s=0.5, connect_s=0.5) as truth:
        epoch = (await truth.standing()).epoch
        one = work(new("txn_1"))
        await truth.commit(epoch, [(Numbered(1, 1, encode(one)), one)])
        frozen = [server.process.pid, *server.backends()]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            for call in (truth.standing, truth.rules, lambda: truth.say([said("x")], [], [])):
                with pytest.raises(Unavailable, match="database"):
                    await call()
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        two = work(Change(txn="txn_1", version=1, put=()))
        for _ in range(50):
            try:
                await truth.commit(epoch, [(Numbered(1, 2, encode(two)), two)])
                break
            except Unavailable:
                await asyncio.sleep(0.1)
        assert (await truth.positions(epoch))[1] == 2


async def test_nobody_there_is_doubt_without_the_dsn_in_it():
    async with postgres_server() as server:
        dsn = server.dsn.replace("postgres@", "postgres:hunter2@")
        async with opened(dsn):
            pass
    with pytest.raises(Unavailable) as caught:
        await open_truth(Session(dsn=dsn), SmallLog(), SystemClock(), shards=SHARDS)
    assert "hunter2" not in f"{caught.value!r}{caught.value}{Session(dsn=dsn)!r}"


async def test_a_database_that_was_put_back_is_refused(database):
    async with opened(database("postgres")) as truth:
        first = await truth.standing()
        await truth.next_epoch(first.epoch, "a" * 32)
        await truth.rule(RuleChange(put=(mark("tool:x"),)))
        assert (await truth.standing()).order == 2
        async with connected(database("postgres")) as conn:
            await conn.execute("UPDATE stepwrit.fleet SET nth = 1, epoch = $1", first.epoch)
        with pytest.raises(Unavailable, match="older than it was"):
            await truth.standing()


async def test_works_that_were_put_back_are_missed(database):
    dsn = database("postgres")
    async with opened(dsn) as truth:
        epoch = (await truth.standing()).epoch
        one, two = work(new("txn_1")), work(new("txn_2"))
        await truth.commit(epoch, [(Numbered(1, 1, encode(one)), one)])
        await truth.commit(epoch, [(Numbered(1, 2, encode(two)), two)])
        assert (await truth.positions(epoch))[1] == 2
        async with connected(dsn) as conn:
            await conn.execute("UPDATE stepwrit.shards SET seq = 1 WHERE shard = 1")
        with pytest.raises(Unavailable, match="older than it was"):
            await truth.positions(epoch)
        with pytest.raises(Unavailable, match="older than it was"):
            await truth.next_epoch(epoch, "a" * 32)  # which would have hidden it
        async with connected(dsn) as conn:
            await conn.execute("UPDATE stepwrit.shards SET seq = 2 WHERE shard = 1")
        assert (await truth.next_epoch(epoch, "a" * 32)).order == 2


async def test_a_caller_that_gives_up_takes_no_other_along(database):
    async with opened(database("postgres")) as truth:
        epoch = (await truth.standing()).epoch
        calls = [asyncio.create_task(truth.say([said(str(n))], [], [])) for n in range(20)]
        await asyncio.sleep(0)
        calls[0].cancel()
        calls[7].cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [
            each for each in done if each is not None and not isinstance(each, asyncio.CancelledError)
        ] == []
        await truth.commit(epoch, [])
        told = {int(each) for each in await bodies(database("postgres"))}
        assert told >= set(range(20)) - {0, 7}


async def test_one_that_cannot_be_stored_fails_alone(database):
    async with opened(database("postgres")) as truth:
        words = [said(str(n)) for n in range(6)]
        words[3] = words[3]._replace(ref="a\0b")
        done = await asyncio.gather(*(truth.say([each], [], []) for each in words), return_exceptions=True)
        assert [getattr(each, "code", None) for each in done] == [None] * 3 + ["invalid_request"] + [None] * 2
        await truth.commit((await truth.standing()).epoch, [])
        assert sorted(await bodies(database("postgres"))) == [b"0", b"1", b"2", b"4", b"5"]
