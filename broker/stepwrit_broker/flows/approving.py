"""Approvals from the persons' side: see what is asked, sign it, deny it. Who they are was proved at the edge.

To a person who may not sign an approval it looks like none: an id opens nothing by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.approval import ApprovalRecord, Signed, may_sign, missing
from stepwrit_broker.core.approval_text import text_digest
from stepwrit_broker.core.errors import Conflict, Refused, Unavailable
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.flows import attempts, revoke
from stepwrit_broker.flows.asking import notice, signer_subjects
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports import ProofUse
from stepwrit_broker.ports_approval import Given, RefuseCommand, SignCommand, Sought

REASON_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one person may see of one approval. text: the lines, None when it is over: they are erased.

    missing: signatures that are still to come. has_signed: whether this person's is there.
    """

    record: ApprovalRecord
    text: tuple[str, ...] | None = field(repr=False)
    missing: int
    has_signed: bool


async def view(house: House, who: Identity, name: str) -> View:
    """Raises Refused(`not_found`) for whoever may not sign it."""
    record = await _mine(house, who, name)
    persons = _persons(house)
    return View(
        record=record,
        text=await text_of(house, record),
        missing=missing(record.asked, record.signed, persons),
        has_signed=any(persons.is_same(each.by, who) and not each.withdrawn for each in record.signed),
    )


async def text_of(house: House, record: ApprovalRecord) -> tuple[str, ...] | None:
    """The lines that persons read, None once they are erased. Whose it is to read was asked before.

    Raises Unavailable for anything but the text whose digest is signed.
    """
    sealed = await house.approvals.sealed_text(record.asked.id)
    if sealed is None:
        return None
    lines = tuple(json.loads(house.sealer.open(sealed, record.asked.id)))
    if text_digest(lines) != record.asked.text:
        raise Unavailable("unavailable", "the text kept is not the one to be signed", rule="store")
    return lines


async def waiting(house: House, who: Identity) -> Sequence[ApprovalRecord]:
    """Everything that waits for this person's signature, newest first.

    What they want themselves is looked for by name, so that others who ask much hide nothing from them.
    """
    persons = _persons(house)
    sought = [Sought(state="asked", requester=house.opaque(each)) for each in persons.identities(who)]
    name = persons.name(who)
    if name is not None:
        sought.append(Sought(state="asked", requester=f"owner:{name}"))
        sought.append(Sought(state="asked", tenant=persons.tenants.get(name)))
    found = {each.asked.id: each for one in sought for each in await house.approvals.approvals(one)}
    newest = sorted(found.values(), key=lambda each: each.asked.asked_at, reverse=True)
    return [each for each in newest if may_sign(each.asked, who, persons)]


async def begin(house: House, who: Identity, name: str) -> attempts.Try:
    """A nonce for one attempt of this person at this approval.

    Raises Refused(`not_found`, `access_denied`, `expired_token`), Conflict(`wrong_state`).
    """
    record, now = await _mine(house, who, name), house.clock.now()
    _check_open(record, now)
    nonce, until = attempts.make_nonce(house, *_tried(who, name))
    return attempts.Try(nonce=nonce, challenge=record.asked.challenge(nonce), until=until)


async def challenge_of(house: House, who: Identity, name: str, nonce: bytes) -> tuple[bytes, ProofUse]:
    """What was to be signed in the attempt that `nonce` names, and its use.

    Raises Unproven(`invalid_proof`) for a nonce that was not made here for this, or is too old; before
    anything is said of the approval, since whoever hands one in may have proved nothing yet.
    """
    use = attempts.check_nonce(house, nonce, *_tried(who, name), kind="approval")
    record = await _mine(house, who, name)
    return record.asked.challenge(nonce), use


async def sign(house: House, name: str, given: Given) -> ApprovalRecord:
    """Record one verified signature. Raises Refused, Conflict, Unavailable."""
    record, now, ref = await _mine(house, given.by, name), house.clock.now(), house.ref()
    _check_open(record, now)
    signed = Signed(
        by=given.by, digest=given.digest, at=now, method=given.method, authenticator=given.authenticator
    )
    persons = _persons(house)
    command = SignCommand(
        approval=name,
        signed=signed,
        given=given,
        who=house.opaque(given.by),
        persons=persons,
        ref=ref,
        now=now,
        subjects=signer_subjects(house, given.by, persons),
    )
    after = await house.approvals.sign(command)
    _tell(house, "given" if after.state == "given" else "signed", after, ref)
    return after


async def deny(
    house: House, who: Identity, name: str, reason: str, *, freeze: bool = False
) -> ApprovalRecord:
    """This person says no: the step ends. freeze: and nothing of its transaction goes on.

    The freeze comes first: whatever happens after it, the brake is on.
    """
    record = await _mine(house, who, name)
    if freeze:
        await _freeze(house, who, record)
    return await _refuse(house, name, "deny", house.opaque(who), reason)


async def known(house: House, name: str, tenant: str | None) -> ApprovalRecord:
    """What an operator of that tenant may know of; None: of all. Raises Refused(`not_found`)."""
    record = await house.approvals.approval(name) if is_id("apr", name) else None
    if record is None or (tenant is not None and record.asked.step.tenant != tenant):
        raise Refused("not_found", "no such approval")
    return record


async def cancel(house: House, by: str, name: str, reason: str, tenant: str | None = None) -> ApprovalRecord:
    """An operator ends it. Raises Refused(`not_found`) for another tenant's."""
    await known(house, name, tenant)
    return await _refuse(house, name, "cancel", by, reason)


async def remind(house: House, name: str, tenant: str | None = None) -> ApprovalRecord:
    """Tell its approvers again. Raises Refused(`not_found`), and as `move` does when it is over."""
    record = await known(house, name, tenant)
    _check_open(record, house.clock.now())
    house.notices.tell(notice(house, "reminded", record, house.ref()))
    return record


async def tell_expired(house: House, name: str) -> bool:
    """Tell of an approval that was not given in time. False: the sweep has not ended it yet; look again."""
    record = await house.approvals.approval(name)
    over = record is not None and record.state == "expired"
    if record is not None and over and missing(record.asked, record.signed, _persons(house)):
        _tell(house, "expired", record, house.ref())
    return record is None or record.state not in ("asked", "given")


async def _refuse(
    house: House, name: str, verb: Literal["deny", "cancel"], by: str, reason: str
) -> ApprovalRecord:
    ref = house.ref()
    after = await house.approvals.refuse(
        RefuseCommand(
            approval=name,
            verb=verb,
            by=by,
            reason=reason[:REASON_MAX],
            ref=ref,
            now=house.clock.now(),
        )
    )
    _tell(house, after.state, after, ref)
    return after


async def _freeze(house: House, who: Identity, record: ApprovalRecord) -> None:
    """Marks are in the log for ever: what the person wrote stays with the denial."""
    step = record.asked.step
    operator = revoke.Operator(name=f"person:{house.opaque(who)}")  # of this one target, which is theirs
    asked = MarkRequest(verb="freeze", target=f"txn:{step.txn}", reason="frozen by an approver")
    name = house.operation_name()
    await revoke.mark(house, operator, asked, name, name)


async def _mine(house: House, who: Identity, name: str) -> ApprovalRecord:
    record = await house.approvals.approval(name) if is_id("apr", name) else None
    if record is None or not may_sign(record.asked, who, _persons(house)):
        raise Refused("not_found", "no such approval")
    return record


def _check_open(record: ApprovalRecord, now: float) -> None:
    if record.state in ("denied", "cancelled"):
        raise Refused("access_denied", f"the approval was {record.state}")
    if record.state == "expired" or now >= record.asked.expires_at:
        raise Refused("expired_token", "the approval has expired")
    if record.state != "asked":
        raise Conflict("wrong_state", "the approval was given already")


def _persons(house: House) -> Persons:
    return house.settings.now_in_force().registry.persons


def _tell(house: House, event: str, record: ApprovalRecord, ref: str) -> None:
    house.bell.ring(record.asked.id)
    house.notices.tell(notice(house, event, record, ref))


def _tried(who: Identity, name: str) -> tuple[str, ...]:
    return "approval", name, who.issuer, who.subject
