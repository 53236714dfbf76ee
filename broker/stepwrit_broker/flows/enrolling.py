"""Whose passkey is whose: an operator invites, whoever opens the invitation proposes, the operator approves.

The invitation proves nothing of who opened it. What makes a passkey count is that the operator hears its
fingerprint from the person, and types it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwrit.digest import DigestError, b64u, unb64u
from stepwrit_broker.core import ids
from stepwrit_broker.core.authenticator import Authenticator, Verb, key_id
from stepwrit_broker.core.errors import Malformed, Refused, Unavailable
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.plain import plain
from stepwrit_broker.flows import attempts
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.passkeys import handle_of
from stepwrit_broker.ports import Evidence, Happening, InForce, ProofUse
from stepwrit_broker.ports_approval import DecideCommand, Passkeys, ProposeCommand

INVITED_S: Final = 900.0
LABEL_MAX: Final = 60
NAME_MAX: Final = 64
_CONTEXT: Final = "invitation"
_TRY: Final = "propose"
_LONGEST: Final = 4_000  # characters of an invitation


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """For one person, once, until then (seconds since the epoch). by: the operator."""

    id: str
    owner: Identity
    until: float
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """An invitation and where it leads. The link holds it behind the `#`: it is in no log of a server."""

    invitation: Invitation
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What whoever opened an invitation is shown. person: whom it is for. options: for the browser."""

    invitation: Invitation
    person: str
    nonce: bytes = field(repr=False)
    options: Mapping[str, object] = field(repr=False)


async def invite(house: House, by: str, owner: Identity, reason: str) -> Invited:
    """Invite a person to propose a passkey. Raises Malformed for an issuer that nobody here comes from."""
    _check_issuer(house.settings.now_in_force(), owner)
    now, ref = house.clock.now(), house.ref()
    name = ids.crockford(house.entropy.bytes(ids.RANDOM_BYTES), 26)
    made = Invitation(id=name, owner=owner, until=float(int(now + INVITED_S)), by=by)
    said: dict[str, object] = {
        "invitation": name, "person": house.opaque(owner), "by": by, "reason": reason, "until": made.until
    }  # fmt: skip
    entry = Happening(
        kind="authenticator.invited", ref=ref, tenant=None, txn=None, evidence=Evidence(facts=said), now=now
    )
    await house.store.record(entry)
    text = json.dumps([name, owner.issuer, owner.subject, made.until, by])
    sealed = b64u(house.sealer.seal(text.encode(), _CONTEXT))
    return Invited(invitation=made, url=f"{house.issuer}/authenticators/new#{sealed}")


def _check_issuer(force: InForce, owner: Identity) -> None:
    clients = {client.issuer for entry in force.registry.entries for client in entry.clients}
    listed = {each.issuer for theirs in force.registry.persons.links.values() for each in theirs}
    known = sorted(clients | listed)
    if owner.issuer not in known:
        raise Malformed(
            "invalid_request", f"nobody here comes from this issuer; there is {', '.join(known) or 'none'}"
        )


async def open_invitation(house: House, passkeys: Passkeys, sealed: str) -> Opened:
    """What a browser is asked to make. Raises Refused(`not_found`, `expired_token`)."""
    invitation = _read(house, sealed)
    owner = invitation.owner
    tried = attempts.begin(house, _TRY, invitation.id)
    known = [each.credential for each in await house.approvals.authenticators(owner) if each.credential]
    name = house.settings.now_in_force().registry.persons.name(owner) or owner.subject
    person = plain(name)
    options = passkeys.creation(
        tried.challenge, handle=handle_of(house, owner), name=person[:NAME_MAX], known=known
    )
    return Opened(invitation=invitation, person=person, nonce=tried.nonce, options=options)


async def propose(
    house: House, passkeys: Passkeys, sealed: str, nonce: bytes, said: str, label: str
) -> Authenticator:
    """A new passkey, `proposed`. Raises Unproven, Refused(`replay`) for a used invitation, Conflict."""
    invitation = _read(house, sealed)
    challenge, use = attempts.end(house, nonce, _TRY, invitation.id)
    new, now = passkeys.registered(said, challenge), house.clock.now()
    made = Authenticator(
        id=key_id(new.public_key),
        owner=invitation.owner,
        kind="passkey",
        public_key=new.public_key,
        credential=new.credential,
        label=_label(label),
        sign_count=new.sign_count,
    )
    used = ProofUse(kind="invitation", key=invitation.id, until=invitation.until)
    command = ProposeCommand(
        authenticator=made,
        who=house.opaque(invitation.owner),
        proofs=(used, use),
        evidence=Evidence(facts={"invitation": invitation.id, "invited_by": invitation.by}),
        ref=house.ref(),
        now=now,
    )
    return await house.approvals.propose(command)


async def decide(
    house: House, by: str, name: str, verb: Verb, reason: str, fingerprint: str | None = None
) -> Authenticator:
    """An operator's word. To approve takes the fingerprint that the person read to them.

    Raises Refused(`not_found`, `access_denied`), Conflict(`wrong_state`).
    """
    found = await house.approvals.authenticator(name)
    if found is None:
        raise Refused("not_found", "no such authenticator")
    if verb == "approve" and _letters(fingerprint or "") != _letters(found.fingerprint):
        raise Refused(
            "access_denied",
            "this is not its fingerprint: somebody else may have used the invitation; retire it",
            rule="fingerprint",
        )
    command = DecideCommand(
        authenticator=found.id,
        verb=verb,
        by=by,
        reason=reason,
        who=house.opaque(found.owner),
        ref=house.ref(),
        now=house.clock.now(),
    )
    return await house.approvals.decide(command)


async def everybodys(house: House) -> Sequence[Authenticator]:
    """All of them, oldest first."""
    return await house.approvals.authenticators(None)


def _read(house: House, sealed: str) -> Invitation:
    try:
        text = house.sealer.open(unb64u(sealed[:_LONGEST]), _CONTEXT)
    except (DigestError, Unavailable):
        raise Refused("not_found", "this is no invitation of ours; ask for a new one") from None
    name, issuer, subject, until, by = json.loads(text)
    if house.clock.now() >= until:
        raise Refused("expired_token", "this invitation is too old; ask for a new one")
    return Invitation(id=name, owner=Identity(issuer, subject), until=until, by=by)


def _label(text: str) -> str:
    return plain(" ".join(text.split()))[:LABEL_MAX]


def _letters(fingerprint: str) -> str:
    """What is heard and typed: case and separators do not count."""
    return re.sub(r"[^0-9a-z]", "", fingerprint.lower())
