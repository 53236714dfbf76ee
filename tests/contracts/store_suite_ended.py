"""The Store port's contract about ends: a cascade leaves nothing below, and who runs a step is told of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.store_suite import OTHER, House, code
from tests.fakes.build import SERVER

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.step import FINAL, StepRecord
from stepwrit_broker.ports_ended import Ended

Parents = list[int]
Stop = Literal["revoke", "close"]
trees = st.lists(st.integers(min_value=0, max_value=11), min_size=1, max_size=12).map(
    lambda picks: [pick % (at + 1) for at, pick in enumerate(picks)]
)


@dataclass
class Tree:
    """A transaction: `steps[0]` is its root, `parents[n]` the place of the parent of `steps[n + 1]`."""

    steps: list[StepRecord]
    parents: Parents

    def below(self, at: int) -> set[int]:
        """The place itself and all under it."""
        found = {at}
        for child, parent in enumerate(self.parents, start=1):
            if parent in found:
                found.add(child)
        return found


async def grown(house: House, parents: Parents) -> Tree:
    """Every step accepted, each with a credential in hand."""
    steps = [await house.root()]
    for parent in parents:
        above = steps[parent]
        more = {} if parent == 0 else {"initiator": SERVER}
        steps.append(await house.accepted(above, **more))
    return Tree(steps=steps, parents=parents)


def cascades() -> Callable[[EndedContract, Parents, int, Stop], None]:
    """A test over any tree; each store's class makes its own (Hypothesis wants one class for one test)."""

    @settings(max_examples=25, deadline=None)
    @given(
        parents=trees, pick=st.integers(min_value=0, max_value=12), how=st.sampled_from(["revoke", "close"])
    )
    def test(self: EndedContract, parents: Parents, pick: int, how: Stop) -> None:
        async def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                async with type(self).fresh(Path(folder)) as house:
                    await _cascade(house, parents, pick % (len(parents) + 1), how)

        asyncio.run(run())

    return test


class EndedContract:
    """A store's test gives `fresh`: a house of its own for each example."""

    fresh: Callable[[Path], AbstractAsyncContextManager[House]]

    async def test_who_runs_a_step_is_told_of_its_end_once_it_is_durable(self, house: House) -> None:
        told = heard(house)
        mine, also = await house.accepted(), await house.accepted()
        await house.store.mark(house.make.mark(f"txn:{mine.step.txn}"))
        assert told == []
        await house.store.reap(house.now)
        assert [(each.step, each.performer, each.state) for each in told] == [
            (mine.step.id, SERVER, "revoked")
        ]
        entry = next(each for each in house.entries() if each.get("outcome") == "revoked")
        assert told[0].ref == entry["ref"]
        await house.store.reap(house.now)
        await house.store.mark(house.make.mark(f"workload:{SERVER}"))
        await house.store.reap(house.now)
        assert [each.step for each in told] == [mine.step.id, also.step.id]

    async def test_what_ends_with_its_parent_or_by_its_clock_is_told_its_own_close_is_not(
        self, house: House
    ) -> None:
        told = heard(house)
        parent = await house.accepted()
        child = await house.accepted(parent, initiator=SERVER)
        await house.child(parent, initiator=SERVER)  # opened by nobody yet: nobody runs it
        await house.store.move(house.make.move(parent, "close"))
        assert [(each.step, each.state) for each in told] == [(child.step.id, "cancelled")]
        lost = await house.accepted()
        house.pass_time(61)
        await house.store.reap(house.now)
        assert (told[-1].step, told[-1].state) == (lost.step.id, "expired")

    async def test_a_refused_end_and_a_waiting_step_tell_nobody(self, house: House) -> None:
        told = heard(house)
        record = await house.accepted()
        assert (
            await code(house.store.move(house.make.move(record, "close", caller=OTHER))) == "wrong_workload"
        )
        waiting = (await house.store.move(house.make.move(record, "wait"))).record
        await house.store.mark(house.make.mark(f"step:{waiting.step.id}"))
        await house.store.reap(house.now)
        found = await house.store.step(record.step.id)
        assert found is not None
        assert (found.life.state, told) == ("revoked", [])

    async def test_a_walk_goes_through_as_many_steps_and_transactions_as_there_are(
        self, house: House
    ) -> None:
        told = heard(house)
        for _ in range(3):
            above = await house.accepted()
            await asyncio.gather(*(house.accepted(above, initiator=SERVER) for _ in range(90)))
            await house.store.mark(house.make.mark(f"step:{above.step.id}"))
        untouched = await house.accepted()
        await house.store.reap(house.now)
        assert len({each.step for each in told}) == len(told) == 3 * 91
        assert untouched.step.id not in {each.step for each in told}


def heard(house: House) -> list[Ended]:
    """What is told from now on."""
    told: list[Ended] = []
    house.store.heed(ended=told.extend, marked=lambda: None)
    return told


async def _cascade(house: House, parents: Parents, at: int, how: Stop) -> None:
    tree = await grown(house, parents)
    credentials = {place: await house.issued(step) for place, step in enumerate(tree.steps) if place > 0}
    gone, stop = tree.below(at), tree.steps[at]
    if how == "revoke":
        await house.store.mark(house.make.mark(f"step:{stop.step.id}"))
    else:
        await house.store.move(house.make.move(stop, "close"))
    # in force: before anything was walked, nothing below opens, beats, reserves or redeems
    for place, step in enumerate(tree.steps):
        ended = place in gone
        again = house.make.child_step(step, **({} if place == 0 else {"initiator": SERVER}))
        assert (await refused(house.store.open(house.make.open(again)))) is ended
        if place == 0:
            continue
        late = house.make.grant(step, plan_line=1)
        assert (await refused(house.store.reserve(house.make.reserve(late)))) is ended
        assert (await refused(house.store.redeem(house.make.redeem(credentials[place])))) is ended
        assert (await refused(house.store.move(house.make.move(step, "heartbeat")))) is ended
    await house.store.reap(house.now)
    for place, step in enumerate(tree.steps):
        found = await house.store.step(step.step.id)
        assert found is not None
        assert (found.life.state in FINAL) is (place in gone), (place, found.life.state)
    closed = {entry["step"] for entry in house.entries() if entry["kind"] in ("step.closed", "step.expired")}
    assert closed >= {tree.steps[place].step.id for place in gone}


async def refused(call: Awaitable[object]) -> bool:
    """Whether a call is refused, as one of what has ended is."""
    try:
        await call
    except Problem as no:
        if no.code not in ("revoked", "closed", "already_done"):
            raise
        return True
    return False
