"""The contract of the Store port for deferred steps: kept sealed, resumed once at a time, ended with all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.contracts.store_suite import OTHER, House, code, refusal
from tests.fakes import build
from tests.fakes.build import AGENT, SERVER

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.step import StepRecord

WORKERS = "spiffe://example.test/mcp/*"
SECOND = "spiffe://example.test/mcp/second"


async def deferred(house: House, parent: StepRecord | None = None, **changes: Any) -> StepRecord:
    above = parent if parent is not None else await house.root(expires_at=house.now + 7200)
    return await house.store.open(house.make.deferred(above, **changes))


async def resumed(house: House, record: StepRecord, **changes: Any) -> StepRecord:
    return (await house.store.resume(house.make.resume(record, **changes)))[0]


async def state_of(house: House, record: StepRecord) -> str:
    found = await house.store.step(record.step.id)
    assert found is not None
    return found.life.state


class DeferredContract:
    async def test_hours_later_a_worker_takes_it_and_it_is_told(self, house: House) -> None:
        record = await deferred(house)
        house.pass_time(7100)
        taken = await resumed(house, record)
        assert (taken.life.state, taken.life.round, taken.life.performer) == ("accepted", 1, SERVER)
        assert await house.store.step(record.step.id) == taken
        told = house.entries()[-1]
        assert (told["kind"], told["round"], told["performer"]) == ("step.resumed", 1, SERVER)
        assert told["svid"] == "03"

    async def test_the_arguments_are_kept_until_its_end_and_not_longer(self, house: House) -> None:
        record, other = await deferred(house), await house.child()
        assert await house.store.sealed_args(record.step.id) == b"sealed"
        assert await house.store.sealed_args(other.step.id) is None
        await house.reopen()
        taken = await resumed(house, record)
        assert await house.store.sealed_args(record.step.id) == b"sealed"
        await house.store.move(house.make.move(taken, "close"))
        assert await house.store.sealed_args(record.step.id) is None

    @pytest.mark.parametrize("end", ["time", "revoked", "cancelled"])
    async def test_they_are_erased_however_it_ends(self, house: House, end: str) -> None:
        root = await house.root(expires_at=house.now + 7200)
        record = await deferred(house, root)
        assert await house.store.sealed_args(record.step.id) == b"sealed"
        if end == "time":
            house.pass_time(7200)
        elif end == "revoked":
            await house.store.mark(house.make.mark(f"step:{root.step.id}"))
        else:
            await house.store.move(house.make.move(root, "close", outcome="cancelled"))
        await house.store.reap(house.now)
        assert await house.store.sealed_args(record.step.id) is None

    async def test_a_lost_reply_is_repeated_and_another_try_is_a_replay(self, house: House) -> None:
        record = await deferred(house)
        command = house.make.resume(record)
        first = await house.store.resume(command)
        assert await house.store.resume(command) == first
        await house.reopen()
        assert await house.store.resume(command) == first
        house.pass_time(10)
        again = await refusal(house.store.resume(house.make.resume(record)))
        assert (again.code, again.rule, again.retry_after) == ("replay", "round", 50)
        assert house.kinds().count("step.resumed") == 1

    async def test_of_many_workers_at_once_one_gets_it(self, house: House) -> None:
        record = await deferred(house, performer=WORKERS)
        tries = [
            house.store.resume(house.make.resume(record, caller=worker))
            for worker in (SERVER, SECOND)
            for _ in range(16)
        ]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        wins = [answer for answer in answers if not isinstance(answer, BaseException)]
        losses = [answer for answer in answers if isinstance(answer, Refused)]
        assert (len(wins), len(losses)) == (1, 31)
        assert {loss.code for loss in losses} == {"replay"}

    async def test_a_run_that_is_over_or_lost_is_the_end(self, house: House) -> None:
        done, lost = await deferred(house), await deferred(house)
        await house.store.move(house.make.move(await resumed(house, done), "close"))
        assert await code(house.store.resume(house.make.resume(done))) == "already_done"
        await resumed(house, lost)
        house.pass_time(60)
        assert await code(house.store.resume(house.make.resume(lost))) == "expired"
        await house.store.reap(house.now)
        assert await state_of(house, lost) == "expired"
        assert await code(house.store.resume(house.make.resume(lost))) == "expired"

    async def test_a_step_that_waits_is_resumed_by_any_worker_of_the_pattern(self, house: House) -> None:
        record = await deferred(house, performer=WORKERS)
        running = await resumed(house, record)
        waiting = (await house.store.move(house.make.move(running, "wait"))).record
        house.pass_time(3600)
        await house.store.reap(house.now)
        second = await resumed(house, waiting, caller=SECOND)
        assert (second.life.round, second.life.performer) == (2, SECOND)
        assert await code(house.store.move(house.make.move(second, "heartbeat", caller=SERVER))) == (
            "wrong_workload"
        )
        await house.store.move(house.make.move(second, "heartbeat"))

    async def test_the_try_of_an_earlier_run_gets_no_later_one(self, house: House) -> None:
        record = await deferred(house, performer=WORKERS)
        command = house.make.resume(record)
        running, _ = await house.store.resume(command)
        waiting = (await house.store.move(house.make.move(running, "wait"))).record
        assert (await house.store.resume(command))[0] == waiting
        await resumed(house, waiting, caller=SECOND)
        assert await code(house.store.resume(command)) == "replay"

    async def test_a_worker_that_the_pattern_does_not_cover_gets_nothing(self, house: House) -> None:
        record = await deferred(house)
        assert await code(house.store.resume(house.make.resume(record, caller=OTHER))) == "wrong_workload"
        assert await code(house.store.resume(house.make.resume(record, caller=AGENT))) == "wrong_workload"
        await resumed(house, record)

    async def test_only_what_was_deferred_is_resumed(self, house: House) -> None:
        plain, root = await house.child(), await house.root()
        assert await code(house.store.resume(house.make.resume(plain))) == "wrong_state"
        assert await code(house.store.resume(house.make.resume(root, caller=AGENT))) == "wrong_workload"
        await house.store.accept(house.make.accept(plain))
        await resumed(house, await deferred(house))

    async def test_a_deferred_step_that_was_accepted_waits_and_is_resumed(self, house: House) -> None:
        record, _ = await house.store.accept(house.make.accept(await deferred(house)))
        waiting = (await house.store.move(house.make.move(record, "wait"))).record
        house.pass_time(3000)
        assert (await resumed(house, waiting)).life.round == 2

    async def test_its_end_and_its_transactions_hold(self, house: House) -> None:
        root = await house.root(expires_at=house.now + 100)
        early, late = await deferred(house, root), await deferred(house, expires_at=house.now + 50)
        house.pass_time(50)
        assert await code(house.store.resume(house.make.resume(late))) == "expired"
        house.pass_time(49)
        one = await deferred(house, root)
        await resumed(house, early)
        house.pass_time(1)
        assert await code(house.store.resume(house.make.resume(one))) == "expired"

    async def test_a_mark_on_whoever_has_a_part_in_it_stops_it(self, house: House) -> None:
        await resumed(house, await deferred(house))
        record = await deferred(house)
        for target in ("requester:per_1", "tool:mail/send", f"workload:{AGENT}", f"workload:{SERVER}"):
            await house.store.mark(house.make.mark(target, "freeze"))
            assert await code(house.store.resume(house.make.resume(record))) == "frozen"
            await house.store.mark(house.make.mark(target, "freeze", lift=True))
        await resumed(house, record)
        revoked = await deferred(house)
        await house.store.mark(house.make.mark("requester:per_1"))
        assert await code(house.store.resume(house.make.resume(revoked))) == "revoked"

    async def test_it_is_decided_on_versions_of_now(self, house: House) -> None:
        record = await deferred(house)
        await house.store.apply(house.make.version("policy"))
        assert await code(house.store.resume(house.make.resume(record))) == "stale_version"
        await resumed(house, record, versions=replace(build.NO_VERSIONS, policy=1))

    async def test_it_is_charged_and_its_proof_is_used_once(self, house: House) -> None:
        one, two, three = [await deferred(house) for _ in range(3)]
        command = house.make.resume(one)
        await house.store.resume(command)
        assert await code(house.store.resume(house.make.resume(two, proofs=command.proofs))) == "replay"
        house.store.use(build.limits(count=1, burst=1), lambda: 0)
        await resumed(house, two)
        assert await code(house.store.resume(house.make.resume(three))) == "limit"
        house.pass_time(60)
        await resumed(house, three)

    async def test_a_tool_that_is_its_own_resource_is_used_by_its_first_run(self, house: House) -> None:
        record = await deferred(house, action=build.action(is_self=True))
        grant = house.make.grant(record, is_self=True, kind="self", audience=SERVER, jkt="")
        command = house.make.resume(record, self_grant=grant)
        taken, own = await house.store.resume(command)
        assert own == grant
        assert (await house.store.resume(command))[1] == grant
        waiting = (await house.store.move(house.make.move(taken, "wait"))).record
        again = house.make.grant(waiting, is_self=True, kind="self", audience=SERVER, jkt="")
        assert (await house.store.resume(house.make.resume(waiting, self_grant=again)))[1] is None
        assert house.kinds().count("grant.self") == 1

    async def test_an_intent_that_is_done_leaves_it_alive_and_every_other_end_does_not(
        self, house: House
    ) -> None:
        for outcome, after in (("done", "opened"), ("failed", "cancelled"), ("cancelled", "cancelled")):
            root = await house.root(expires_at=house.now + 7200)
            record, plain = await deferred(house, root), await house.child(root)
            await house.store.move(house.make.move(root, "close", outcome=outcome))
            assert await state_of(house, record) == after
            assert await state_of(house, plain) == "cancelled"

    async def test_below_a_deferred_step_of_a_done_intent_life_goes_on(self, house: House) -> None:
        root = await house.root(expires_at=house.now + 7200)
        record = await deferred(house, root)
        await house.store.move(house.make.move(root, "close"))
        house.pass_time(5000)
        await house.store.reap(house.now)
        running = await resumed(house, record)
        below = await house.child(running, initiator=SERVER)
        await house.spent(running)
        assert [each.id for each in (await house.store.past(root.step.txn)).steps] == [
            record.step.id,
            below.step.id,
        ]
        await house.store.move(house.make.move(running, "close"))
        assert await state_of(house, below) == "cancelled"

    async def test_when_the_last_of_a_done_intent_has_ended_all_is_purged(self, house: House) -> None:
        root = await house.root(expires_at=house.now + 90_000)
        record = await deferred(house, root)
        await house.store.move(house.make.move(root, "close"))
        house.pass_time(4000)
        await house.store.reap(house.now)
        assert await house.store.knows(root.step.txn)
        await house.store.move(house.make.move(await resumed(house, record), "close"))
        for _ in range(3):
            house.pass_time(2000)
            await house.store.reap(house.now)
        assert not await house.store.knows(root.step.txn)
        assert await house.store.step(record.step.id) is None
