"""The contract of the ApprovalStore port, on the same stores as the Store port's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, cast

import pytest
from tests.contracts.store_suite import House, code
from tests.fakes.build import Maker

from stepwrit_broker.core.approval import ApprovalRecord, Ask, Asked, Signed
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.ports import Evidence, ProofUse
from stepwrit_broker.ports_approval import (
    ApprovalStore,
    Backlog,
    DecideCommand,
    Given,
    PresentCommand,
    ProposeCommand,
    RefuseCommand,
    SignCommand,
    Sought,
)

IDP = "https://idp.example.test"
ALICE, BOB = Identity(IDP, "alice"), Identity(IDP, "bob")
PERSONS = Persons({"alice": frozenset({ALICE}), "bob": frozenset({BOB})})
WAIT_S = 600.0


class _Holds(Protocol):
    approvals: ApprovalStore


def of(house: House) -> ApprovalStore:
    return cast("_Holds", house.store).approvals


def ask(make: Maker, step: Step, *terms: Terms) -> Ask:
    assert step.action is not None
    asked = Asked(
        id=make.id("apr"),
        nonce=make.entropy.bytes(32).hex(),
        step=step,
        action=step.action,
        performer=step.performer,
        kind="action_token",
        policies=("p",),
        versions={"policy": 0, "registry": 0, "limits": 0},
        terms=terms or (Terms(),),
        asked_at=int(make.now),
        expires_at=int(make.now + WAIT_S),
        text="t" * 43,
    )
    return Ask(asked=asked, sealed=b"sealed text")


async def asked(house: House, *terms: Terms) -> ApprovalRecord:
    root = await house.root()
    step = house.make.child_step(root, approve_by=house.now + WAIT_S, expires_at=house.now + WAIT_S + 300)
    wanted = ask(house.make, step, *terms)
    record = await house.store.open(house.make.open(step, ask=wanted))
    assert record.life.state == "approval_pending"
    found = await of(house).approval(wanted.asked.id)
    assert found is not None
    assert found.asked == wanted.asked
    return found


def signing(make: Maker, asked: Asked, who: Identity = ALICE, **changes: Any) -> SignCommand:
    given = Given(by=who, method="key", digest=asked.digest, authenticator=None)
    given = replace(given, **changes)
    return SignCommand(
        approval=asked.id,
        signed=Signed(
            by=who, digest=given.digest, at=make.now, method="key", authenticator=given.authenticator
        ),
        given=given,
        who="per_1",
        persons=PERSONS,
        ref=make.ref(),
        now=make.now,
    )


def refusing(house: House, record: ApprovalRecord, verb: Any = "deny") -> RefuseCommand:
    return RefuseCommand(
        approval=record.asked.id, verb=verb, by="per_1", reason="no", ref=house.make.ref(), now=house.now
    )


def proposing(house: House, **changes: Any) -> ProposeCommand:
    name = f"aut_{house.make.ref()}"
    key = Authenticator(
        id=name, owner=ALICE, kind="passkey", public_key=f'{{"k":"{name}"}}', credential=name[4:]
    )
    return ProposeCommand(
        authenticator=replace(key, **changes),
        who="per_1",
        proofs=(),
        evidence=Evidence(),
        ref=house.make.ref(),
        now=house.now,
    )


def deciding(house: House, key: Authenticator, verb: Any = "approve") -> DecideCommand:
    return DecideCommand(
        authenticator=key.id,
        verb=verb,
        by="uid:0",
        reason="seen",
        who="per_1",
        ref=house.make.ref(),
        now=house.now,
    )


async def state_of(house: House, record: ApprovalRecord) -> tuple[str, str]:
    """Of the approval and of its step."""
    found = await of(house).approval_of(record.asked.step.id)
    step = await house.store.step(record.asked.step.id)
    assert found is not None
    assert step is not None
    return found.state, step.life.state


class ApprovalContract:
    async def test_what_waits_is_counted_and_found_by_what_it_is(self, house: House) -> None:
        assert await of(house).backlog() == Backlog(waiting=0, since=None)
        first = await asked(house)
        house.make.now += 7
        second = await asked(house)
        backlog = await of(house).backlog()
        assert (backlog.waiting, backlog.since) == (2, float(first.asked.asked_at))
        step = second.asked.step
        assert step.action is not None
        tool, by = step.action.tool, step.initiator
        for sought, expected in {
            Sought(): [second, first],
            Sought(most=1): [second],
            Sought(txn=step.txn): [second],
            Sought(tool=tool, initiator=by): [second, first],
            Sought(tool="no/tool"): [],
            Sought(initiator="spiffe://example.test/nobody"): [],
            Sought(tenant="another"): [],
        }.items():
            assert list(await of(house).approvals(sought)) == expected
        await of(house).sign(signing(house.make, first.asked))
        assert (await of(house).backlog()).waiting == 1

    async def test_the_last_signature_opens_the_step_in_the_same_write(self, house: House) -> None:
        record = await asked(house, Terms(count=2, persons=frozenset({"bob"})))
        assert (await of(house).sign(signing(house.make, record.asked))).state == "asked"
        assert await state_of(house, record) == ("asked", "approval_pending")
        assert (await of(house).sign(signing(house.make, record.asked, BOB))).state == "given"
        assert await state_of(house, record) == ("given", "opened")
        assert house.kinds()[-3:] == ["approval.signed", "approval.signed", "approval.given"]

    async def test_the_same_person_twice_is_one(self, house: House) -> None:
        record = await asked(house, Terms(count=2, persons=frozenset({"bob"})))
        after = await of(house).sign(signing(house.make, record.asked))
        before = len(house.entries())
        assert await code(of(house).sign(signing(house.make, record.asked))) == "wrong_state"
        assert (after.state, len(after.signed), len(house.entries())) == ("asked", 1, before)

    async def test_only_what_is_signed_can_be_accepted_and_that_uses_it_up(self, house: House) -> None:
        record = await asked(house)
        step = await house.store.step(record.asked.step.id)
        assert step is not None
        assert await code(house.store.accept(house.make.accept(step))) == "wrong_state"
        await of(house).sign(signing(house.make, record.asked))
        await house.store.accept(house.make.accept(step))
        assert await state_of(house, record) == ("used", "accepted")
        assert await code(of(house).sign(signing(house.make, record.asked))) == "wrong_state"
        assert await of(house).sealed_text(record.asked.id) is None

    async def test_a_nonce_is_used_once(self, house: House) -> None:
        first, second = await asked(house), await asked(house)
        proof = ProofUse(kind="approval", key="n1", until=house.now + 300)
        await of(house).sign(signing(house.make, first.asked, proofs=(proof,)))
        assert await code(of(house).sign(signing(house.make, second.asked, proofs=(proof,)))) == "replay"
        assert await state_of(house, second) == ("asked", "approval_pending")

    async def test_a_signature_over_something_else_or_by_somebody_else_changes_nothing(
        self, house: House
    ) -> None:
        record, before = await asked(house), len(house.entries())
        assert (
            await code(of(house).sign(signing(house.make, record.asked, digest="x" * 43))) == "access_denied"
        )
        assert await code(of(house).sign(signing(house.make, record.asked, BOB))) == "access_denied"
        assert len(house.entries()) == before
        assert (await of(house).sign(signing(house.make, record.asked))).state == "given"

    @pytest.mark.parametrize(("verb", "word"), [("deny", "denied"), ("cancel", "cancelled")])
    async def test_an_end_by_hand_ends_the_step_and_erases_the_text(
        self, house: House, verb: str, word: str
    ) -> None:
        record = await asked(house)
        assert await of(house).sealed_text(record.asked.id) == b"sealed text"
        after = await of(house).refuse(refusing(house, record, verb))
        assert (after.state, await state_of(house, record)) == (word, (word, "cancelled"))
        assert await of(house).sealed_text(record.asked.id) is None
        assert await code(of(house).sign(signing(house.make, record.asked))) == "access_denied"
        assert await code(of(house).refuse(refusing(house, record, verb))) == "access_denied"

    async def test_time_ends_it(self, house: House) -> None:
        record = await asked(house)
        house.pass_time(WAIT_S + 1)
        assert await code(of(house).sign(signing(house.make, record.asked))) == "expired_token"
        await house.store.reap(house.now)
        assert await state_of(house, record) == ("expired", "expired")

    async def test_a_revoked_step_takes_no_signature(self, house: House) -> None:
        one, other = await asked(house), await asked(house)
        await of(house).sign(signing(house.make, one.asked))
        await house.store.mark(house.make.mark(f"txn:{other.asked.step.txn}"))
        assert await code(of(house).sign(signing(house.make, other.asked))) == "revoked"
        await house.store.reap(house.now)
        assert (await state_of(house, other))[1] == "revoked"

    async def test_it_survives_a_restart_in_each_state(self, house: House) -> None:
        waits, given = await asked(house), await asked(house)
        await of(house).sign(signing(house.make, given.asked))
        await house.reopen()
        assert await state_of(house, waits) == ("asked", "approval_pending")
        assert await state_of(house, given) == ("given", "opened")
        assert (await of(house).sign(signing(house.make, waits.asked))).state == "given"

    async def test_lists_are_by_tenant_state_and_transaction(self, house: House) -> None:
        one, other = await asked(house), await asked(house)
        await of(house).sign(signing(house.make, other.asked))
        ids = [each.asked.id for each in await of(house).approvals(Sought())]
        assert ids == [other.asked.id, one.asked.id]
        for sought, found in (
            (Sought(state="asked"), [one.asked.id]),
            (Sought(txn=other.asked.step.txn), [other.asked.id]),
            (Sought(tenant="acme", most=1), [other.asked.id]),
            (Sought(tenant="blue"), []),
            (Sought(requester="per_1", state="given"), [other.asked.id]),
        ):
            assert [each.asked.id for each in await of(house).approvals(sought)] == found

    async def test_what_is_not_there(self, house: House) -> None:
        record = await asked(house)
        gone = replace(signing(house.make, record.asked), approval="apr_x")
        assert await code(of(house).sign(gone)) == "not_found"
        assert await of(house).approval("apr_x") is None
        assert await of(house).approval_of("stp_x") is None
        assert await of(house).sealed_text("apr_x") is None


class AuthenticatorContract:
    async def test_a_key_counts_only_between_its_approval_and_its_retirement(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        record = await asked(house)
        by_key = signing(house.make, record.asked, authenticator=key.id, sign_count=1)
        assert (key.state, await code(of(house).sign(by_key))) == ("proposed", "access_denied")
        assert (await of(house).decide(deciding(house, key))).state == "active"
        assert (await of(house).sign(by_key)).state == "given"
        assert (await of(house).decide(deciding(house, key, "retire"))).state == "retired"
        other = await asked(house)
        late = signing(house.make, other.asked, authenticator=key.id, sign_count=2)
        assert await code(of(house).sign(late)) == "access_denied"
        assert await code(of(house).decide(deciding(house, key))) == "not_found"
        told = [kind for kind in house.kinds() if str(kind).startswith("authenticator.")]
        assert told == ["authenticator.proposed", "authenticator.approved", "authenticator.retired"]

    async def test_the_entry_tells_the_public_key_and_no_person(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        entry = next(each for each in house.entries() if each["kind"] == "authenticator.proposed")
        assert (entry["public_key"], entry["fingerprint"]) == (key.public_key, key.fingerprint)
        assert "alice" not in str(entry)

    async def test_a_counter_that_goes_back_is_a_copy(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        await of(house).decide(deciding(house, key))
        for count in (5, 6):
            record = await asked(house)
            command = signing(house.make, record.asked, authenticator=key.id, sign_count=count)
            assert (await of(house).sign(command)).state == "given"
        for count in (6, 5, 0):
            record = await asked(house)
            command = signing(house.make, record.asked, authenticator=key.id, sign_count=count)
            assert await code(of(house).sign(command)) == "access_denied"
        found = await of(house).authenticator(key.id)
        assert found is not None
        assert found.sign_count == 6

    async def test_a_passkey_without_a_counter_always_says_zero(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        await of(house).decide(deciding(house, key))
        for _ in range(2):
            record = await asked(house)
            command = signing(house.make, record.asked, authenticator=key.id, sign_count=0)
            assert (await of(house).sign(command)).state == "given"

    async def test_a_key_of_somebody_else_is_not_the_signers(self, house: House) -> None:
        key = await of(house).propose(proposing(house, owner=BOB))
        await of(house).decide(deciding(house, key))
        record = await asked(house, Terms(persons=frozenset({"bob"}), requester=True))
        stolen = signing(house.make, record.asked, ALICE, authenticator=key.id)
        assert await code(of(house).sign(stolen)) == "access_denied"
        assert (
            await of(house).sign(signing(house.make, record.asked, BOB, authenticator=key.id))
        ).state == "given"

    async def test_a_key_is_known_once(self, house: House) -> None:
        first = proposing(house)
        await of(house).propose(first)
        key = first.authenticator
        for again in (
            proposing(house, public_key=key.public_key),
            proposing(house, credential=key.credential),
        ):
            assert await code(of(house).propose(again)) == "wrong_state"
        assert [each.id for each in await of(house).authenticators(ALICE)] == [key.id]
        assert await of(house).authenticators(BOB) == []
        assert len(await of(house).authenticators(None)) == 1
        assert await of(house).authenticator(key.credential) == await of(house).authenticator(key.id)

    async def test_an_invitation_is_used_once(self, house: House) -> None:
        proof = ProofUse(kind="invitation", key="i", until=house.now + 60)
        await of(house).propose(replace(proposing(house), proofs=(proof,)))
        assert await code(of(house).propose(replace(proposing(house), proofs=(proof,)))) == "replay"

    async def test_signing_in_uses_its_proofs_up_and_moves_the_counter(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        shown = presenting(house, key, 4)
        assert await code(of(house).present(shown)) == "access_denied", "it is only proposed"
        await of(house).decide(deciding(house, key))
        assert await code(of(house).present(replace(shown, by=BOB))) == "access_denied"
        await of(house).present(shown)
        assert await code(of(house).present(shown)) == "replay"
        assert await code(of(house).present(presenting(house, key, 4))) == "access_denied", "a clone"
        await of(house).present(presenting(house, key, 5))
        assert await code(of(house).present(presenting(house, key, 5))) == "access_denied"
        await of(house).decide(deciding(house, key, "retire"))
        assert await code(of(house).present(presenting(house, key, 6))) == "access_denied"

    async def test_a_refused_sign_in_uses_nothing_up(self, house: House) -> None:
        key = await of(house).propose(proposing(house))
        await of(house).decide(deciding(house, key))
        await of(house).present(presenting(house, key, 4))
        shown = presenting(house, key, 4)
        assert await code(of(house).present(shown)) == "access_denied"
        await of(house).present(replace(shown, sign_count=5))

    async def test_another_way_to_sign_in_has_no_counter(self, house: House) -> None:
        shown = PresentCommand(
            by=ALICE,
            authenticator=None,
            sign_count=None,
            proofs=(house.make.proof(),),
            now=house.now,
        )
        await of(house).present(shown)
        assert await code(of(house).present(shown)) == "replay"


def presenting(house: House, key: Authenticator, count: int) -> PresentCommand:
    return PresentCommand(
        by=key.owner, authenticator=key.id, sign_count=count, proofs=(house.make.proof(),), now=house.now
    )
