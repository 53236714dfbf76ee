"""What a person does with a passkey: sign in, and sign an approval."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from stepwrit.digest import b64u
from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.flows import approving, attempts
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports_approval import Assertion, Given, Passkeys, PresentCommand

_SIGN_IN = "sign in"


async def of_person(house: House, who: Identity) -> Sequence[Authenticator]:
    """Everything that one person signs with, whichever of their identities it belongs to; oldest first."""
    theirs = house.settings.now_in_force().registry.persons.identities(who)
    found = [each for identity in sorted(theirs) for each in await house.approvals.authenticators(identity)]
    return sorted(found, key=lambda each: each.proposed_at)


async def usable(house: House, who: Identity) -> list[str]:
    """The credential ids of a person's passkeys that count."""
    return [
        each.credential
        for each in await of_person(house, who)
        if each.kind == "passkey" and each.state == "active"
    ]


def begin_sign_in(house: House, passkeys: Passkeys) -> tuple[bytes, Mapping[str, object]]:
    """A nonce and what the browser is asked, of whoever it may be."""
    tried = attempts.begin(house, _SIGN_IN)
    return tried.nonce, passkeys.request(tried.challenge, ())


async def sign_in(house: House, passkeys: Passkeys, nonce: bytes, said: str) -> Authenticator:
    """Whose passkey answered. Raises Unproven(`invalid_proof`), Refused(`access_denied`, `replay`)."""
    challenge, use = attempts.end(house, nonce, _SIGN_IN)
    known = await _known(house, passkeys, said)
    shown = passkeys.asserted(said, challenge, known.public_key)
    _check_handle(house, known, shown)
    await house.approvals.present(
        PresentCommand(
            by=known.owner,
            authenticator=known.id,
            sign_count=shown.sign_count,
            proofs=(use,),
            now=house.clock.now(),
        )
    )
    return known


async def begin_approval(
    house: House, passkeys: Passkeys, who: Identity, name: str
) -> tuple[attempts.Try, Mapping[str, object]]:
    """An attempt at an approval and what the browser is asked. Raises as `approving.begin`."""
    attempt = await approving.begin(house, who, name)
    return attempt, passkeys.request(attempt.challenge, await usable(house, who))


async def approve(
    house: House, passkeys: Passkeys, who: Identity, name: str, nonce: bytes, said: str
) -> ApprovalRecord:
    """Sign an approval with one's own passkey. Raises Unproven, Refused, Conflict."""
    digest = (await approving.view(house, who, name)).record.asked.digest
    challenge, use = await approving.challenge_of(house, who, name, nonce)
    known = await _known(house, passkeys, said)
    if not house.settings.now_in_force().registry.persons.is_same(known.owner, who):
        raise Unproven("invalid_proof", "this passkey is somebody else's", rule="owner")
    shown = passkeys.asserted(said, challenge, known.public_key)
    _check_handle(house, known, shown)
    given = Given(
        by=known.owner,
        method="webauthn",
        digest=digest,
        authenticator=known.id,
        sign_count=shown.sign_count,
        proofs=(use,),
        evidence={**shown.evidence, "nonce": b64u(nonce)},
    )
    return await approving.sign(house, name, given)


async def _known(house: House, passkeys: Passkeys, said: str) -> Authenticator:
    found = await house.approvals.authenticator(passkeys.credential(said))
    if found is None or found.kind != "passkey" or found.state != "active":
        raise Unproven(
            "invalid_proof",
            "this passkey is not registered here, or an operator has not approved it yet",
            rule="authenticator",
            who_can_change_it="the operator (stepwrit authenticators list)",
        )
    return found


def _check_handle(house: House, known: Authenticator, shown: Assertion) -> None:
    """Web Authentication Level 3, section 7.2, step 6."""
    if shown.handle is not None and not hmac.compare_digest(shown.handle, handle_of(house, known.owner)):
        raise Unproven("invalid_proof", "this passkey was made for somebody else", rule="user handle")


def handle_of(house: House, who: Identity) -> bytes:
    """The user handle of a person's passkeys: says nothing of who they are (section 14.6.1)."""
    return house.opaque(who).encode()
