"""Passkeys from the invitation to the signature: who may propose, what counts, what is used once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.passkey import SoftPasskey
from tests.flows.rig import IDP, ISSUER, Rig
from tests.flows.test_approvals import ALICE, ALICE_TOO, BOB, LISTED, asked, refused, sign

from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Malformed, Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.flows import enrolling, passkeys
from stepwrit_broker.flows.attempts import ATTEMPT_S
from stepwrit_broker.flows.enrolling import INVITED_S

RP = WebAuthn(ISSUER)
OPS = "uid 0"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


def soft(**how: Any) -> SoftPasskey:
    return SoftPasskey(origin=RP.origin, rp_id=RP.rp_id, **how)


async def invitation(rig: Rig, who: Identity = ALICE) -> str:
    made = await enrolling.invite(rig.house, OPS, who, "new laptop")
    assert made.url.startswith(f"{ISSUER}/authenticators/new#")
    return made.url.partition("#")[2]


async def proposed(
    rig: Rig, key: SoftPasskey, who: Identity = ALICE, sealed: str | None = None
) -> Authenticator:
    sealed = sealed or await invitation(rig, who)
    opened = await enrolling.open_invitation(rig.house, RP, sealed)
    return await enrolling.propose(
        rig.house, RP, sealed, opened.nonce, key.make(dict(opened.options)), "laptop"
    )


async def registered(rig: Rig, key: SoftPasskey, who: Identity = ALICE) -> Authenticator:
    made = await proposed(rig, key, who)
    return await enrolling.decide(rig.house, OPS, made.id, "approve", "heard it", made.fingerprint)


async def signed_in(rig: Rig, key: SoftPasskey) -> Authenticator:
    nonce, options = passkeys.begin_sign_in(rig.house, RP)
    return await passkeys.sign_in(rig.house, RP, nonce, key.sign(dict(options)))


async def approved(
    rig: Rig, record: ApprovalRecord, key: SoftPasskey, who: Identity = ALICE
) -> ApprovalRecord:
    attempt, options = await passkeys.begin_approval(rig.house, RP, who, record.asked.id)
    return await passkeys.approve(rig.house, RP, who, record.asked.id, attempt.nonce, key.sign(dict(options)))


# --- from the invitation to the first sign-in


async def test_invited_proposed_approved_signs_in(rig: Rig) -> None:
    key = soft()
    made = await proposed(rig, key)
    assert (made.state, made.owner, made.label) == ("proposed", ALICE, "laptop")
    no = await refused(rig, signed_in(rig, key), "invalid_proof")
    assert no.rule == "authenticator", "a proposal counts for nothing"
    spoken = made.fingerprint.upper().replace("-", " ")
    assert (await enrolling.decide(rig.house, OPS, made.id, "approve", "heard", spoken)).state == "active"
    assert (await signed_in(rig, key)).owner == ALICE
    kinds = [each["kind"] for each in rig.entries() if each["kind"].startswith("authenticator.")]
    assert kinds == ["authenticator.invited", "authenticator.proposed", "authenticator.approved"]
    told = rig.entries("authenticator.proposed")[0]
    assert told["public_key"] == made.public_key
    assert told["invited_by"] == OPS
    assert "alice" not in str(rig.entries())


async def test_another_fingerprint_is_refused_and_changes_nothing(rig: Rig) -> None:
    mine, thiefs = await proposed(rig, soft()), await proposed(rig, soft())
    for said in (mine.fingerprint, "", None, "00000"):
        no = await refused(
            rig, enrolling.decide(rig.house, OPS, thiefs.id, "approve", "heard", said), "access_denied"
        )
        assert no.rule == "fingerprint"
    assert [each.state for each in await enrolling.everybodys(rig.house)] == ["proposed", "proposed"]
    await enrolling.decide(rig.house, OPS, mine.id, "approve", "heard", mine.fingerprint)


async def test_an_invitation_is_good_once(rig: Rig) -> None:
    sealed = await invitation(rig)
    await proposed(rig, soft(), sealed=sealed)
    assert (await refused(rig, proposed(rig, soft(), sealed=sealed), "replay")).rule == "proof invitation"
    assert len(await enrolling.everybodys(rig.house)) == 1


async def test_an_invitation_is_good_for_fifteen_minutes(rig: Rig) -> None:
    sealed = await invitation(rig)
    rig.clock.time += INVITED_S - 1
    assert (await enrolling.open_invitation(rig.house, RP, sealed)).person == "alice"
    rig.clock.time += 1
    await refused(rig, enrolling.open_invitation(rig.house, RP, sealed), "expired_token")


@pytest.mark.parametrize(
    "change", [lambda s: "", lambda s: s[:-2], lambda s: "A" + s[1:], lambda s: s + "=", lambda s: "é"]
)
async def test_what_is_no_invitation_is_refused(rig: Rig, change: Any) -> None:
    sealed = await invitation(rig)
    await enrolling.open_invitation(rig.house, RP, sealed)
    await refused(rig, enrolling.open_invitation(rig.house, RP, change(sealed)), "not_found")


async def test_what_was_sealed_for_something_else_is_no_invitation(rig: Rig) -> None:
    from stepwrit.digest import b64u

    sealed = b64u(rig.house.sealer.seal(b'["i","https://idp.example","alice",9e9,"ops"]', "session"))
    await refused(rig, enrolling.open_invitation(rig.house, RP, sealed), "not_found")


async def test_an_issuer_that_nobody_comes_from_cannot_be_invited(rig: Rig) -> None:
    with pytest.raises(Malformed, match=IDP):
        await invitation(rig, Identity("https://idp.other.test", "alice"))
    assert not rig.entries("authenticator.invited")


async def test_a_passkey_belongs_to_one_person(rig: Rig) -> None:
    key = soft()
    await proposed(rig, key)
    await refused(rig, proposed(rig, key, BOB), "wrong_state")


async def test_a_passkey_that_is_known_is_excluded_where_it_is(rig: Rig) -> None:
    key = soft()
    await proposed(rig, key)
    options = dict((await enrolling.open_invitation(rig.house, RP, await invitation(rig))).options)
    assert [each["id"] for each in options["excludeCredentials"]] == [key.id]


async def test_only_a_known_authenticator_is_decided_on(rig: Rig) -> None:
    await refused(rig, enrolling.decide(rig.house, OPS, "aut_none", "retire", "r"), "not_found")


# --- signing in


async def test_an_answer_signs_in_once(rig: Rig) -> None:
    key = soft(counter=None)
    await registered(rig, key)
    nonce, options = passkeys.begin_sign_in(rig.house, RP)
    said = key.sign(dict(options))
    await passkeys.sign_in(rig.house, RP, nonce, said)
    assert (
        await refused(rig, passkeys.sign_in(rig.house, RP, nonce, said), "replay")
    ).rule == "proof attempt"


async def test_an_attempt_lasts_five_minutes_and_was_begun_here(rig: Rig) -> None:
    key = soft()
    await registered(rig, key)
    nonce, options = passkeys.begin_sign_in(rig.house, RP)
    said = key.sign(dict(options))
    for other in (b"", nonce[:-1], bytes([nonce[0] ^ 1]) + nonce[1:]):
        await refused(rig, passkeys.sign_in(rig.house, RP, other, said), "invalid_proof")
    rig.clock.time += ATTEMPT_S
    await refused(rig, passkeys.sign_in(rig.house, RP, nonce, said), "invalid_proof")
    await signed_in(rig, key)


async def test_a_retired_passkey_signs_in_no_more(rig: Rig) -> None:
    key = soft()
    made = await registered(rig, key)
    await signed_in(rig, key)
    await enrolling.decide(rig.house, OPS, made.id, "retire", "lost")
    assert (await refused(rig, signed_in(rig, key), "invalid_proof")).rule == "authenticator"


async def test_a_counter_that_goes_back_signs_in_no_more(rig: Rig) -> None:
    key = soft(counter=5)
    await registered(rig, key)
    await signed_in(rig, key)
    key.counter = 5
    no = await refused(rig, signed_in(rig, key), "access_denied")
    assert no.rule == "cloned_authenticator"
    key.counter = 6
    await signed_in(rig, key)


async def test_a_passkey_made_for_somebody_else_is_refused(rig: Rig) -> None:
    key = soft()
    await registered(rig, key)
    await signed_in(rig, key)
    key.handle = b"per_somebody"
    assert (await refused(rig, signed_in(rig, key), "invalid_proof")).rule == "user handle"


# --- signing an approval


async def test_an_approval_is_signed_and_its_evidence_is_in_the_ledger(rig: Rig) -> None:
    key = soft()
    made = await registered(rig, key)
    record = await asked(rig, await rig.start())
    assert (await approved(rig, record, key)).state == "given"
    told = rig.entries("approval.signed")[0]
    assert (told["method"], told["authenticator"]) == ("webauthn", made.id)
    assert set(told["evidence"]) == {"client_data", "authenticator_data", "signature", "public_key", "nonce"}
    assert told["evidence"]["public_key"] == made.public_key


async def test_a_signature_for_one_approval_is_none_for_another(rig: Rig) -> None:
    key, root = soft(), await rig.start()
    await registered(rig, key)
    one, two = await asked(rig, root), await asked(rig, root)
    attempt, options = await passkeys.begin_approval(rig.house, RP, ALICE, one.asked.id)
    said = key.sign(dict(options))
    again, _ = await passkeys.begin_approval(rig.house, RP, ALICE, two.asked.id)
    for nonce in (attempt.nonce, again.nonce):
        await refused(rig, passkeys.approve(rig.house, RP, ALICE, two.asked.id, nonce, said), "invalid_proof")
    done = await passkeys.approve(rig.house, RP, ALICE, one.asked.id, attempt.nonce, said)
    assert done.state == "given"


async def test_an_answer_signs_once(rig: Rig) -> None:
    key = soft()
    await registered(rig, key)
    terms = Terms(count=2, persons=frozenset({"bob"}))
    record = await asked(rig, await rig.start(), "mail/pay", terms)
    attempt, options = await passkeys.begin_approval(rig.house, RP, ALICE, record.asked.id)
    said = key.sign(dict(options))
    args = (rig.house, RP, ALICE, record.asked.id, attempt.nonce, said)
    assert (await passkeys.approve(*args)).state == "asked"
    assert (await refused(rig, passkeys.approve(*args), "replay")).rule == "proof approval"


async def test_a_sign_in_is_no_approval_and_an_approval_no_sign_in(rig: Rig) -> None:
    key = soft()
    await registered(rig, key)
    record = await asked(rig, await rig.start())
    nonce, options = passkeys.begin_sign_in(rig.house, RP)
    said = key.sign(dict(options))
    await refused(rig, passkeys.approve(rig.house, RP, ALICE, record.asked.id, nonce, said), "invalid_proof")
    attempt, wanted = await passkeys.begin_approval(rig.house, RP, ALICE, record.asked.id)
    await refused(
        rig, passkeys.sign_in(rig.house, RP, attempt.nonce, key.sign(dict(wanted))), "invalid_proof"
    )
    await passkeys.sign_in(rig.house, RP, nonce, key.sign(dict(options)))


async def test_somebody_elses_passkey_does_not_sign_in_my_name(rig: Rig) -> None:
    mine, bobs = soft(), soft()
    await registered(rig, mine)
    await registered(rig, bobs, BOB)
    record = await asked(
        rig, await rig.start(), "mail/pay", Terms(persons=frozenset({"bob"}), requester=True)
    )
    assert (await refused(rig, approved(rig, record, bobs), "invalid_proof")).rule == "owner"
    assert (await approved(rig, record, mine)).state == "given"


async def test_a_linked_identity_of_the_same_person_signs_as_itself(rig: Rig) -> None:
    key = soft()
    made = await registered(rig, key, ALICE_TOO)
    record = await asked(rig, await rig.start())
    assert await passkeys.usable(rig.house, ALICE) == [key.id]
    done = await approved(rig, record, key, ALICE)
    assert [each.by for each in done.signed] == [made.owner]


async def test_a_cloned_passkey_signs_nothing(rig: Rig) -> None:
    key = soft(counter=9)
    await registered(rig, key)
    record = await asked(rig, await rig.start())
    key.counter = 3
    no = await refused(rig, approved(rig, record, key), "access_denied")
    assert no.rule == "cloned_authenticator"
    key.counter = 9
    assert (await approved(rig, record, key)).state == "given"


async def test_whoever_may_not_sign_begins_nothing(rig: Rig) -> None:
    bobs = soft()
    await registered(rig, bobs, BOB)
    record = await asked(rig, await rig.start())
    await passkeys.begin_approval(rig.house, RP, ALICE, record.asked.id)
    await refused(rig, passkeys.begin_approval(rig.house, RP, BOB, record.asked.id), "not_found")


async def test_a_key_in_a_file_is_no_passkey(rig: Rig) -> None:
    await registered(rig, soft())
    await rig.store.approvals.propose(key_of(rig))
    assert len(await passkeys.of_person(rig.house, ALICE)) == 2
    assert len(await passkeys.usable(rig.house, ALICE)) == 1
    with pytest.raises(Unproven):
        await signed_in(rig, soft())
    await sign(rig, await asked(rig, await rig.start()))


def key_of(rig: Rig) -> Any:
    from stepwrit_broker.ports import Evidence
    from stepwrit_broker.ports_approval import ProposeCommand

    key = Authenticator(id="aut_k", owner=ALICE, kind="key", public_key="{}")
    return ProposeCommand(
        authenticator=key,
        who="per_1",
        proofs=(),
        evidence=Evidence(),
        ref=rig.house.ref(),
        now=rig.clock.time,
    )
