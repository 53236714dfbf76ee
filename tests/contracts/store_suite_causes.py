"""The contract of the Store port for roots that another step caused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.contracts.store_suite import House, code
from tests.fakes import build

from stepwrit_broker.core.step import Step, StepRecord


def caused(house: House, cause: str, **changes: Any) -> Step:
    """A trigger's root that names its cause."""
    root = house.make.root_step(origin="server", **changes)
    return replace(root, intent=replace(root.intent, requester=None, owner="team", cause=cause))


async def start(house: House, cause: str, **changes: Any) -> StepRecord:
    return await house.store.open(house.make.open(caused(house, cause, **changes)))


class CauseContract:
    async def test_a_caused_root_is_read_back_equal_after_a_restart(self, house: House) -> None:
        cause = await house.accepted()
        record = await start(house, cause.step.id)
        assert (record.step.intent.cause, record.step.intent.cause_txn) == (cause.step.id, cause.step.txn)
        await house.reopen()
        assert await house.store.step(record.step.id) == record

    async def test_both_stories_tell_of_it(self, house: House) -> None:
        cause = await house.accepted()
        record = await start(house, cause.step.id)
        (told,) = [entry for entry in house.entries() if entry["kind"] == "step.caused"]
        assert (told["step"], told["txn"], told["ref"]) == (cause.step.id, cause.step.txn, cause.step.ref)
        assert (told["caused"], told["caused_txn"]) == (record.step.id, record.step.txn)
        (own,) = [entry for entry in house.entries() if entry.get("cause")]
        assert (own["cause"], own["cause_txn"]) == (cause.step.id, cause.step.txn)

    async def test_a_step_that_ended_may_have_caused_it(self, house: House) -> None:
        cause = await house.accepted()
        await house.store.move(house.make.move(cause, "close"))
        assert (await start(house, cause.step.id)).life.state == "accepted"

    async def test_a_cause_that_is_not_there_or_nobody_performed_is_none(self, house: House) -> None:
        cause, opened = await house.accepted(), await house.child()
        await start(house, cause.step.id)
        before = house.entries()
        assert await code(start(house, "stp_100" + "0" * 26)) == "not_found"
        assert await code(start(house, opened.step.id)) == "not_found"
        assert await code(start(house, cause.step.id, tenant="other")) == "not_found"
        assert house.entries() == before

    @pytest.mark.parametrize("above", ["step", "parent", "root", "txn", "workload", "requester", "key"])
    async def test_what_stops_the_cause_stops_what_it_caused(self, house: House, above: str) -> None:
        root = await house.root()
        parent = await house.accepted(root)
        cause = await house.accepted(parent)
        begun = await start(house, cause.step.id)
        below = await house.accepted(begun)
        await house.issued(below)
        target = {
            "step": f"step:{cause.step.id}",
            "parent": f"step:{parent.step.id}",
            "root": f"step:{root.step.id}",
            "txn": f"txn:{root.step.txn}",
            "workload": f"workload:{root.step.initiator}",
            "requester": "requester:per_1",
            "key": f"key:{root.step.initiator_jkt}",
        }[above]
        await house.store.mark(house.make.mark(target))
        assert await code(house.child(begun)) == "revoked"
        assert await code(house.issued(below)) == "revoked"
        assert await code(start(house, cause.step.id)) == "revoked"
        await house.store.reap(house.now)
        for each in (begun, below):
            found = await house.store.step(each.step.id)
            assert found is not None
            assert found.life.state == "revoked"

    async def test_marks_reach_along_causes_of_causes(self, house: House) -> None:
        first = await house.accepted()
        second = await house.accepted(await start(house, first.step.id))
        third = await start(house, second.step.id)
        await house.reopen()
        await house.store.mark(house.make.mark(f"step:{first.step.id}"))
        assert await code(house.child(third)) == "revoked"

    async def test_a_freeze_of_the_cause_is_lifted_with_it(self, house: House) -> None:
        cause = await house.accepted()
        begun, target = await start(house, cause.step.id), f"step:{cause.step.id}"
        await house.store.mark(house.make.mark(target, "freeze"))
        assert await code(house.child(begun)) == "frozen"
        await house.store.mark(house.make.mark(target, "freeze", lift=True))
        await house.child(begun)

    async def test_nothing_comes_of_a_step_that_was_revoked(self, house: House) -> None:
        cause = await house.accepted()
        await start(house, cause.step.id)
        await house.store.mark(house.make.mark(f"step:{cause.step.id}"))
        await house.store.reap(house.now)
        assert await code(start(house, cause.step.id)) == "revoked"

    async def test_depth_goes_on_along_a_ring_of_events(self, house: House) -> None:
        cause, depths = await house.accepted(), [8]
        for _ in range(3):
            begun = await start(house, cause.step.id)
            depths.append(begun.step.intent.depth_max)
            cause = await house.accepted(begun)
        assert depths == [8, 6, 4, 2]
        assert await code(start(house, cause.step.id)) == "limit"

    async def test_the_budget_is_what_the_causes_transaction_has_left(self, house: House) -> None:
        root = house.make.root_step()
        bounded = replace(root, intent=replace(root.intent, steps_max=3, server_steps_max=2))
        record = await house.store.open(house.make.open(bounded))
        cause = await house.accepted(record)
        begun = (await start(house, cause.step.id)).step.intent
        assert (begun.steps_max, begun.server_steps_max) == (2, 2)
        await house.child(record)
        await house.child(record)
        assert await code(start(house, cause.step.id)) == "limit"

    async def test_the_causes_fan_out_counts_what_it_caused(self, house: House) -> None:
        cause = await house.accepted()
        house.store.use(build.limits(fan_out=2), lambda: 0)
        await start(house, cause.step.id)
        await house.child(cause)
        assert await code(start(house, cause.step.id)) == "limit"
        assert await code(house.child(cause)) == "limit"

    async def test_a_refused_event_leaves_no_trace(self, house: House) -> None:
        cause = await house.accepted()
        house.store.use(build.limits(fan_out=1), lambda: 0)
        command = house.make.open(caused(house, cause.step.id))
        spent = replace(command, proofs=(*command.proofs, *command.proofs))
        before = house.entries()
        assert await code(house.store.open(spent)) == "replay"
        assert house.entries() == before
        await house.store.open(command)  # the fan-out of one was not used up
