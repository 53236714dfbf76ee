"""The mirrors in memory: taken back exactly, bounded, and never ahead of what readers may see."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import build
from tests.store.opened import Opened

from stepwrit_broker.core.limits import Charge, ConcurrencyLimit
from stepwrit_broker.store.memory import Journal, Shelf

changes = st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 3))), max_size=20)


def apply(journal: Journal, table: dict[str, int], wanted: list[tuple[str, int | None]]) -> None:
    for key, value in wanted:
        if value is None:
            journal.drop(table, key)
        else:
            journal.set(table, key, value)


@given(kept=changes, undone=changes)
def test_a_rewind_puts_back_exactly_what_was(
    kept: list[tuple[str, int | None]], undone: list[tuple[str, int | None]]
) -> None:
    journal, table = Journal(), {"a": 1}
    apply(journal, table, kept)
    before, position = dict(table), journal.position()
    apply(journal, table, undone)
    journal.rewind(position)
    assert table == before
    journal.rewind(0)
    assert table == {"a": 1}


def test_readers_see_a_record_only_once_it_is_committed() -> None:
    journal = Journal()
    shelf: Shelf[int] = Shelf(journal, 10)
    shelf.put("a", 1)
    assert (shelf.newest("a"), shelf.committed("a")) == (1, None)
    shelf.settle()
    journal.clear()
    assert (shelf.newest("a"), shelf.committed("a")) == (1, 1)
    shelf.put("a", 2)
    shelf.forget("a")
    assert (shelf.newest("a"), shelf.committed("a")) == (None, 1)
    shelf.fetched("a", 3)
    assert shelf.committed("a") == 1  # what this batch wrote is not committed by reading it
    journal.rewind(0)
    assert shelf.newest("a") == 1


def test_a_shelf_holds_no_more_than_its_limit() -> None:
    shelf: Shelf[int] = Shelf(Journal(), 3)
    for at in range(10):
        shelf.put(str(at), at)
        shelf.settle()
    assert len(shelf) == 3
    assert shelf.committed("9") == 9


async def test_after_work_is_done_and_swept_nothing_is_held(opened: Opened) -> None:
    house, state = opened.house, opened.store._state
    most = ConcurrencyLimit(name="live", per=("workload",), match=(), most=10)
    opened.store.use(replace(build.limits(), concurrency=(most,)), lambda: 0)
    root = await house.root(expires_at=house.now + 300)

    async def one(at: int) -> None:
        record = await house.accepted(root)
        grant = opened.make.grant(record)
        charge = Charge(on="credentials", values={"workload": f"w{at}"})
        await opened.store.reserve(opened.make.reserve(grant, charge=charge))
        if at % 2:
            await opened.store.redeem(opened.make.redeem(grant))
        if at % 3:
            await opened.store.move(opened.make.move(record, "close"))

    await asyncio.gather(*(one(at) for at in range(300)))
    assert len(opened.store.tats()) > 300
    for _ in range(3):
        house.pass_time(4000)
        await opened.store.reap(house.now)
    held = (
        state.steps,
        state.grants,
        state.txns,
        state.tats,
        state.live,
        state.held,
        state.marks,
        state.owed,
    )
    assert [len(table) for table in held] == [0] * 8
    counts = [
        opened.query(f"SELECT count(*) FROM {name}") for name in ("steps", "grants", "ops", "proofs", "txns")
    ]
    assert counts == [[(0,)]] * 5


async def test_arguments_are_not_gone_before_their_step_has_ended(opened: Opened) -> None:
    """The disk has the end a moment before the memory does; whoever reads both then is told one thing."""
    root = await opened.house.root()
    record = await opened.store.open(opened.make.deferred(root))
    assert await opened.store.sealed_args(record.step.id) == b"sealed"
    closing = asyncio.ensure_future(opened.store.move(opened.make.move(root, "close", outcome="cancelled")))
    for _ in range(3):  # the batch runs, and its COMMIT is handed to the thread
        await asyncio.sleep(0)
    while opened.query("SELECT 1 FROM sealed_args"):
        time.sleep(0.001)
    assert not closing.done()
    assert await opened.store.sealed_args(record.step.id) is None
    found = await opened.store.step(record.step.id)
    assert found is not None
    assert found.life.state == "cancelled"
    await closing
