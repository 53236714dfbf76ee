"""The contract of `Swift`: every MUST once, for every engine.

A test module makes a class of it and names a fixture `swift`: an engine of SHARDS shards with nothing begun.
Each negative case stands after the same call succeeding, so that it fails for the reason it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.ids import RANDOM_BYTES, make_id
from stepwrit_broker.core.limits import RateLimit
from stepwrit_broker.core.slices import Ask, Taken, question
from stepwrit_broker.store.fleet.seams import (
    Absent,
    Change,
    EpochOver,
    Once,
    Place,
    Row,
    Snapshot,
    Stale,
    Swift,
    Told,
    Unchanged,
)

SHARDS = 4
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32
NOW = 1_800_000_000.0
EVERY = range(SHARDS)
AFTER = dict.fromkeys(EVERY, 0)


def txn(shard: int, name: int = 0) -> str:
    return make_id("txn", f"{shard:02x}", name.to_bytes(RANDOM_BYTES, "big"))


def row(name: str, order: int = 0, value: bytes = b"value") -> Row:
    return Row(f"steps:{name}", order, value)


def change(name: str, version: int = 0, *put: Row, drop: tuple[str, ...] = ()) -> Change:
    return Change(txn=name, version=version, put=put or (row("a"),), drop=drop)


def limit(count: int = 10, period_s: float = 10.0, burst: int = 5) -> RateLimit:
    return RateLimit(
        name="each", on="steps", per=("workload",), match=(), count=count, period_s=period_s, burst=burst
    )


def ask(now: float, each: RateLimit | None = None, wanted: int = 1, since: float = 0.0) -> Ask:
    return question(each or limit(), wanted, since, now)


async def commit(swift: Swift, *changes: Change, epoch: str = ONE, now: float = NOW, rules: int = 0) -> int:
    return await swift.commit(epoch, int(changes[0].txn[5:7], 16), changes, b"work", now=now, rules=rules)


async def is_over(swift: Swift) -> bool:
    """Whether the epoch ended; False too while nobody answers."""
    try:
        await commit(swift, change(txn(0), 1))
    except Unavailable:
        return False
    except EpochOver:
        return True
    return False


async def held(swift: Swift, name: str, epoch: str = ONE) -> Snapshot:
    found = await swift.fetch(epoch, name, 0)
    assert isinstance(found, Snapshot)
    return found


async def evictions(swift: Swift, name: str) -> int:
    found = await swift.fetch(ONE, name, 0)
    assert isinstance(found, Absent)
    return found.evictions


class SwiftSuite:
    """Every MUST of the protocol that needs no server to die."""

    @pytest.fixture
    async def began(self, swift: Swift) -> Swift:
        await swift.begin(ONE, 1)
        return swift

    # --- epochs

    async def test_nothing_is_done_in_an_epoch_that_has_not_begun(self, swift: Swift) -> None:
        with pytest.raises(EpochOver):
            await commit(swift, change(txn(0)))
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1

    async def test_who_joins_begins_nothing(self, swift: Swift) -> None:
        with pytest.raises(EpochOver):
            await swift.join(ONE)
        await swift.begin(ONE, 1)
        assert await commit(swift, change(txn(0))) == 1
        await swift.join(ONE)
        assert (await held(swift, txn(0))).version == 1
        with pytest.raises(EpochOver):
            await swift.join(TWO)
        assert await commit(swift, change(txn(0), 1)) == 2

    async def test_begin_again_keeps_what_is_there(self, began: Swift) -> None:
        await commit(began, change(txn(1)))
        await began.begin(ONE, 1)
        assert (await held(began, txn(1))).version == 1

    async def test_a_new_epoch_has_nothing_in_it(self, began: Swift) -> None:
        await commit(began, change(txn(1)), now=NOW + 100)
        await began.rule(ONE, 7)
        await began.begin(TWO, 2)
        assert isinstance(await began.fetch(TWO, txn(1), 0), Absent)
        assert await began.read(TWO, AFTER, 0) == []
        assert await commit(began, change(txn(1)), epoch=TWO) == 1

    async def test_an_epoch_that_is_over_does_not_come_back(self, began: Swift) -> None:
        await began.begin(TWO, 2)
        with pytest.raises(EpochOver):
            await began.begin(ONE, 1)
        await began.begin(TWO, 2)
        await began.begin(THREE, 3)
        for over in (ONE, TWO):
            with pytest.raises(EpochOver):
                await began.begin(over, 4)

    async def test_an_epoch_that_never_began_here_is_told_by_its_place(self, swift: Swift) -> None:
        """A broker that was paused before its `begin` was sent, while others went on."""
        await swift.begin(TWO, 2)
        assert await commit(swift, change(txn(1)), epoch=TWO) == 1
        with pytest.raises(EpochOver):
            await swift.begin(ONE, 1)
        assert (await held(swift, txn(1), TWO)).version == 1
        with pytest.raises(EpochOver):
            await commit(swift, change(txn(2)))
        await swift.begin(TWO, 2)
        await swift.begin(THREE, 3)
        assert await commit(swift, change(txn(1)), epoch=THREE) == 1

    async def test_every_call_of_an_epoch_that_is_over_says_so_and_changes_nothing(
        self, began: Swift
    ) -> None:
        proof, place = Once(b"k" * 16, "me", NOW + 60), Place("p", "me", 1, NOW + 60)
        await commit(began, change(txn(0)))
        assert await began.claim(ONE, [proof, place], NOW) == ["me", "me"]
        await began.begin(TWO, 2)
        calls = [
            commit(began, change(txn(0))),
            began.fetch(ONE, txn(0), 0),
            began.hold(ONE, Snapshot(txn=txn(0), version=1, seq=0, rows=(row("a"),)), 0),
            began.evict(ONE, txn(0), 1),
            began.claim(ONE, [proof], NOW),
            began.claim(ONE, [place], NOW),
            began.release(ONE, [proof]),
            began.lease(ONE, "key", ask(NOW)),
            began.give_back(ONE, "key", NOW, 1, 1.0),
            began.rule(ONE, 3),
            began.trim(ONE, {0: 1}),
            began.backlog(ONE, 0),
        ]
        for call in calls:
            with pytest.raises(EpochOver):
                await call
        assert isinstance(await began.fetch(TWO, txn(0), 0), Absent)
        assert await began.backlog(TWO, 0) == 0
        assert await commit(began, change(txn(0)), epoch=TWO) == 1  # no rule of 3 stands
        other = [Once(proof.key, "you", NOW + 60), Place("p", "you", 1, NOW + 60)]
        assert await began.claim(TWO, other, NOW) == ["you", "you"]

    async def test_whoever_reads_a_stream_of_an_epoch_that_is_over_hears_it(self, began: Swift) -> None:
        assert await began.read(ONE, AFTER, 0) == []
        await began.begin(TWO, 2)
        with pytest.raises(EpochOver):
            await began.read(ONE, AFTER, 0)

    # --- commits

    async def test_a_commit_is_what_is_fetched(self, began: Swift) -> None:
        rows = (row("b", 3, bytes(range(256))), row("a", 2**40, b""), row("c", 1))
        assert await commit(began, change(txn(2), 0, *rows)) == 1
        found = await held(began, txn(2))
        assert (found.txn, found.version, found.seq) == (txn(2), 1, 1)
        assert sorted(found.rows) == sorted(rows)

    async def test_a_change_puts_and_drops(self, began: Swift) -> None:
        await commit(began, change(txn(2), 0, row("a", 1), row("b", 2), row("c", 3)))
        put = (row("b", 2, b"new"), row("d", 4))
        assert await commit(began, change(txn(2), 1, *put, drop=("steps:a", "steps:none"))) == 2
        found = await held(began, txn(2))
        assert (found.version, found.seq) == (2, 2)
        assert sorted(found.rows) == [row("b", 2, b"new"), row("c", 3), row("d", 4)]

    async def test_a_transaction_of_many_rows(self, began: Swift) -> None:
        rows = tuple(row(str(at), at) for at in range(5_000))
        await commit(began, change(txn(2), 0, *rows))
        assert sorted((await held(began, txn(2))).rows) == sorted(rows)
        await commit(began, change(txn(2), 1, row("0"), drop=tuple(each.field for each in rows[1:])))
        assert (await held(began, txn(2))).rows == (row("0"),)

    async def test_the_known_version_is_not_sent_again(self, began: Swift) -> None:
        await commit(began, change(txn(2)))
        assert await began.fetch(ONE, txn(2), 1) == Unchanged(seq=1)
        await commit(began, change(txn(2), 1))
        assert isinstance(await began.fetch(ONE, txn(2), 1), Snapshot)

    async def test_numbers_follow_each_other_in_each_shard(self, began: Swift) -> None:
        for at in range(3):
            assert await commit(began, change(txn(0, at))) == at + 1
        assert await commit(began, change(txn(1))) == 1

    @pytest.mark.parametrize("version", [0, 2])
    async def test_a_plan_on_another_version_changes_nothing(self, began: Swift, version: int) -> None:
        await commit(began, change(txn(0)))
        with pytest.raises(Stale) as stale:
            await commit(began, change(txn(0), version, row("new")))
        assert stale.value.what == "version"
        assert (await held(began, txn(0))).rows == (row("a"),)
        assert await began.backlog(ONE, 0) == 1
        assert await commit(began, change(txn(0), 1)) == 2

    async def test_of_several_changes_one_stale_one_stops_all(self, began: Swift) -> None:
        assert await commit(began, change(txn(0, 1)), change(txn(0, 2))) == 1
        with pytest.raises(Stale) as stale:
            await commit(began, change(txn(0, 1), 1), change(txn(0, 2), 2))
        assert stale.value.what == "version"
        assert (await held(began, txn(0, 1))).version == 1
        assert await commit(began, change(txn(0, 1), 1), change(txn(0, 2), 1)) == 2
        assert (await held(began, txn(0, 2))).version == 2

    async def test_of_two_commits_on_one_version_one_wins(self, began: Swift) -> None:
        await commit(began, change(txn(0)))
        tries = [commit(began, change(txn(0), 1, row("a", 0, b"%d" % at))) for at in range(16)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, Stale)] == [2]
        assert await began.backlog(ONE, 0) == 2

    async def test_rules_that_are_lower_than_those_in_force(self, began: Swift) -> None:
        await began.rule(ONE, 5)
        assert await commit(began, change(txn(3, 1)), rules=5) == 1
        assert await commit(began, change(txn(3, 2)), rules=6) == 2
        for shard in EVERY:
            with pytest.raises(Stale) as stale:
                await commit(began, change(txn(shard)), rules=4)
            assert stale.value.what == "rules"
            assert isinstance(await began.fetch(ONE, txn(shard), 0), Absent)

    async def test_rules_do_not_go_back(self, began: Swift) -> None:
        await began.rule(ONE, 5)
        await began.rule(ONE, 4)
        with pytest.raises(Stale):
            await commit(began, change(txn(0)), rules=4)
        await began.rule(ONE, 10)
        with pytest.raises(Stale):
            await commit(began, change(txn(0)), rules=9)

    async def test_a_rule_names_the_last_work_that_each_shard_took_before_it(self, began: Swift) -> None:
        assert await began.rule(ONE, 1) == dict.fromkeys(EVERY, 0)
        await commit(began, change(txn(1)), rules=1)
        await commit(began, change(txn(1), 1), rules=1)
        await commit(began, change(txn(3)), rules=1)
        assert await began.rule(ONE, 2) == {0: 0, 1: 2, 2: 0, 3: 1}
        await began.trim(ONE, {1: 2})
        assert (await began.rule(ONE, 2))[1] == 2, "also what is forgotten since"

    async def test_time_does_not_go_back(self, began: Swift) -> None:
        await commit(began, change(txn(0)), now=NOW)
        assert await commit(began, change(txn(0), 1), now=NOW - 0.25) == 2
        with pytest.raises(Stale) as stale:
            await commit(began, change(txn(0), 2), now=NOW - 0.26)
        assert (stale.value.what, stale.value.high) == ("time", NOW)
        assert (await held(began, txn(0))).version == 2
        assert await commit(began, change(txn(1)), now=NOW - 100) == 1  # each shard has its own

    async def test_a_high_water_time_comes_back_to_the_bit(self, began: Swift) -> None:
        high = NOW + 1 / 3
        await commit(began, change(txn(0)), now=high)
        with pytest.raises(Stale) as stale:
            await commit(began, change(txn(0), 1), now=NOW - 1)
        assert stale.value.high == high

    # --- held and evicted

    async def test_what_the_truth_has_is_held(self, began: Swift) -> None:
        snapshot = Snapshot(txn=txn(1), version=9, seq=0, rows=(row("a", 1), row("b", 2)))
        await began.hold(ONE, snapshot, await evictions(began, txn(1)))
        assert await held(began, txn(1)) == snapshot
        assert await commit(began, change(txn(1), 9)) == 1

    async def test_what_is_held_is_not_replaced(self, began: Swift) -> None:
        known = await evictions(began, txn(1))
        await commit(began, change(txn(1)))
        await began.hold(ONE, Snapshot(txn=txn(1), version=9, seq=0, rows=(row("x"),)), known)
        assert (await held(began, txn(1))).version == 1

    async def test_only_the_version_that_is_held_is_evicted(self, began: Swift) -> None:
        await commit(began, change(txn(1)))
        assert await began.evict(ONE, txn(1), 2) is False
        assert (await held(began, txn(1))).version == 1
        assert await began.evict(ONE, txn(1), 1) is True
        assert await evictions(began, txn(1)) == 1
        assert await began.evict(ONE, txn(1), 1) is False

    async def test_what_was_evicted_meanwhile_is_not_held_as_it_was_before(self, began: Swift) -> None:
        old = Snapshot(txn=txn(1), version=1, seq=0, rows=(row("a"),))
        known = await evictions(began, txn(1))
        await began.hold(ONE, old, known)  # another broker
        await commit(began, change(txn(1), 1))
        assert await began.evict(ONE, txn(1), 2)
        with pytest.raises(Stale) as stale:
            await began.hold(ONE, old, known)
        assert stale.value.what == "held"
        assert await evictions(began, txn(1)) == 1
        await began.hold(ONE, Snapshot(txn=txn(1), version=2, seq=0, rows=(row("a"),)), 1)
        assert (await held(began, txn(1))).version == 2

    async def test_a_plan_on_what_was_evicted_is_stale(self, began: Swift) -> None:
        await commit(began, change(txn(1)))
        await began.evict(ONE, txn(1), 1)
        with pytest.raises(Stale):
            await commit(began, change(txn(1), 1))

    # --- claims

    async def test_the_first_value_stands(self, began: Swift) -> None:
        key = b"k" * 16
        assert await began.claim(ONE, [Once(key, "me", NOW + 60)], NOW) == ["me"]
        assert await began.claim(ONE, [Once(key, "you", NOW + 60)], NOW + 1) == ["me"]
        assert await began.claim(ONE, [Once(key, "me", NOW + 60)], NOW + 2) == ["me"]  # a repeat
        assert await began.claim(ONE, [Once(b"l" * 16, "you", NOW + 60)], NOW) == ["you"]

    async def test_a_value_stands_until_the_latest_time_that_its_holder_gave(self, began: Swift) -> None:
        key = b"k" * 16
        await began.claim(ONE, [Once(key, "me", NOW + 60)], NOW)
        await began.claim(ONE, [Once(key, "me", NOW + 30)], NOW)
        assert await began.claim(ONE, [Once(key, "you", NOW + 200)], NOW + 59.5) == ["me"]
        await began.claim(ONE, [Once(key, "me", NOW + 90)], NOW + 59.5)
        assert await began.claim(ONE, [Once(key, "you", NOW + 200)], NOW + 89.5) == ["me"]
        assert await began.claim(ONE, [Once(key, "you", NOW + 200)], NOW + 91) == ["you"]

    async def test_a_value_is_not_forgotten_by_other_keys(self, began: Swift) -> None:
        keys = [at.to_bytes(16, "big") for at in range(100)]
        await began.claim(ONE, [Once(key, "me", NOW + 60) for key in keys], NOW)
        await began.claim(ONE, [Once(key + b"", "me", NOW + 60) for key in keys], NOW + 59)
        assert await began.claim(ONE, [Once(key, "you", NOW + 60) for key in keys], NOW + 59) == ["me"] * 100

    async def test_of_many_at_once_one_has_it(self, began: Swift) -> None:
        tries = [began.claim(ONE, [Once(b"k" * 16, str(at), NOW + 60)], NOW) for at in range(16)]
        assert len({end[0] for end in await asyncio.gather(*tries)}) == 1

    async def test_only_the_very_value_is_released(self, began: Swift) -> None:
        key = b"k" * 16
        await began.claim(ONE, [Once(key, "me", NOW + 60)], NOW)
        await began.release(ONE, [Once(key, "you", NOW + 60)])
        assert await began.claim(ONE, [Once(key, "you", NOW + 60)], NOW) == ["me"]
        await began.release(ONE, [Once(key, "me", NOW + 60)])
        assert await began.claim(ONE, [Once(key, "you", NOW + 60)], NOW) == ["you"]

    async def test_places_are_as_many_as_there_are(self, began: Swift) -> None:
        def place(member: str, key: str = "p", until: float = NOW + 60) -> Place:
            return Place(key, member, 2, until)

        assert await began.claim(ONE, [place("a"), place("b"), place("c", "q")], NOW) == ["a", "b", "c"]
        assert await began.claim(ONE, [place("c")], NOW) == [None]
        assert await began.claim(ONE, [place("a")], NOW) == ["a"]  # a repeat takes no second place
        await began.release(ONE, [place("c"), place("a", "q")])  # nobody's
        assert await began.claim(ONE, [place("c")], NOW) == [None]
        await began.release(ONE, [place("b")])
        await began.release(ONE, [place("b")])
        assert await began.claim(ONE, [place("c"), place("d")], NOW) == ["c", None]

    async def test_a_place_is_free_again_after_its_time(self, began: Swift) -> None:
        assert await began.claim(ONE, [Place("p", "a", 1, NOW + 60)], NOW) == ["a"]
        assert await began.claim(ONE, [Place("p", "b", 1, NOW + 99)], NOW + 59.5) == [None]
        assert await began.claim(ONE, [Place("p", "b", 1, NOW + 99)], NOW + 61) == ["b"]
        assert await began.claim(ONE, [Place("p", "a", 1, NOW + 99)], NOW + 62) == [None]

    async def test_many_places_that_ran_out_make_room(self, began: Swift) -> None:
        took = [Place("p", str(at), 250, NOW + 60) for at in range(250)]
        assert None not in await began.claim(ONE, took, NOW)
        assert await began.claim(ONE, [Place("p", "x", 250, NOW + 99)], NOW) == [None]
        assert await began.claim(ONE, [Place("p", "x", 250, NOW + 99)], NOW + 61) == ["x"]
        again = [Place("p", str(at), 250, NOW + 99) for at in range(250)]
        assert (await began.claim(ONE, again, NOW + 61)).count(None) == 1

    async def test_names_that_look_alike_are_not(self, began: Swift) -> None:
        assert await began.claim(ONE, [Place("p", "qa", 1, NOW + 9)], NOW) == ["qa"]
        assert await began.claim(ONE, [Place("pq", "a", 1, NOW + 9)], NOW) == ["a"]

    # --- leases

    async def test_cells_are_leased_up_to_the_burst(self, began: Swift) -> None:
        got = [await began.lease(ONE, "key", ask(NOW, limit(burst=5))) for _ in range(6)]
        assert [each.cells for each in got] == [1, 1, 1, 1, 1, 0]
        assert got[-1].retry_after == pytest.approx(1.0)
        assert (await began.lease(ONE, "other", ask(NOW, limit(burst=5)))).cells == 1

    async def test_no_cell_is_had_before_its_time(self, began: Swift) -> None:
        while (await began.lease(ONE, "key", ask(NOW, limit()))).cells:
            pass
        assert (await began.lease(ONE, "key", ask(NOW + 0.9, limit()))).cells == 0
        assert (await began.lease(ONE, "key", ask(NOW + 1.0, limit()))).cells == 1

    async def test_one_bucket_for_all(self, began: Swift) -> None:
        tries = [began.lease(ONE, "key", ask(NOW, limit(burst=8))) for _ in range(32)]
        got: list[Taken] = await asyncio.gather(*tries)
        assert sum(each.cells for each in got) == 8

    async def test_a_clock_that_went_back_gets_no_second_burst(self, began: Swift) -> None:
        while (await began.lease(ONE, "key", ask(NOW, limit()))).cells:
            pass
        assert (await began.lease(ONE, "key", ask(NOW - 1000, limit()))).cells == 0
        assert (await began.lease(ONE, "key", ask(NOW + 0.5, limit()))).cells == 0

    async def test_cells_taken_ahead_count_from_the_end_of_their_life(self, began: Swift) -> None:
        each = limit(count=100, period_s=10.0, burst=40)
        first = await began.lease(ONE, "key", ask(NOW, each, 5))
        assert (first.cells, first.tat) == (5, NOW + 0.5 + 0.5)
        second = await began.lease(ONE, "key", ask(NOW, each, 5))
        assert (second.cells, second.tat) == (5, pytest.approx(NOW + 1.5))

    async def test_cells_are_given_back_while_nothing_else_moved(self, began: Swift) -> None:
        taken = [await began.lease(ONE, "key", ask(NOW, limit(burst=2))) for _ in range(3)]
        assert [each.cells for each in taken] == [1, 1, 0]
        await began.give_back(ONE, "key", taken[0].tat, 1, 1.0)  # the second moved it
        assert (await began.lease(ONE, "key", ask(NOW, limit(burst=2)))).cells == 0
        await began.give_back(ONE, "key", taken[1].tat, 1, 1.0)
        assert (await began.lease(ONE, "key", ask(NOW, limit(burst=2)))).cells == 1
        await began.give_back(ONE, "none", NOW, 1, 1.0)

    async def test_a_new_epochs_bucket_begins_empty(self, began: Swift) -> None:
        assert (await began.lease(ONE, "key", ask(NOW, since=NOW))).cells == 0
        assert (await began.lease(ONE, "key", ask(NOW + 1, since=NOW))).cells == 1
        assert (await began.lease(ONE, "key", ask(NOW + 1, since=NOW))).cells == 0

    async def test_a_clock_that_ran_ahead_empties_no_other_bucket(self, began: Swift) -> None:
        while (await began.lease(ONE, "key", ask(NOW))).cells:
            pass
        for at in range(50):
            assert (await began.lease(ONE, f"key{at}", ask(NOW + 10**9))).cells == 1
        assert (await began.lease(ONE, "key", ask(NOW))).cells == 0

    # --- streams

    async def test_a_stream_has_all_works_in_order(self, began: Swift) -> None:
        for at in range(3):
            await began.commit(ONE, 0, [change(txn(0, at))], b"%d" % at, now=NOW, rules=0)
        await began.commit(ONE, 3, [change(txn(3))], bytes(range(256)), now=NOW, rules=0)
        works = await began.read(ONE, {}, 0)
        assert works == await began.read(ONE, AFTER, 0)
        assert [(each.seq, each.work) for each in works if each.shard == 0] == [
            (1, b"0"),
            (2, b"1"),
            (3, b"2"),
        ]
        assert [(each.seq, each.work) for each in works if each.shard == 3] == [(1, bytes(range(256)))]
        assert [each.seq for each in await began.read(ONE, {**AFTER, 0: 2}, 0) if each.shard == 0] == [3]

    async def test_a_reader_waits_for_the_first(self, began: Swift) -> None:
        reading = asyncio.create_task(began.read(ONE, AFTER, 60.0))
        await asyncio.sleep(0.05)
        await commit(began, change(txn(2)))
        assert [(each.shard, each.seq) for each in await reading] == [(2, 1)]

    async def test_what_is_trimmed_is_gone_and_numbers_go_on(self, began: Swift) -> None:
        for at in range(3):
            await commit(began, change(txn(0, at)))
        assert await began.backlog(ONE, 0) == 3
        await began.trim(ONE, {0: 2})
        assert await began.backlog(ONE, 0) == 1
        assert [each.seq for each in await began.read(ONE, AFTER, 0)] == [3]
        await began.trim(ONE, {0: 3})
        await began.trim(ONE, {0: 1})
        assert await began.backlog(ONE, 0) == 0
        assert await commit(began, change(txn(0, 9))) == 4

    # --- telling

    async def test_those_who_listen_are_told(self, swift: Swift) -> None:
        message = Told("durable", b"\0\xff body")

        async def tell() -> None:
            while True:
                await swift.tell(message)
                await asyncio.sleep(0.01)

        telling = asyncio.create_task(tell())
        listening: AsyncIterator[Told] = swift.listen()
        async with aclosing(listening):  # type: ignore[type-var]
            assert await anext(listening) == message
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
