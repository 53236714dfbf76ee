"""Approvals signed by a key that the operator registered: no browser, no session, no password."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stepwrit.digest import b64u
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator, key_id
from stepwrit_broker.core.errors import Conflict, Problem, Refused, Unproven
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.statement import APPROVAL, approval_statement
from stepwrit_broker.flows import approving
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.ports import Evidence
from stepwrit_broker.ports_approval import DecideCommand, Given, Keys, ProposeCommand

LABEL_MAX: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A public key (PEM or OpenSSH) that an operator has from the person themself. reason: for the ledger."""

    owner: Identity
    text: str = field(repr=False)
    label: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySignature:
    """What came in for an approval. key: its id. attempt: the nonce that `approving.begin` gave."""

    key: str
    attempt: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def owner_of(persons: Persons, name: str) -> Identity:
    """The identity under which a person of the list holds keys. Raises Refused(`not_registered`)."""
    identities = persons.links.get(name)
    if not identities:
        raise Refused(
            "not_registered",
            "no such person in the registry",
            rule="persons",
            who_can_change_it="the operator (registry, persons)",
        )
    return min(identities)


async def add_key(house: House, keys: Keys, by: Operator, new: NewKey) -> Authenticator:
    """Propose and approve it, each with its entry; an operator's act, who vouches for whose it is.

    Raises Malformed for what is no key, Conflict(`wrong_state`) for one that is known.
    """
    public_key = keys.read(new.text)
    made = Authenticator(
        id=key_id(public_key), owner=new.owner, kind="key", public_key=public_key, label=new.label[:LABEL_MAX]
    )
    who, ref = house.opaque(new.owner), house.ref()
    if not await _is_half_added(house, made):
        evidence = Evidence(facts={"by": by.name})
        await house.approvals.propose(
            ProposeCommand(
                authenticator=made, who=who, proofs=(), evidence=evidence, ref=ref, now=house.clock.now()
            )
        )
    return await house.approvals.decide(
        DecideCommand(
            authenticator=made.id,
            verb="approve",
            by=by.name,
            reason=new.reason,
            who=who,
            ref=ref,
            now=house.clock.now(),
        )
    )


async def _is_half_added(house: House, wanted: Authenticator) -> bool:
    """Whether an earlier try stopped between its two writes."""
    known = await house.approvals.authenticator(wanted.id)
    if known is not None and known.owner != wanted.owner:
        raise Conflict("wrong_state", "this key is another person's already")
    return known is not None and known.state == "proposed"


async def active_key(house: House, name: str) -> Authenticator:
    """The key of this id. Raises Unproven(`invalid_proof`) for one that does not count."""
    found = await house.approvals.authenticator(name)
    if found is None or found.id != name or found.kind != "key" or found.state != "active":
        raise Unproven(
            "invalid_proof",
            "this key is not registered as an approver's",
            rule="authenticator",
            who_can_change_it="the operator (stepwrit authenticators)",
        )
    return found


async def sign_by_key(house: House, keys: Keys, name: str, shown: KeySignature) -> ApprovalRecord:
    """Verify a detached signature over this approval and record it.

    Raises Unproven(`invalid_proof`), and what `approving.sign` raises. A key's id is no secret: without an
    attempt, which takes the key to begin, the answer says nothing of who may sign what.
    """
    key = await active_key(house, shown.key)
    _, once = await approving.challenge_of(house, key.owner, name, shown.attempt)
    digest = (await approving.view(house, key.owner, name)).record.asked.digest
    said = approval_statement(
        issuer=house.issuer, approval=name, key=key.id, attempt=b64u(shown.attempt), digest=digest
    )
    keys.check(key.public_key, APPROVAL, said, shown.signature)
    given = Given(
        by=key.owner,
        method="key",
        digest=digest,
        authenticator=key.id,
        proofs=(once,),
        evidence={
            "statement": said.decode(),
            "signature": b64u(shown.signature),
            "public_key": key.public_key,
        },
    )
    try:
        return await approving.sign(house, name, given)
    except Problem as problem:
        await house.refusals.note_person(problem, house.opaque(key.owner), "approve", name)
        raise
