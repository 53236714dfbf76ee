"""Erasing, for every store: what lies beside the ledger goes for ever, and an entry says so."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import msgspec
from tests.contracts.store_suite import Beside, Entry, House, code, refusal

from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ports import Evidence, Happening
from stepwrit_broker.ports_ledger import EraseCommand, Erased

DECISION = {"verdict": "permit", "person": "ann@example.test"}


async def erase(house: House, name: str, txn: str | None) -> Erased:
    command = EraseCommand(
        name=name,
        txn=txn,
        tenant="acme",
        reason="request 4711",
        by="ops",
        ref=house.make.ref(),
        now=house.now,
    )
    return await house.store.erase(command)


async def story(house: House) -> StepRecord:
    """A transaction of two steps that lives, with a decision document."""
    root = await house.root()
    evidence = Evidence(facts={"svid": "01"}, decision=DECISION)
    step = house.make.child_step(root)
    record = await house.store.open(house.make.open(step, evidence=evidence))
    running, _ = await house.store.accept(house.make.accept(record))
    return running


async def long_after(house: House) -> None:
    """When the store has let go of its steps, and of what they hang on."""
    for _ in range(3):
        house.pass_time(3600)
        await house.store.reap(house.now)


async def over(house: House) -> StepRecord:
    record = await story(house)
    await house.store.mark(house.make.mark(f"txn:{record.step.txn}"))
    await house.store.reap(house.now)
    return record


def shown(house: House, txn: str) -> bool:
    """Whether whoever reads what is kept can show what the entry's digest stands for."""
    found = house.beside(txn)
    opened = [each for each in house.entries() if each["kind"] == "step.opened" and "decision" in each]
    digests = {each["decision"] for each in opened}
    salt = found.salt or b""
    return any(hashlib.sha256(salt + doc).hexdigest() in digests for doc in found.documents)


def told(entry: Entry) -> tuple[object, ...]:
    return tuple(entry.get(name) for name in ("kind", "ref", "erased", "reason", "by", "documents"))


class ErasingContract:
    async def test_salt_and_documents_go_and_an_entry_says_so(self, house: House) -> None:
        record = await over(house)
        txn = record.step.txn
        assert shown(house, txn)
        before = house.entries()
        done = await erase(house, txn, txn)
        assert done.documents == 1
        assert house.beside(txn) == Beside(None, ())
        assert not shown(house, txn)
        after = house.entries()
        assert after[: len(before)] == before, "what was said stands"
        assert [told(each) for each in after[len(before) :]] == [
            ("txn.erased", done.ref, txn, "request 4711", "ops", 1)
        ]

    async def test_nothing_of_another_transaction_goes(self, house: House) -> None:
        record, other = await over(house), await over(house)
        kept = house.beside(other.step.txn)
        assert kept.salt is not None
        await erase(house, record.step.txn, record.step.txn)
        assert house.beside(other.step.txn) == kept

    async def test_what_lives_is_not_erased(self, house: House) -> None:
        record = await story(house)
        txn = record.step.txn
        refused = await refusal(erase(house, txn, txn))
        assert refused.code == "wrong_state"
        assert refused.who_can_change_it == "the operator (stepwrit revoke txn)"
        assert shown(house, txn)
        assert "txn.erased" not in house.kinds()
        await house.store.mark(house.make.mark(f"txn:{txn}"))
        assert (await refusal(erase(house, txn, txn))).code == "wrong_state", "a mark alone ends nothing"
        await house.store.reap(house.now)
        await erase(house, txn, txn)

    async def test_what_is_unknown_or_erased_is_not_found(self, house: House) -> None:
        record = await over(house)
        txn = record.step.txn
        await erase(house, txn, txn)
        before = house.entries()
        for name in (txn, house.make.id("txn"), house.make.ref()):
            assert await code(erase(house, name, None)) == "not_found"
        assert house.entries() == before

    async def test_of_many_at_once_one_erases(self, house: House) -> None:
        txn = (await over(house)).step.txn
        done = await asyncio.gather(*(erase(house, txn, txn) for _ in range(8)), return_exceptions=True)
        assert len([each for each in done if isinstance(each, Erased)]) == 1
        assert house.kinds().count("txn.erased") == 1

    async def test_it_stays_gone_and_the_transaction_ends_as_any_other(self, house: House) -> None:
        record = await over(house)
        txn = record.step.txn
        await erase(house, txn, txn)
        await house.reopen()
        assert house.beside(txn).salt is None
        assert (await house.store.step(record.step.id)) is not None, "its steps are kept as long as any"
        happening = Happening(
            kind="refused",
            ref=house.make.ref(),
            tenant="acme",
            txn=txn,
            evidence=Evidence(facts={"code": "wrong_state"}, decision=DECISION),
            now=house.now,
        )
        await house.store.record(happening)
        assert house.beside(txn).salt is None, "a later entry brings no salt back"
        assert not shown(house, txn)
        await long_after(house)
        assert not await house.store.knows(txn)
        assert house.beside(txn).salt is None

    async def test_what_is_long_gone_is_erased_from_beside_the_ledger(self, house: House) -> None:
        txn = (await over(house)).step.txn
        await long_after(house)
        assert not await house.store.knows(txn)
        assert shown(house, txn)
        assert (await erase(house, txn, txn)).documents == 1
        assert house.beside(txn) == Beside(None, ())
        assert await code(erase(house, txn, txn)) == "not_found"
        assert not await house.store.knows(txn)

    async def test_what_is_outside_any_transaction_goes_by_its_ref(self, house: House) -> None:
        for _ in range(2):
            happening = Happening(
                kind="refused",
                ref=house.make.ref(),
                tenant="acme",
                txn=None,
                evidence=Evidence(facts={"code": "policy"}, decision={"verdict": "deny"}),
                now=house.now,
            )
            await house.store.record(happening)
            found = house.beside(happening.ref)
            assert found.salt is not None
            assert [msgspec.json.decode(doc) for doc in found.documents] == [{"verdict": "deny"}]
            assert (await erase(house, happening.ref, None)).documents == 1
            assert house.beside(happening.ref) == Beside(None, ())
            said = [each["erased"] for each in house.entries() if each["kind"] == "txn.erased"]
            assert said[-1] == happening.ref

    async def test_a_retry_of_what_was_done_before_is_still_answered(self, house: House) -> None:
        record = await story(house)
        command = house.make.move(record, "close")
        done = await house.store.move(command)
        await house.store.mark(house.make.mark(f"txn:{record.step.txn}"))
        await house.store.reap(house.now)
        await erase(house, record.step.txn, record.step.txn)
        assert (await house.store.move(replace(command))).record == done.record
