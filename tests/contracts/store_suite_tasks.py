"""The contract of the Store port for requests about the task that a step became."""

from __future__ import annotations

import pytest
from tests.contracts.store_suite import OTHER, SERVER, House, code


class AttendContract:
    async def test_it_moves_nothing_and_tells_nothing(self, house: House) -> None:
        record = await house.accepted()
        before = house.entries()
        for changes in (False, True):
            assert await house.store.attend(house.make.attend(record, changes=changes)) == record
        assert await house.store.step(record.step.id) == record
        assert house.entries() == before

    async def test_a_proof_is_good_once_also_after_a_restart(self, house: House) -> None:
        record = await house.accepted()
        command = house.make.attend(record)
        await house.store.attend(command)
        assert await house.store.attend(command) == record  # the same operation is answered again
        other = house.make.attend(record, proofs=command.proofs)
        assert await code(house.store.attend(other)) == "replay"
        await house.reopen()
        assert await code(house.store.attend(other)) == "replay"
        await house.store.attend(house.make.attend(record))

    async def test_only_a_performer_asks(self, house: House) -> None:
        record = await house.accepted()
        assert await code(house.store.attend(house.make.attend(record, caller=OTHER))) == "wrong_workload"
        await house.store.attend(house.make.attend(record))

    async def test_a_step_that_ended_is_read_and_not_changed(self, house: House) -> None:
        record = await house.accepted()
        await house.store.attend(house.make.attend(record, changes=True))
        await house.store.move(house.make.move(record, "close"))
        assert (await house.store.attend(house.make.attend(record))).life.state == "done"
        assert await code(house.store.attend(house.make.attend(record, changes=True))) == "already_done"

    async def test_one_that_waits_is_both(self, house: House) -> None:
        record = await house.accepted()
        await house.store.move(house.make.move(record, "wait"))
        for changes in (False, True):
            got = await house.store.attend(house.make.attend(record, changes=changes))
            assert got.life.state == "waiting"

    async def test_one_that_nobody_took_has_no_task(self, house: House) -> None:
        record = await house.child()
        assert await code(house.store.attend(house.make.attend(record))) == "wrong_state"

    @pytest.mark.parametrize("above", ["step", "txn", "root", "initiator", "performer"])
    async def test_a_mark_on_anything_above_stops_it(self, house: House, above: str) -> None:
        record = await house.accepted()
        await house.store.attend(house.make.attend(record))
        await house.store.move(house.make.move(record, "close"))
        await house.store.attend(house.make.attend(record))
        own = record.step
        target = {
            "step": f"step:{own.id}",
            "txn": f"txn:{own.txn}",
            "root": f"step:{own.ancestors[0]}",
            "initiator": f"workload:{own.initiator}",
            "performer": f"workload:{SERVER}",
        }[above]
        await house.store.mark(house.make.mark(target))
        assert await code(house.store.attend(house.make.attend(record))) == "revoked"

    async def test_a_lost_worker_and_a_transaction_that_ran_out_leave_nothing(self, house: House) -> None:
        lost, done = await house.accepted(), await house.accepted()
        await house.store.move(house.make.move(done, "close"))
        await house.store.attend(house.make.attend(done))
        house.pass_time(61)
        assert await code(house.store.attend(house.make.attend(lost))) == "expired"
        await house.store.attend(house.make.attend(done))
        house.pass_time(86_400)
        assert await code(house.store.attend(house.make.attend(done))) in ("expired", "not_found")

    @pytest.mark.parametrize("outcome", ["failed", "cancelled"])
    async def test_an_intent_that_was_given_up_has_no_results(self, house: House, outcome: str) -> None:
        root = await house.root()
        record = await house.accepted(root)
        await house.store.move(house.make.move(record, "close"))
        await house.store.attend(house.make.attend(record))
        await house.store.move(house.make.move(root, "close", outcome=outcome, caller=root.life.performer))
        assert await code(house.store.attend(house.make.attend(record))) == "closed"
