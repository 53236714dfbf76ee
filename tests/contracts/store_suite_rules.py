"""The contract of the Store port, second half: marks, versions, the ledger's entries, the sweep, copies."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.store_suite import House, code, refusal
from tests.fakes import build
from tests.fakes.build import AGENT, AUDIENCE, KEY, RESOURCE, SERVER

from stepwrit_broker.core import marks
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.ports import Evidence, Happening, KeyPin, ProofUse


class MarkContract:
    @pytest.mark.parametrize("verb", ["revoke", "freeze"])
    async def test_a_mark_stops_opening_accepting_reserving_and_redeeming(
        self, house: House, verb: str
    ) -> None:
        root = await house.root()
        opened, record, other = (
            await house.child(root),
            await house.accepted(root),
            await house.accepted(root),
        )
        grant = await house.issued(other)
        await house.store.mark(house.make.mark(f"txn:{root.step.txn}", verb))
        word = "revoked" if verb == "revoke" else "frozen"
        assert await code(house.child(root)) == word
        assert await code(house.store.accept(house.make.accept(opened))) == word
        assert await code(house.issued(record)) == word
        assert await code(house.store.redeem(house.make.redeem(grant))) == word
        await house.spent()  # another transaction goes on

    @pytest.mark.parametrize(
        "target",
        [
            f"workload:{SERVER}", f"workload:{AGENT}", "tool:mail/send", "server:mail", "requester:per_1",
            "tenant:acme", "trust_domain:example.test", "everything:all", f"key:{KEY}",
            f"resource:{AUDIENCE}",
        ],
    )  # fmt: skip
    async def test_every_kind_of_target_stops_a_redeem(self, house: House, target: str) -> None:
        grant, spare = await house.issued(), await house.issued()
        await house.store.redeem(house.make.redeem(spare))
        await house.store.mark(house.make.mark(target, "freeze"))
        assert await code(house.store.redeem(house.make.redeem(grant))) == "frozen"

    async def test_a_mark_on_an_ancestor_or_on_the_credential_stops_a_redeem(self, house: House) -> None:
        parent = await house.accepted()
        child = await house.accepted(parent, initiator=SERVER)
        grant, own = await house.issued(child), await house.issued(child, plan_line=1)
        await house.store.mark(house.make.mark(f"grant:{own.id}"))
        assert await code(house.store.redeem(house.make.redeem(own))) == "revoked"
        await house.store.redeem(house.make.redeem(grant))
        third = await house.issued(child, plan_line=2)
        await house.store.mark(house.make.mark(f"step:{parent.step.id}"))
        assert await code(house.store.redeem(house.make.redeem(third))) == "revoked"

    async def test_the_commands_own_subjects_are_tested(self, house: House) -> None:
        grant = await house.issued()
        await house.store.mark(house.make.mark(f"workload:{RESOURCE}", "freeze"))
        named = house.make.redeem(grant, subjects=marks.subjects_of_workload(RESOURCE))
        assert await code(house.store.redeem(named)) == "frozen"
        await house.store.redeem(house.make.redeem(grant))

    async def test_a_mark_counts_for_what_comes_after_it_at_once(self, house: House) -> None:
        record = await house.accepted()
        grant = await house.issued(record)
        stop = house.store.mark(house.make.mark(f"step:{record.step.id}"))
        tries = [house.store.redeem(house.make.redeem(grant)) for _ in range(8)]
        mark, *answers = await asyncio.gather(stop, *tries, return_exceptions=True)
        assert not isinstance(mark, BaseException)
        assert {getattr(answer, "code", "spent") for answer in answers} == {"revoked"}

    async def test_marks_survive_a_restart_and_come_before_the_new_epoch_serves(self, house: House) -> None:
        record = await house.accepted()
        await house.store.mark(house.make.mark(f"step:{record.step.id}", "freeze"))
        before = dict(house.store.marks())
        await house.reopen()
        assert dict(house.store.marks()) == before
        assert await code(house.issued(record)) == "frozen"

    async def test_a_freeze_is_lifted_and_a_revocation_never(self, house: House) -> None:
        target = f"workload:{SERVER}"
        await house.store.mark(house.make.mark(target, "freeze"))
        record = house.accepted
        assert await code(record()) == "frozen"
        await house.store.mark(house.make.mark(target, "freeze", lift=True))
        await record()
        assert await code(house.store.mark(house.make.mark(target, "freeze", lift=True))) == "not_found"
        await house.store.mark(house.make.mark(target, "revoke"))
        assert await code(house.store.mark(house.make.mark(target, "freeze", lift=True))) == "not_found"
        stands = await house.store.mark(house.make.mark(target, "freeze"))
        assert stands.verb == "revoke"

    async def test_a_freeze_of_before_a_restart_is_lifted_for_good(self, house: House) -> None:
        for target in ("tool:other/thing", "everything:all"):
            await house.store.mark(house.make.mark(target, "freeze"))
        assert await code(house.accepted()) == "frozen"
        await house.reopen()
        assert await code(house.accepted()) == "frozen"
        await house.store.mark(house.make.mark("everything:all", "freeze", lift=True))
        assert list(house.store.marks()) == ["tool:other/thing"]
        await house.reopen()
        assert list(house.store.marks()) == ["tool:other/thing"]
        await house.accepted()

    async def test_a_mark_that_yields_takes_the_place_of_its_own_alone(self, house: House) -> None:
        target = f"workload:{SERVER}"
        weak = house.make.mark(target, "freeze", yields=True)
        assert await house.store.mark(weak) == weak.mark
        newer = house.make.mark(target, "freeze", yields=True)
        assert await house.store.mark(newer) == newer.mark
        other = replace(newer, op=house.make.op("freeze"), mark=replace(newer.mark, by="another"))
        assert await house.store.mark(other) == newer.mark
        assert house.store.marks()[target] == newer.mark
        strong = replace(other, op=house.make.op("freeze"), yields=False)
        assert await house.store.mark(strong) == other.mark

    async def test_a_mark_is_repeatable(self, house: House) -> None:
        command = house.make.mark("tool:mail/send", "freeze")
        first = await house.store.mark(command)
        again = replace(command, mark=replace(command.mark, at=house.now + 5, ref="REF9999999"))
        assert await house.store.mark(again) == first
        other = replace(command, op=replace(command.op, digest="other"))
        assert await code(house.store.mark(other)) == "operation_reused"
        assert dict(house.store.marks()) == {first.target: first}

    async def test_close_works_under_any_mark_and_heartbeats_hear_of_a_revocation(self, house: House) -> None:
        record = await house.accepted()
        await house.store.mark(house.make.mark(f"step:{record.step.id}", "freeze"))
        await house.store.move(house.make.move(record, "heartbeat"))
        await house.store.mark(house.make.mark(f"step:{record.step.id}"))
        assert await code(house.store.move(house.make.move(record, "heartbeat"))) == "revoked"
        assert (await house.store.move(house.make.move(record, "close"))).record.life.state == "done"


class VersionContract:
    async def test_a_version_replaces_the_one_it_names(self, house: House) -> None:
        assert await house.store.version("policy") is None
        one = await house.store.apply(house.make.version(doc="one"))
        assert await code(house.store.apply(house.make.version(doc="two"))) == "stale_version"
        two = await house.store.apply(house.make.version(expected=1, doc="two"))
        assert [one.number, two.number] == [1, 2]
        assert await house.store.version("policy") == two
        assert await house.store.version("policy", 1) == one
        assert list(await house.store.history("policy")) == [one, two]
        assert await house.store.version("limits") is None
        await house.reopen()
        assert await house.store.version("policy") == two

    async def test_a_version_and_its_marks_stand_together(self, house: House) -> None:
        await house.store.mark(house.make.mark("tool:mail/read", "freeze"))
        frozen = build.mark_of("tool:mail/send", "freeze", at=house.now)
        refused = house.make.version(expected=7, marks=(frozen,), lifts=("tool:mail/read",))
        assert await code(house.store.apply(refused)) == "stale_version"
        assert set(house.store.marks()) == {"tool:mail/read"}
        await house.store.apply(house.make.version(marks=(frozen,), lifts=("tool:mail/read", "tool:unknown")))
        assert set(house.store.marks()) == {"tool:mail/send"}
        assert house.kinds()[-3:] == ["version.applied", "mark.lifted", "mark.set"]

    async def test_applying_the_same_version_again_gets_the_same_answer(self, house: House) -> None:
        command = house.make.version()
        first = await house.store.apply(command)
        assert await house.store.apply(command) == first
        assert house.kinds().count("version.applied") == 1

    async def test_limits_that_were_not_handed_over_refuse(self, house: House) -> None:
        await house.root()
        await house.store.apply(house.make.version("limits"))
        step = house.make.root_step()
        command = house.make.open(step, versions=replace(build.NO_VERSIONS, limits=1))
        assert (await refusal(house.store.open(command))).rule == "limits"
        house.store.use(build.limits(version=1), lambda: 0)
        await house.store.open(command)


class LedgerContract:
    async def test_every_hop_has_its_entry_under_its_ref(self, house: House) -> None:
        record = await house.accepted()
        grant = await house.spent(record)
        moved = house.make.move(record, "close")
        await house.store.move(moved)
        told = [(entry["kind"], entry["ref"]) for entry in house.entries()]
        assert told[1:] == [
            ("step.opened", record.step.ref),
            ("step.accepted", record.step.ref),
            ("grant.issued", grant.ref),
            ("grant.redeemed", grant.ref),
            ("step.closed", moved.ref),
        ]

    async def test_what_is_guessable_is_salted(self, house: House) -> None:
        record = await house.accepted()
        grant = await house.issued(record)
        said = repr(house.entries())
        assert record.step.action is not None
        for secret in (
            record.step.action.args,
            grant.request,
            "alice",
            "per_1",
            "read my mail",
            grant.claims,
        ):
            assert secret not in said
        for plain in (record.step.action.args, grant.request, "per_1"):
            assert hashlib.sha256(plain.encode()).hexdigest() not in said

    async def test_a_decision_is_named_by_its_digest(self, house: House) -> None:
        command = house.make.open(house.make.root_step(), evidence=Evidence(decision={"who": "alice"}))
        await house.store.open(command)
        entry = house.entries()[-1]
        assert len(str(entry["decision"])) == 64
        assert "alice" not in repr(entry)

    async def test_a_happening_has_an_entry_of_its_own(self, house: House) -> None:
        root = await house.root()
        for txn in (root.step.txn, None):
            happening = Happening(
                kind="refused",
                ref=house.make.ref(),
                tenant="acme",
                txn=txn,
                evidence=Evidence(facts={"code": "policy"}, decision={"verdict": "deny"}),
                now=house.now,
            )
            await house.store.record(happening)
            told = house.entries()[-1]
            assert (told["kind"], told["ref"], told["code"]) == ("refused", happening.ref, "policy")

    async def test_evidence_cannot_speak_for_the_store(self, house: House) -> None:
        await house.root()
        before = house.entries()
        forged = house.make.open(house.make.root_step(), evidence=Evidence(facts={"kind": "mark.lifted"}))
        assert await code(house.store.open(forged)) == "invalid_request"
        huge = house.make.open(house.make.root_step(), evidence=Evidence(facts={"x": "y" * 70_000}))
        assert await code(house.store.open(huge)) == "invalid_request"
        assert house.entries() == before
        named = house.make.open(house.make.root_step(), evidence=Evidence(facts={"tenant": "theirs"}))
        await house.store.open(named)
        assert house.entries()[-1]["tenant"] == "acme"


class ReapContract:
    async def test_a_sweep_ends_what_ran_out_once(self, house: House) -> None:
        root = await house.root(expires_at=house.now + 5000)
        opened, lost, kept = await house.child(root), await house.accepted(root), await house.accepted(root)
        grant = await house.issued(lost)
        house.pass_time(59)
        await house.store.move(house.make.move(kept, "heartbeat"))
        assert (await house.store.reap(house.now)).steps == 0
        house.pass_time(1)
        swept = await house.store.reap(house.now)
        assert (swept.steps, swept.grants) == (1, 1)
        assert (await house.store.reap(house.now)) == replace(swept, steps=0, grants=0, purged=0)
        house.pass_time(240)
        await house.store.reap(house.now)
        ended = [await house.store.step(one.step.id) for one in (opened, lost, kept)]
        assert [one.life.state for one in ended if one is not None] == ["expired", "expired", "expired"]
        record = await house.store.grant(grant.id)
        assert record is not None
        assert record.state == "expired"
        assert house.kinds().count("grant.expired") == 1
        assert house.kinds().count("step.expired") == 3

    async def test_under_a_lost_parent_the_children_end_too(self, house: House) -> None:
        parent = await house.accepted()
        house.pass_time(50)
        child = await house.accepted(parent, initiator=SERVER)
        later = await house.accepted(parent, initiator=SERVER, deferred=True)
        house.pass_time(10)
        assert (await house.store.reap(house.now)).steps == 2
        ended = [await house.store.step(one.step.id) for one in (parent, child, later)]
        assert [one.life.state for one in ended if one is not None] == ["expired", "cancelled", "accepted"]

    async def test_with_the_intent_everything_of_its_transaction_ends(self, house: House) -> None:
        root = await house.root(expires_at=house.now + 50)
        later = await house.accepted(root, deferred=True)
        house.pass_time(50)
        assert await code(house.issued(later)) == "expired"
        assert (await house.store.reap(house.now)).steps == 2

    async def test_reservations_of_an_older_epoch_are_ended_with_an_entry(self, house: House) -> None:
        grant = await house.issued()
        await house.reopen()
        assert (await house.store.reap(house.now)).grants == 1
        record = await house.store.grant(grant.id)
        assert record is not None
        assert record.state == "expired"
        last = house.entries()[-1]
        assert (last["kind"], last["grant"], last["reason"]) == ("grant.expired", grant.id, "epoch")

    async def test_a_sweep_follows_a_revocation_down(self, house: House) -> None:
        parent = await house.accepted()
        child = await house.accepted(parent, initiator=SERVER)
        grants = [await house.issued(child), await house.spent(parent)]
        other = await house.accepted()
        await house.store.mark(house.make.mark(f"step:{parent.step.id}"))
        assert (await house.store.reap(house.now)).steps == 2
        ended = [await house.store.step(one.step.id) for one in (parent, child, other)]
        assert [one.life.state for one in ended if one is not None] == ["revoked", "revoked", "accepted"]
        records = [await house.store.grant(grant.id) for grant in grants]
        assert [one.state for one in records if one is not None] == ["revoked", "revoked"]
        assert (await house.store.reap(house.now)).steps == 0

    async def test_a_freeze_ends_nothing(self, house: House) -> None:
        record = await house.accepted()
        await house.store.mark(house.make.mark(f"step:{record.step.id}", "freeze"))
        assert (await house.store.reap(house.now)).steps == 0

    async def test_what_nobody_can_ask_for_any_more_is_purged(self, house: House) -> None:
        record = await house.accepted()
        grant = await house.spent(record)
        await house.store.mark(house.make.mark(f"step:{record.step.id}"))
        await house.store.move(house.make.move(record, "close"))
        house.pass_time(3600)
        await house.store.reap(house.now)
        house.pass_time(3600)
        purged = (await house.store.reap(house.now)).purged
        assert purged > 0
        gone = [await house.store.step(record.step.id), await house.store.grant(grant.id)]
        assert gone == [None, None]
        assert dict(house.store.marks()) == {}
        assert dict(house.store.tats()) == {}
        await house.reopen()
        assert dict(house.store.marks()) == {}, "it is not kept anywhere"

    async def test_a_large_sweep_lets_others_in_between(self, house: House) -> None:
        root = await house.root()
        opens = [house.child(root) for _ in range(500)]
        await asyncio.gather(*opens)
        house.pass_time(300)
        sweep = asyncio.ensure_future(house.store.reap(house.now))
        await house.root()
        assert not sweep.done()
        assert (await sweep).steps == 500


class CopyContract:
    async def test_a_copy_is_taken_while_serving_and_never_over_another_file(
        self, house: House, tmp_path: Path
    ) -> None:
        target = tmp_path / "copy.db"
        before = await house.root()
        _, later = await asyncio.gather(house.store.backup(str(target)), house.root())
        assert target.stat().st_size > 0
        assert await code(house.store.backup(str(target))) == "wrong_state"
        assert before.step.id != later.step.id


class PinContract:
    """The first key shown with a bearer document stays its only one."""

    async def test_the_first_key_stays_and_another_is_refused(self, house: House) -> None:
        await house.store.pin(pinned(house))
        await house.store.pin(pinned(house))
        with pytest.raises(Refused) as second:
            await house.store.pin(pinned(house, jkt="b" * 43))
        assert (second.value.code, second.value.rule) == ("replay", "second_key")
        await house.store.pin(pinned(house, svid="another", jkt="b" * 43))
        await house.store.pin(pinned(house))

    async def test_of_many_keys_at_once_one_wins(self, house: House) -> None:
        keys = [f"{at:043d}" for at in range(32)]
        tried = [house.store.pin(pinned(house, jkt=key)) for key in keys]
        results = await asyncio.gather(*tried, return_exceptions=True)
        assert [result for result in results if result is None] == [None]
        assert sum(isinstance(result, Refused) for result in results) == 31

    async def test_it_outlives_a_restart_and_is_purged_after_its_end(self, house: House) -> None:
        await house.store.pin(pinned(house))
        await house.reopen()
        assert await code(house.store.pin(pinned(house, jkt="b" * 43))) == "replay"
        house.pass_time(301)
        await house.store.reap(house.now)
        await house.store.pin(pinned(house, jkt="b" * 43))

    async def test_a_clock_that_went_ahead_and_came_back_frees_no_document(self, house: House) -> None:
        """After the purge nobody knows the first key any more, though the document is good again."""
        first, thief = pinned(house), pinned(house, jkt="b" * 43)
        await house.store.pin(first)
        house.pass_time(3600)
        await house.store.reap(house.now)
        house.pass_time(-3600)
        for stale in (thief, first):
            with pytest.raises(Unavailable) as doubt:
                await house.store.pin(stale)
            assert doubt.value.rule == "clock"
        house.pass_time(3600)
        await house.store.pin(pinned(house, svid="another"))

    async def test_a_clock_that_went_ahead_and_came_back_lets_no_proof_serve_again(
        self, house: House
    ) -> None:
        proof = ProofUse(kind="dpop", key="k.1", until=house.now + 60)
        long_lived = replace(pinned(house), until=house.now + 7200)
        await house.store.pin(replace(long_lived, proofs=(proof,)))
        house.pass_time(3600)
        await house.store.reap(house.now)
        house.pass_time(-3600)
        await house.store.pin(long_lived)
        with pytest.raises(Unavailable) as doubt:
            await house.store.pin(replace(long_lived, proofs=(proof,)))
        assert doubt.value.rule == "clock"

    async def test_its_proofs_serve_once_and_only_for_the_right_key(self, house: House) -> None:
        proof = ProofUse(kind="dpop", key="k.1", until=house.now + 60)
        await house.store.pin(pinned(house))
        assert await code(house.store.pin(pinned(house, jkt="b" * 43, proofs=(proof,)))) == "replay"
        await house.store.pin(pinned(house, proofs=(proof,)))
        with pytest.raises(Refused) as again:
            await house.store.pin(pinned(house, proofs=(proof,)))
        assert again.value.rule == "proof dpop"


def pinned(
    house: House, *, svid: str = "document", jkt: str = "a" * 43, proofs: tuple[ProofUse, ...] = ()
) -> KeyPin:
    return KeyPin(svid=svid, jkt=jkt, until=house.now + 300, proofs=proofs, now=house.now)
