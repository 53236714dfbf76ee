"""The contract of the Store port: every MUST once, for every store. A store's test names a fixture `house`.

Each negative case stands after the same call succeeding, so that it fails for the reason it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest
from tests.fakes import build
from tests.fakes.build import AGENT, RESOURCE, SERVER, Maker
from tests.fakes.clock import START

from stepwrit.wire import REDEEM_REPEAT_S
from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.influence import EXACT_MAX
from stepwrit_broker.core.limits import ConcurrencyLimit, Limits
from stepwrit_broker.core.obligations import Obligation
from stepwrit_broker.core.step import Label, StepRecord
from stepwrit_broker.ports import Store
from stepwrit_broker.ports_ended import Tell
from stepwrit_broker.ports_ledger import EraseCommand, Erased

Entry = dict[str, object]
OTHER = "spiffe://example.test/mcp/other"


class Used(Store, Protocol):
    """A store with the hook by which the wiring hands over what is in force."""

    def use(self, limits: Limits, bundles: Callable[[], int]) -> None: ...

    def heed(self, *, ended: Tell, marked: Callable[[], None]) -> None: ...

    def set_guard(self, guard: Callable[[str], None]) -> None: ...

    async def erase(self, command: EraseCommand) -> Erased: ...


@dataclass(frozen=True)
class Beside:
    """What is kept beside the ledger under a name: its salt, and the documents."""

    salt: bytes | None
    documents: tuple[bytes, ...]


def _nowhere(_: str) -> Beside:
    raise NotImplementedError


@dataclass
class House:
    """A store under test, what its ledger says, and how to stop and start it."""

    store: Used
    entries: Callable[[], list[Entry]]
    restart: Callable[[], Awaitable[Used]]
    beside: Callable[[str], Beside] = _nowhere
    make: Maker = field(default_factory=lambda: Maker(now=START))

    def __post_init__(self) -> None:
        self.make.epoch = self.store.epoch

    @property
    def now(self) -> float:
        return self.make.now

    def kinds(self) -> list[object]:
        return [entry["kind"] for entry in self.entries()]

    def pass_time(self, seconds: float) -> None:
        self.make.now += seconds

    async def reopen(self) -> None:
        self.store = await self.restart()
        self.store.use(build.limits(), lambda: 0)
        self.make.epoch = self.store.epoch

    async def root(self, **changes: object) -> StepRecord:
        return await self.store.open(self.make.open(self.make.root_step(**changes)))

    async def child(self, parent: StepRecord | None = None, **changes: object) -> StepRecord:
        above = parent if parent is not None else await self.root()
        return await self.store.open(self.make.open(self.make.child_step(above, **changes)))

    async def accepted(self, parent: StepRecord | None = None, **changes: object) -> StepRecord:
        record, _ = await self.store.accept(self.make.accept(await self.child(parent, **changes)))
        return record

    async def issued(self, step: StepRecord | None = None, **changes: object) -> Grant:
        record = step if step is not None else await self.accepted()
        reserved = await self.store.reserve(self.make.reserve(self.make.grant(record, **changes)))
        return reserved.grant

    async def spent(self, step: StepRecord | None = None) -> Grant:
        grant = await self.issued(step)
        await self.store.redeem(self.make.redeem(grant))
        return grant


async def refusal(call: Awaitable[object]) -> Problem:
    """The problem that a call must raise."""
    with pytest.raises(Problem) as caught:
        await call
    return caught.value


async def code(call: Awaitable[object]) -> str:
    return (await refusal(call)).code


class OperationContract:
    async def test_the_same_operation_gets_the_same_answer(self, house: House) -> None:
        command = house.make.open(house.make.root_step())
        first = await house.store.open(command)
        again = await house.store.open(replace(command, step=house.make.root_step(), proofs=()))
        assert again == first
        assert house.kinds().count("intent.opened") == 1

    async def test_another_content_under_the_same_id_changes_nothing(self, house: House) -> None:
        command = house.make.open(house.make.root_step())
        await house.store.open(command)
        before = house.entries()
        other = replace(command, op=replace(command.op, digest="other"), step=house.make.root_step())
        assert await code(house.store.open(other)) == "operation_reused"
        assert house.entries() == before
        assert await house.store.step(other.step.id) is None

    @pytest.mark.parametrize("part", ["caller", "key", "verb", "id"])
    async def test_an_operation_is_named_by_caller_key_verb_and_id(self, house: House, part: str) -> None:
        command = house.make.open(house.make.root_step())
        await house.store.open(command)
        elsewhere = replace(command.op, **{part: "spiffe://example.test/x"})
        second = house.make.open(house.make.root_step(), op=elsewhere)
        assert (await house.store.open(second)).step.id == second.step.id

    async def test_a_repeat_may_carry_a_fresh_proof_or_the_old_one(self, house: House) -> None:
        command = house.make.open(house.make.root_step())
        first = await house.store.open(command)
        assert await house.store.open(command) == first
        assert await house.store.open(replace(command, proofs=(house.make.proof(),))) == first

    async def test_a_proof_is_used_once(self, house: House) -> None:
        proof = house.make.proof()
        await house.store.open(house.make.open(house.make.root_step(), proofs=(proof,)))
        second = house.make.open(house.make.root_step(), proofs=(house.make.proof(), proof))
        assert await code(house.store.open(second)) == "replay"
        assert await house.store.step(second.step.id) is None
        third = house.make.open(house.make.root_step(), proofs=second.proofs[:1])
        await house.store.open(third)  # the refused call did not use up the other proof

    async def test_operations_and_proofs_survive_a_restart(self, house: House) -> None:
        command = house.make.open(house.make.root_step())
        first = await house.store.open(command)
        await house.reopen()
        assert await house.store.open(command) == first
        second = house.make.open(house.make.root_step(), proofs=command.proofs)
        assert await code(house.store.open(second)) == "replay"

    async def test_a_refused_call_changes_no_counter(self, house: House) -> None:
        root = await house.root()
        house.store.use(build.limits(count=1, burst=1), lambda: 0)
        tats = dict(house.store.tats())
        command = house.make.open(house.make.child_step(root))
        proof = replace(command, proofs=(*command.proofs, *command.proofs))
        assert await code(house.store.open(proof)) == "replay"
        assert dict(house.store.tats()) == tats
        await house.store.open(command)
        assert dict(house.store.tats()) != tats

    async def test_time_never_goes_back(self, house: House) -> None:
        grant = await house.issued()
        house.pass_time(120)
        await house.root()
        house.pass_time(-120)
        assert await code(house.store.redeem(house.make.redeem(grant))) == "expired"

    async def test_time_does_not_go_back_over_a_restart(self, house: House) -> None:
        command = house.make.open(house.make.root_step(expires_at=START + 50))
        house.pass_time(100)
        await house.root()
        await house.reopen()
        assert await code(house.store.open(command)) == "expired"


class OpenContract:
    async def test_a_root_is_live_and_its_initiators(self, house: House) -> None:
        root = await house.root()
        assert (root.life.state, root.life.performer) == ("accepted", AGENT)
        assert await house.store.step(root.step.id) == root

    async def test_what_was_opened_is_read_back_equal_after_a_restart(self, house: House) -> None:
        record = await house.accepted(influence="1-3,7", deferred=True, label=Label("books", "check"))
        await house.reopen()
        assert await house.store.step(record.step.id) == record

    async def test_only_the_parents_performer_opens_a_child(self, house: House) -> None:
        parent = await house.accepted()
        await house.child(parent)
        assert await code(house.child(parent, initiator=OTHER)) == "wrong_workload"

    async def test_a_parent_that_is_not_accepted_has_no_children(self, house: House) -> None:
        opened = await house.child()
        assert await code(house.child(opened)) == "wrong_state"
        done = await house.accepted()
        await house.child(done)
        await house.store.move(house.make.move(done, "close"))
        assert await code(house.child(done)) == "already_done"

    async def test_an_expired_root_and_a_lost_parent_have_no_children(self, house: House) -> None:
        root = await house.root(expires_at=START + 1000)
        parent = await house.accepted(root)
        await house.child(parent)
        house.pass_time(61)
        assert await code(house.child(parent)) == "expired"
        await house.child(root)
        house.pass_time(1000)
        assert await code(house.child(root)) == "expired"

    async def test_unknown_and_foreign_parents_look_alike(self, house: House) -> None:
        root = await house.root()
        await house.child(root)
        foreign = await refusal(house.child(root, tenant="other"))
        nowhere = replace(house.make.child_step(root), parent="stp_100" + "0" * 26)
        unknown = await refusal(house.store.open(house.make.open(nowhere)))
        assert (
            (foreign.code, foreign.reason) == (unknown.code, unknown.reason) == ("not_found", "no such step")
        )

    async def test_a_child_cannot_place_itself_elsewhere(self, house: House) -> None:
        parent = await house.accepted()
        assert await code(house.child(parent, ancestors=(parent.step.id,))) == "wrong_state"

    @pytest.mark.parametrize("bound", ["steps", "fan_out", "server_steps", "depth"])
    async def test_the_operators_bounds_hold_in_one_transaction(self, house: House, bound: str) -> None:
        root = await house.root()
        house.store.use(build.limits(**{bound: 1}), lambda: 0)
        first = await house.accepted(root, origin="server")
        parent = first if bound == "depth" else root
        assert (await refusal(house.child(parent, origin="server"))).rule == f"limits v0 transaction.{bound}"
        await house.child(origin="server")  # another transaction has its own

    @pytest.mark.parametrize("bound", ["steps_max", "server_steps_max", "depth_max"])
    async def test_the_intents_own_bounds_hold(self, house: House, bound: str) -> None:
        plain = house.make.root_step()
        root = await house.store.open(
            house.make.open(replace(plain, intent=replace(plain.intent, **{bound: 1})))
        )
        first = await house.accepted(root, origin="server")
        parent = first if bound == "depth_max" else root
        assert (await refusal(house.child(parent, origin="server"))).code == "limit"

    async def test_the_children_that_policy_lets_a_step_open_are_counted_in_the_same_write(
        self, house: House
    ) -> None:
        said = (Obligation("fan_out", "2", "p1"), Obligation("redact", "to", "p2"))
        root = await house.root(obligations=said)
        found = await asyncio.gather(*(house.child(root) for _ in range(8)), return_exceptions=True)
        refused = [each for each in found if isinstance(each, Problem)]
        assert len(refused) == 6
        assert {(each.code, each.rule) for each in refused} == {("limit", "policy p1 obligation fan_out=2")}
        await house.reopen()
        again = await house.store.step(root.step.id)
        assert again is not None
        assert again.step.obligations == said
        assert await code(house.child(root)) == "limit"
        assert await house.child(await house.root())

    async def test_bounds_hold_over_a_restart(self, house: House) -> None:
        root = await house.root()
        await house.child(root)
        await house.reopen()
        house.store.use(build.limits(steps=1), lambda: 0)
        assert await code(house.child(root)) == "limit"

    async def test_a_rate_limit_refuses_with_when_to_come_back(self, house: House) -> None:
        house.store.use(build.limits(count=60, burst=1), lambda: 0)
        await house.root()
        refused = await refusal(house.root())
        assert (refused.code, refused.retry_after) == ("limit", 1.0)
        house.pass_time(1.0)
        await house.root()

    async def test_a_decision_on_other_versions_is_stale(self, house: House) -> None:
        root = await house.root()
        await house.store.apply(house.make.version("policy"))
        assert await code(house.child(root)) == "stale_version"
        current = replace(build.NO_VERSIONS, policy=1)
        command = house.make.open(house.make.child_step(root), versions=current)
        await house.store.open(command)
        house.store.use(build.limits(), lambda: 1)
        again = house.make.open(house.make.child_step(root), versions=current)
        assert await code(house.store.open(again)) == "stale_version"


class PastContract:
    async def test_the_past_is_all_steps_in_the_order_of_their_opening(self, house: House) -> None:
        root = await house.root()
        assert (await house.store.past(root.step.txn)).steps == ()
        first, second = await house.accepted(root), await house.child(root)
        below = await house.child(first)
        other = await house.accepted()
        past = await house.store.past(root.step.txn)
        assert [each.id for each in past.steps] == [first.step.id, second.step.id, below.step.id]
        assert [each.parent for each in past.steps] == [None, None, 0]
        assert [each.id for each in (await house.store.past(other.step.txn)).steps] == [other.step.id]
        assert (await house.store.past("txn_none")).steps == ()

    async def test_the_past_survives_a_restart(self, house: House) -> None:
        root = await house.root()
        parent = await house.accepted(root)
        await house.child(parent, influence="1")
        await house.child(root, influence="")
        before = await house.store.past(root.step.txn)
        await house.reopen()
        assert await house.store.past(root.step.txn) == before
        await house.child(root)
        assert len((await house.store.past(root.step.txn)).steps) == 4

    async def test_a_long_past_is_the_same_when_it_is_read_again(self, house: House) -> None:
        root = await house.root()
        await asyncio.gather(*(house.child(root) for _ in range(EXACT_MAX + 4)))
        before = await house.store.past(root.step.txn)
        assert (len(before.steps), sum(each.times for each in before.later.values())) == (EXACT_MAX, 4)
        await house.reopen()
        assert await house.store.past(root.step.txn) == before

    async def test_a_refused_step_is_no_part_of_the_past(self, house: House) -> None:
        root = await house.root()
        await house.child(root)
        command = house.make.open(house.make.child_step(root))
        twice = replace(command, proofs=(*command.proofs, *command.proofs))
        before = await house.store.past(root.step.txn)
        assert await code(house.store.open(twice)) == "replay"
        assert await house.store.past(root.step.txn) == before

    async def test_steps_opened_at_once_are_all_in_the_past(self, house: House) -> None:
        root = await house.root()
        await asyncio.gather(*(house.child(root) for _ in range(20)))
        assert len((await house.store.past(root.step.txn)).steps) == 20

    async def test_ended_steps_stay_in_the_past_while_the_transaction_lives(self, house: House) -> None:
        root = await house.root(expires_at=START + 7200)
        ended = await house.accepted(root)
        await house.store.move(house.make.move(ended, "close"))
        for _ in range(3):
            house.pass_time(1900)
            await house.store.reap(house.now)
        await house.reopen()
        assert [each.id for each in (await house.store.past(root.step.txn)).steps] == [ended.step.id]
        for _ in range(4):
            house.pass_time(1900)
            await house.store.reap(house.now)
        assert not await house.store.knows(root.step.txn)
        assert (await house.store.past(root.step.txn)).steps == ()


class DeclaredContract:
    async def declared(self, house: House, parent: StepRecord, times: int = 2) -> StepRecord:
        step = house.make.child_step(parent, label=Label("books", "check"))
        return await house.store.open(house.make.open(step, times=times))

    async def test_of_two_at_once_for_the_last_place_one_is_opened(self, house: House) -> None:
        parent, other = await house.accepted(), await house.accepted()
        await self.declared(house, parent)
        tried = await asyncio.gather(
            *(self.declared(house, parent) for _ in range(20)), return_exceptions=True
        )
        opened = [each for each in tried if isinstance(each, StepRecord)]
        refused = [each.code for each in tried if isinstance(each, Problem)]
        assert (len(opened), refused) == (1, ["stale_version"] * 19)
        await self.declared(house, other)  # each parent has a count of its own
        await house.child(parent)  # and what is not declared has none

    async def test_a_count_survives_a_restart_and_the_end_of_what_was_counted(self, house: House) -> None:
        root = await house.root(expires_at=START + 7200)
        for _ in range(2):
            record, _ = await house.store.accept(house.make.accept(await self.declared(house, root)))
            await house.store.move(house.make.move(record, "close"))
        house.pass_time(2000)
        await house.store.reap(house.now)
        await house.reopen()
        assert await code(self.declared(house, root)) == "stale_version"
        await self.declared(house, root, times=3)

    async def test_a_repeated_operation_counts_once(self, house: House) -> None:
        parent = await house.accepted()
        step = house.make.child_step(parent, label=Label("books", "check"))
        command = house.make.open(step, times=1)
        assert await house.store.open(command) == await house.store.open(command)

    async def test_the_past_says_what_is_done(self, house: House) -> None:
        parent = await house.accepted()
        accepted, _ = await house.store.accept(house.make.accept(await self.declared(house, parent)))
        await self.declared(house, parent)
        await house.child(parent)
        assert [each.is_done for each in (await house.store.past(parent.step.txn)).steps] == [False] * 4
        await house.store.move(house.make.move(accepted, "close"))
        for _ in range(2):
            past = await house.store.past(parent.step.txn)
            assert [each.is_done for each in past.steps] == [False, True, False, False]
            assert [each.label for each in past.steps] == [None, *[Label("books", "check")] * 2, None]
            await house.reopen()

    async def test_a_step_that_failed_is_not_done(self, house: House) -> None:
        parent = await house.accepted()
        accepted, _ = await house.store.accept(house.make.accept(await self.declared(house, parent)))
        await house.store.move(house.make.move(accepted, "close", outcome="failed"))
        assert not any(each.is_done for each in (await house.store.past(parent.step.txn)).steps)


class AcceptContract:
    async def test_a_round_is_accepted_once(self, house: House) -> None:
        opened = await house.child()
        command = house.make.accept(opened)
        first = await house.store.accept(command)
        assert (first[0].life.state, first[0].life.round, first[0].life.performer) == ("accepted", 1, SERVER)
        assert await house.store.accept(command) == first
        assert await code(house.store.accept(house.make.accept(opened))) == "replay"

    async def test_only_whom_the_pattern_covers_accepts(self, house: House) -> None:
        opened = await house.child(performer="spiffe://example.test/mcp/*")
        stranger = house.make.accept(opened, caller="spiffe://example.test/mcpx/mail")
        assert await code(house.store.accept(stranger)) == "wrong_workload"
        await house.store.accept(house.make.accept(opened))

    async def test_rounds_go_up_by_one_after_a_wait(self, house: House) -> None:
        record = await house.accepted()
        early = house.make.accept(record, round=2)
        assert await code(house.store.accept(early)) == "wrong_state"
        waiting = (await house.store.move(house.make.move(record, "wait"))).record
        assert waiting.life.state == "waiting"
        assert await code(house.store.accept(house.make.accept(waiting, round=1))) == "replay"
        assert await code(house.store.accept(house.make.accept(waiting, round=3))) == "wrong_state"
        other = house.make.accept(waiting, caller=OTHER)
        assert await code(house.store.accept(other)) == "wrong_workload"
        resumed, _ = await house.store.accept(house.make.accept(waiting))
        assert (resumed.life.state, resumed.life.round) == ("accepted", 2)
        assert house.kinds()[-1] == "step.resumed"

    async def test_a_round_brings_the_state_that_the_one_before_left_and_no_other(self, house: House) -> None:
        record = await house.accepted()
        moved = await house.store.move(replace(house.make.move(record, "wait"), state="one"))
        waiting = moved.record
        for other in ("", "two"):
            wrong = replace(house.make.accept(waiting), state=other)
            assert await code(house.store.accept(wrong)) == "state_changed"
        resumed, _ = await house.store.accept(replace(house.make.accept(waiting), state="one"))
        assert (resumed.life.round, resumed.life.awaits) == (2, "")
        again = (await house.store.move(house.make.move(resumed, "wait"))).record
        stale = replace(house.make.accept(again), state="one")
        assert await code(house.store.accept(stale)) == "state_changed"
        await house.store.accept(house.make.accept(again))

    async def test_after_its_end_a_step_is_not_accepted(self, house: House) -> None:
        record = await house.accepted()
        await house.store.move(house.make.move(record, "close"))
        assert await code(house.store.accept(house.make.accept(record))) == "already_done"

    async def test_a_step_is_accepted_in_its_time_only(self, house: House) -> None:
        one, two = await house.child(), await house.child()
        house.pass_time(299)
        await house.store.accept(house.make.accept(one))
        house.pass_time(1)
        assert await code(house.store.accept(house.make.accept(two))) == "expired"

    async def test_a_self_grant_is_spent_in_the_same_write(self, house: House) -> None:
        opened = await house.child(action=build.action(is_self=True))
        grant = house.make.grant(opened, is_self=True, kind="self", audience=SERVER, jkt="")
        command = house.make.accept(opened, self_grant=grant)
        assert (await house.store.accept(command))[1] == grant
        assert (await house.store.accept(command))[1] == grant
        record = await house.store.grant(grant.id)
        assert record is not None
        assert (record.state, record.redeemed_by) == ("redeemed", SERVER)
        assert house.kinds()[-2:] == ["step.accepted", "grant.self"]
        assert await code(house.store.redeem(house.make.redeem(grant))) == "replay"

    async def test_a_tool_that_is_not_its_own_resource_gets_no_self_grant(self, house: House) -> None:
        opened = await house.child()
        grant = house.make.grant(opened, is_self=True)
        assert await code(house.store.accept(house.make.accept(opened, self_grant=grant))) == "plan"
        await house.store.accept(house.make.accept(opened))


class ReserveContract:
    async def test_a_reservation_is_repeated_while_it_is_unredeemed(self, house: House) -> None:
        record = await house.accepted()
        command = house.make.reserve(house.make.grant(record))
        first = await house.store.reserve(command)
        assert first == GrantRecord(grant=command.grant, state="issued", redeemed_by="", redeemed_at=0.0)
        assert await house.store.reserve(replace(command, grant=house.make.grant(record))) == first
        assert await house.store.grant(command.grant.id) == first
        await house.store.redeem(house.make.redeem(command.grant))
        assert await code(house.store.reserve(command)) == "replay"

    async def test_a_plan_line_has_its_times(self, house: House) -> None:
        record = await house.accepted()
        grants = [house.make.grant(record) for _ in range(3)]
        for grant in grants[:2]:
            await house.store.reserve(house.make.reserve(grant, line_times=2))
        assert await code(house.store.reserve(house.make.reserve(grants[2], line_times=2))) == "plan"
        other = house.make.grant(record, plan_line=1)
        await house.store.reserve(house.make.reserve(other))

    async def test_a_credential_that_ran_out_unredeemed_gives_its_count_back(self, house: House) -> None:
        record = await house.accepted()
        await house.issued(record)
        house.pass_time(30)
        await house.store.move(house.make.move(record, "heartbeat"))
        assert await code(house.issued(record)) == "plan"
        house.pass_time(31)
        await house.spent(record)
        house.pass_time(25)
        assert await code(house.issued(record)) == "plan"  # a redeemed one does not

    async def test_only_an_accepted_step_and_its_performer(self, house: House) -> None:
        opened = await house.child()
        assert await code(house.issued(opened)) == "wrong_state"
        record, _ = await house.store.accept(house.make.accept(opened))
        assert await code(house.issued(record, performer=OTHER)) == "wrong_workload"
        await house.issued(record)
        await house.store.move(house.make.move(record, "close"))
        assert await code(house.issued(record)) == "already_done"

    async def test_a_root_never_yields_a_credential(self, house: House) -> None:
        root = await house.root()
        command = house.make.reserve(house.make.grant(root, performer=AGENT), caller=AGENT)
        assert await code(house.store.reserve(command)) == "plan"

    async def test_versions_and_epoch_are_those_of_now(self, house: House) -> None:
        record = await house.accepted()
        assert await code(house.issued(record, epoch="older")) == "expired"
        await house.store.apply(house.make.version("registry"))
        assert await code(house.issued(record)) == "stale_version"
        current = replace(build.NO_VERSIONS, registry=1)
        await house.store.reserve(house.make.reserve(house.make.grant(record), versions=current))

    async def test_concurrency_is_given_back_by_redeem_close_and_expiry(self, house: House) -> None:
        most = ConcurrencyLimit(name="live", per=("workload",), match=(), most=1)
        house.store.use(replace(build.limits(), concurrency=(most,)), lambda: 0)
        one, two, three = [await house.accepted() for _ in range(3)]
        grant = await house.issued(one)
        assert await code(house.issued(two)) == "limit"
        await house.store.redeem(house.make.redeem(grant))
        await house.issued(two)
        assert await code(house.issued(three)) == "limit"
        await house.store.move(house.make.move(two, "close"))
        await house.issued(three)
        house.pass_time(60)
        await house.store.reap(house.now)
        await house.issued(await house.accepted())


class RedeemContract:
    async def test_sixty_four_redeems_of_one_grant_spend_it_once(self, house: House) -> None:
        grant = await house.issued()
        tries = [house.store.redeem(house.make.redeem(grant)) for _ in range(64)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        wins = [answer for answer in answers if not isinstance(answer, BaseException)]
        losses = [answer for answer in answers if isinstance(answer, Refused)]
        assert (len(wins), len(losses)) == (1, 63)
        assert {(loss.code, loss.rule) for loss in losses} == {("replay", "repeat_same_call")}
        assert house.kinds().count("grant.redeemed") == 1

    async def test_what_is_wrong_spends_nothing(self, house: House) -> None:
        grant = await house.issued()
        wrong = {"audience": "https://other.example.test", "jkt": "b" * 43, "request": "q" * 43}
        codes = [await code(house.store.redeem(house.make.redeem(grant, **{k: v}))) for k, v in wrong.items()]
        assert codes == ["wrong_workload", "invalid_proof", "request_changed"]
        record, step = await house.store.redeem(house.make.redeem(grant))
        assert (record.state, record.redeemed_by, step.step.id) == ("redeemed", RESOURCE, grant.step)

    async def test_an_equal_operation_gets_the_first_answer_for_a_while(self, house: House) -> None:
        command = house.make.redeem(await house.issued())
        first = await house.store.redeem(command)
        house.pass_time(REDEEM_REPEAT_S)
        assert await house.store.redeem(replace(command, now=house.now)) == first
        house.pass_time(0.1)
        late = await refusal(house.store.redeem(replace(command, now=house.now)))
        assert (late.code, late.rule) == ("replay", "lost_reply")

    async def test_the_answer_is_repeated_over_a_restart(self, house: House) -> None:
        command = house.make.redeem(await house.issued())
        first = await house.store.redeem(command)
        await house.reopen()
        assert await house.store.redeem(command) == first

    @pytest.mark.parametrize("part", ["redeemer", "jkt", "request", "audience"])
    async def test_a_replay_by_another_is_told_apart(self, house: House, part: str) -> None:
        grant = await house.spent()
        same = await refusal(house.store.redeem(house.make.redeem(grant)))
        foreign = await refusal(house.store.redeem(house.make.redeem(grant, **{part: OTHER})))
        assert (same.rule, foreign.rule) == ("repeat_same_call", "replay_foreign")
        assert {same.code, foreign.code} == {"replay"}

    async def test_an_older_epoch_does_not_redeem(self, house: House) -> None:
        grant = await house.issued()
        await house.reopen()
        refused = await refusal(house.store.redeem(house.make.redeem(grant)))
        assert (refused.code, refused.rule) == ("expired", "epoch")

    async def test_there_is_no_leeway(self, house: House) -> None:
        one, two = await house.issued(), await house.issued()
        house.pass_time(59.9)
        await house.store.redeem(house.make.redeem(one))
        house.pass_time(0.1)
        assert await code(house.store.redeem(house.make.redeem(two))) == "expired"

    async def test_with_its_step_a_credential_ends(self, house: House) -> None:
        record = await house.accepted()
        grant = await house.issued(record)
        await house.store.move(house.make.move(record, "close"))
        assert await code(house.store.redeem(house.make.redeem(grant))) == "closed"
        lost = await house.issued(expires_at=house.now + 900)
        house.pass_time(60)
        assert await code(house.store.redeem(house.make.redeem(lost))) == "expired"

    async def test_unknown_is_not_found(self, house: House) -> None:
        grant = replace(await house.issued(), id="grt_100" + "0" * 26)
        assert await code(house.store.redeem(house.make.redeem(grant))) == "not_found"


class MoveContract:
    async def test_close_ends_credentials_and_children_but_not_deferred_ones(self, house: House) -> None:
        record = await house.accepted()
        await house.spent(record)
        await house.issued(record, plan_line=1)
        child = await house.accepted(record, initiator=SERVER)
        grandchild = await house.accepted(child, initiator=SERVER)
        await house.issued(grandchild)
        later = await house.accepted(record, initiator=SERVER, deferred=True)
        command = house.make.move(record, "close")
        moved = await house.store.move(command)
        assert (moved.record.life.state, moved.revoked) == ("done", 3)
        assert await house.store.move(command) == moved
        states = [await house.store.step(one.step.id) for one in (child, grandchild, later)]
        assert [one.life.state for one in states if one is not None] == ["cancelled", "cancelled", "accepted"]
        await house.spent(later)
        assert await code(house.store.move(house.make.move(record, "close"))) == "already_done"

    async def test_only_the_performer_moves_a_step(self, house: House) -> None:
        record = await house.accepted()
        for verb in ("wait", "heartbeat", "close"):
            assert (
                await code(house.store.move(house.make.move(record, verb, caller=OTHER))) == "wrong_workload"
            )
        await house.store.move(house.make.move(record, "close"))

    async def test_heartbeats_keep_a_step_alive(self, house: House) -> None:
        record = await house.accepted()
        for _ in range(3):
            house.pass_time(40)
            await house.store.move(house.make.move(record, "heartbeat"))
        await house.issued(record)
        house.pass_time(60)
        assert await code(house.store.move(house.make.move(record, "heartbeat"))) == "expired"

    async def test_waiting_needs_no_heartbeat(self, house: House) -> None:
        record = await house.accepted()
        waiting = (await house.store.move(house.make.move(record, "wait"))).record
        assert await code(house.store.move(house.make.move(waiting, "heartbeat"))) == "wrong_state"
        house.pass_time(800)
        await house.store.accept(house.make.accept(waiting))

    async def test_a_wait_names_its_round(self, house: House) -> None:
        record = await house.accepted()
        assert await code(house.store.move(house.make.move(record, "wait", round=2))) == "wrong_state"
        await house.store.move(house.make.move(record, "wait"))

    async def test_an_unknown_move_and_a_close_without_outcome_are_malformed(self, house: House) -> None:
        record = await house.accepted()
        assert await code(house.store.move(house.make.move(record, "jump"))) == "invalid_request"
        bare = house.make.move(record, "close", outcome=None)
        assert await code(house.store.move(bare)) == "invalid_request"
